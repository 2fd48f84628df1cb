"""results.csv and .parquet of a fit and of new images, by the command; what a person
makes of them: decisions, splits, images that are added, folders."""

import base64
import csv
import io
import json
import re
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn import datasets

from jdiffclust import added, deciding, splits
from jdiffclust.data.by_name import as_given
from jdiffclust.report import spreadsheet
from tests.helpers import check_error

DIGITS = datasets.load_digits().images.astype(np.uint8)
IMAGES = DIGITS[:60]
TRUE = datasets.load_digits().target[:60]


def read(path):
  """The rows of a CSV as Excel would have it."""
  with open(path, newline='', encoding='utf-8-sig') as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def run(commands, tmp_path_factory):
  """The folder of a fit of 60 images, the last of which repeats the first."""
  folder = tmp_path_factory.mktemp('table')
  np.savez(folder / 'x.npz', images=np.concatenate([IMAGES[:59], IMAGES[:1]]))
  (folder / 'true.csv').write_text('file;label\n' + ''.join(
      f'{i};no. {label}\n' for i, label in enumerate(TRUE[:50])))
  (folder / 'plates.csv').write_text('id,plate,rank\n0,P1,=1\n59,P2,b\n77,P3,c\n')
  outcome = commands.fit(
      folder / 'run', 'data.source=npz', f'data.path={folder}/x.npz', 'data.max_images=0',
      f'data.labels={folder}/true.csv', f'data.metadata={folder}/plates.csv',
      'e_step.batch_size=2')  # so that two new images need no other program
  assert outcome.code == 0, outcome.err
  assert 'true.csv: 10 of 60 images have no row' in outcome.err
  assert "plates.csv: 1 rows are of no image here (such as '77')" in outcome.err
  assert 'ACC' in outcome.out
  assert '1 image repeats another, 1 of them to the pixel' in outcome.err
  return folder / 'run'


def test_of_a_fit(run):
  """It agrees with tau and with assignments.csv; labels and columns by name."""
  rows, tau = read(run / 'results.csv'), np.load(run / 'responsibilities.npy')
  assert [row['file'] for row in rows] == [str(i) for i in range(60)]
  for name, values in (('cluster', np.argsort(-tau)[:, 0]),
                       ('second', np.argsort(-tau)[:, 1])):
    np.testing.assert_array_equal([int(row[name]) for row in rows], values)
  np.testing.assert_allclose([float(row['second_probability']) for row in rows],
                             np.sort(tau)[:, 1], atol=1e-6)
  short = read(run / 'assignments.csv')
  for name in ('cluster', 'probability', 'label'):
    assert [row[name] for row in rows] == [row[name] for row in short]
  assert rows[3]['label'] == f'no. {TRUE[3]}' and rows[55]['label'] == ''
  assert (rows[59]['duplicate_of'], rows[59]['duplicate']) == ('0', 'exact')
  assert sum(bool(row['duplicate_of']) for row in rows) == 1
  assert rows[0]['plate'] == 'P1' and rows[1]['plate'] == ''
  assert [rows[i]['metadata_rank'] for i in (0, 59)] == ["'=1", 'b']
  typical = np.array([float(row['typicality']) for row in rows])
  np.testing.assert_allclose(np.sort(typical)[::7], np.arange(0, 60, 7) / 60, atol=.03)
  # The nearest of the first is its copy, and the other way round.
  assert rows[0]['neighbor_files'].split('; ')[0] == '59'
  assert float(rows[59]['neighbor_distances'].split('; ')[0]) == 0
  table = pyarrow.parquet.read_table(run / 'results.parquet').to_pydict()
  assert table['file'] == [row['file'] for row in rows]
  assert table['neighbors'][0]['ids'][0] == 59 and len(table['neighbors'][0]['ids']) == 10
  assert table['image'][0]['bytes'].startswith(b'\x89PNG')
  assert table['metadata_rank'][0] == '=1'


def test_of_new_images(commands, run, tmp_path):
  """Beside those of the run; the fit's labels and plates are not theirs."""
  np.savez(tmp_path / 'new.npz', images=np.stack([IMAGES[5], IMAGES[59]]))
  outcome = commands.small('--mode=predict', f'--workdir={run}',
                           f'--config.data.path={tmp_path}/new.npz',
                           '--config.data.range=(0,16)')
  assert outcome.code == 0, outcome.err
  assert 'results_new.csv' in outcome.out and 'plates.csv' not in outcome.err
  rows, short = read(run / 'results_new.csv'), read(run / 'predictions.csv')
  for name in ('cluster', 'probability', 'typicality', 'foreign', 'why'):
    assert [row[name] for row in rows] == [row[name] for row in short]
  assert [(row['duplicate_of'], row['duplicate']) for row in rows] == [
      ('5', 'exact'), ('', '')]
  of_fit = read(run / 'results.csv')[5]
  assert rows[0]['neighbor_files'].split('; ')[0] == '5'
  assert rows[0]['neighbor_files'].split('; ')[1:] == of_fit['neighbor_files'].split(
      '; ')[:9]
  assert as_given(rows[0]['x']) == of_fit['x'] and 'plate' not in rows[0]
  table = pyarrow.parquet.read_table(run / 'results_new.parquet')
  assert 'neighbors' not in table.column_names  # rows of another table
  (run / 'gallery.npz').rename(tmp_path / 'gallery.npz')
  try:
    outcome = commands.small('--mode=predict', f'--workdir={run}',
                             f'--config.data.path={tmp_path}/new.npz',
                             '--config.data.range=(0,16)')
  finally:
    (tmp_path / 'gallery.npz').rename(run / 'gallery.npz')
  assert outcome.code == 0 and 'that is not written' in outcome.err
  assert not list(run.glob('results_new.*'))  # those of before were of other images


def test_tables_that_are_wrong(commands, tmp_path):
  """Before anything is fitted."""
  (tmp_path / 'x.csv').write_text('file,label\nz.png,cat\n')
  for name in ('labels', 'metadata'):
    outcome = commands.fit(tmp_path / 'run', f'data.{name}={tmp_path}/x.csv')
    check_error(outcome, f'config.data.{name}', "'z.png'", "the images '")
  assert not (tmp_path / 'run').exists()


def test_decided_by_hand(commands, run, tmp_path):
  """Names and pins show in results, report and samples; removed, nothing is left of
  them; the model's own files stay as they are."""
  run = shutil.copytree(run, tmp_path / 'run')
  names = ('results.csv', 'report.html', 'assignments.csv', 'summary.json')
  before = {name: (run / name).read_bytes() for name in names}
  template = (run / 'clusters.csv').read_bytes()
  (run / 'clusters.csv').write_text('cluster,name\n0,Eights\n2,<b>\n')
  (run / 'pinned.csv').write_text('file,cluster\n7,eights\n')
  decide = '--mode=decide', f'--workdir={run}'
  outcome = commands.small(*decide)
  assert outcome.code == 0 and '2 of 3 clusters have a name' in outcome.out
  rows, tau = read(run / 'results.csv'), np.load(run / 'responsibilities.npy')
  expected = tau.argmax(axis=1)
  expected[7] = 0
  names_of = {0: 'Eights', 1: 'cluster 1', 2: '<b>'}
  assert [row['name'] for row in rows] == [names_of[q] for q in expected]
  assert [row['file'] for row in rows if row['pinned'] == 'yes'] == ['7']
  page = (run / 'report.html').read_text(encoding='utf-8')
  assert 'What you decided' in page and 'Eights' in page and '<b>' not in page
  for name in names[2:]:
    assert (run / name).read_bytes() == before[name]
  outcome = commands.small('--mode=sample', f'--workdir={run}',
                           '--config.sample.num_images=1',
                           '--config.sample.clusters=eights')
  assert outcome.code == 0, outcome.err
  assert np.load(run / 'samples.npy').shape == (1, 1, 8, 8, 1)
  outcome = commands.small('--mode=sample', f'--workdir={run}',
                           '--config.sample.clusters=my nines,1')
  check_error(outcome, "'my nines'", 'Eights')
  (run / 'clusters.csv').write_bytes(template)
  (run / 'pinned.csv').unlink()
  assert commands.small(*decide).code == 0
  for name in names:
    assert (run / name).read_bytes() == before[name]
  (run / 'clusters.csv').write_text('cluster,name\n9,cat\n')
  for mode in ('decide', 'evaluate', 'predict'):
    check_error(commands.small(f'--mode={mode}', f'--workdir={run}'), "'9'", '0..2')


def save(path, image):
  """Writes a digit as a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image * 15).save(path)


@pytest.fixture(scope='module')
def folder(commands, tmp_path_factory):
  """(folder of images, folder of a fit to them)."""
  where = tmp_path_factory.mktemp('files')
  for number, image in enumerate(IMAGES):
    save(where / 'pics' / 'ab'[number % 2] / f'{number:02}.png', image)
  outcome = commands.fit(where / 'run', 'data.source=folder', f'data.path={where}/pics',
                         'data.use_labels=False', 'data.max_images=0',
                         'e_step.batch_size=1')  # one program, however many are added
  assert outcome.code == 0, outcome.err
  return where / 'pics', where / 'run'


def test_sorted_into_folders(commands, folder):
  """By cluster, with the names that they were given; told first, and taken back."""
  pics, run = folder
  before = sorted(path for path in pics.rglob('*'))
  (run / 'clusters.csv').write_text('cluster,name\n1,Ones & more\n')
  sort = '--mode=sort', f'--workdir={run}'
  outcome = commands.small(*sort, '--action=move', '--dry-run')
  assert outcome.code == 0 and '60 files would go into 3 folders' in outcome.out
  assert sorted(path for path in pics.rglob('*')) == before
  outcome = commands.small(*sort, '--action=move')
  assert outcome.code == 0, outcome.err
  tau = np.load(run / 'responsibilities.npy')
  ids = [row['id'] for row in read(run / 'assignments.csv')]
  expected = {f"{('cluster 0', 'Ones & more', 'cluster 2')[q]}/{name[2:]}"
              for name, q in zip(ids, tau.argmax(axis=1))}
  assert {str(path.relative_to(run / 'sorted'))
          for path in (run / 'sorted').rglob('*.png')} == expected
  check_error(commands.small(*sort, '--action=copy'), '--action=undo')
  there = sorted(path for path in run.rglob('*'))
  outcome = commands.small(*sort, '--action=undo', '--dry-run')
  assert outcome.code == 0 and 'would be as they were' in outcome.out
  assert sorted(path for path in run.rglob('*')) == there
  outcome = commands.small(*sort, '--action=undo')
  assert outcome.code == 0 and '60 of 60' in outcome.out
  assert sorted(path for path in pics.rglob('*')) == before
  assert not (run / 'sorted').exists()
  (run / 'clusters.csv').unlink()


def test_what_sort_and_similar_refuse(commands, folder, run):
  """Without an action, of images that are no files, a flag of another command."""
  sort = '--mode=sort', f'--workdir={folder[1]}'
  check_error(commands.small(*sort), '--action is missing', 'copy, link, move, undo')
  check_error(commands.small(*sort, '--action=rename'), "'rename'")
  check_error(commands.small(*sort, '--action=undo'), 'nothing to undo')
  check_error(commands.small('--mode=sort', f'--workdir={run}', '--action=copy'), "'npz'")
  check_error(commands.small('--mode=predict', f'--workdir={run}', '--action=copy'),
              '--mode=sort')
  similar = '--mode=similar', f'--workdir={folder[1]}'
  check_error(commands.small(*similar), '--image is missing')
  check_error(commands.small(*similar, '--image=x.png'), 'x.png', "'a/00.png'")


def test_an_id_of_the_run_that_names_a_file_here_too(commands, folder, tmp_path,
                                                     monkeypatch):
  """The image of the run is meant, and how to ask for the file is told."""
  pics, run = folder
  (tmp_path / 'a').mkdir()
  shutil.copy(pics / 'b' / '05.png', tmp_path / 'a' / '08.png')
  monkeypatch.chdir(tmp_path)
  similar = '--mode=similar', f'--workdir={run}'
  outcome = commands.small(*similar, '--image=a/08.png')
  assert outcome.code == 0 and 'write ./a/08.png for that' in outcome.err
  assert 'nearest to a/08.png' in outcome.out
  assert 'the file ./a/08.png' in commands.small(*similar, '--image=./a/08.png').out


def test_nearest_images(commands, folder):
  """Of an id of the run as in its results; of a file, itself first."""
  pics, run = folder
  similar = '--mode=similar', f'--workdir={run}'
  rows = {row['file']: row for row in read(run / 'results.csv')}
  outcome = commands.small(*similar, '--image=08.png')
  assert outcome.code == 0, outcome.err
  assert './08.png' not in outcome.err
  lines = outcome.out.splitlines()
  assert [line.split()[-1] for line in lines[2:]] == (
      rows['a/08.png']['neighbor_files'].split('; '))
  assert [line.split()[-2] for line in lines[2:]] == [
      rows[line.split()[-1]]['cluster'] for line in lines[2:]]
  away = rows['a/08.png']['neighbor_distances'].split('; ')
  np.testing.assert_allclose([float(line.split()[0]) for line in lines[2:]],
                             [float(value) for value in away], atol=.005)
  outcome = commands.small(*similar, f'--image={pics}/a/08.png')
  assert outcome.code == 0, outcome.err
  assert [line.split()[-1] for line in outcome.out.splitlines()[2:]] == [
      'a/08.png', *(line.split()[-1] for line in lines[2:-1])]


@pytest.fixture
def copied(folder, tmp_path):
  """A copy of the fit's folder, to be changed."""
  return shutil.copytree(folder[1], tmp_path / 'run')


def on_the_page(run):
  """What the page has of the images, as its script reads it."""
  source = (run / 'report.html').read_text(encoding='utf-8')
  return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>',
                              source, re.DOTALL)[1]), source


def column(run, name):
  """A column of results.csv."""
  return [row[name] for row in read(run / 'results.csv')]


def test_split_and_back(commands, copied):
  """The members of one cluster are shared out, the others stay; names hold; taken back,
  nothing is left of it."""
  run = copied
  decide = '--mode=decide', f'--workdir={run}'
  names = ('results.csv', 'report.html', 'clusters.csv')
  (run / 'clusters.csv').write_text('cluster,images,name\n0,,\n')
  assert commands.small(*decide).code == 0  # the report has its figures by name now
  before = {name: (run / name).read_bytes() for name in names}
  first, tau = column(run, 'cluster'), np.load(run / 'responsibilities.npy')
  largest = max('012', key=first.count)
  outcome = commands.small(*decide, f'--split={largest}')
  assert outcome.code == 0, outcome.err
  cut, rows = column(run, 'cluster'), read(run / 'results.csv')
  assert [largest if q == '3' else q for q in cut] == first
  assert cut.count(largest) >= cut.count('3') > 0
  assert f"{cut.count('3')} are cluster 3 now" in outcome.out
  share = splits.read(run, 3).shares[:, 0]
  for row, part, of in zip(rows, share, tau[:, int(largest)]):
    if row['cluster'] in (largest, '3'):
      own = part if row['cluster'] == '3' else 1 - part
      assert abs(float(row['probability']) - own * of) < 2e-6
  assert column(run, 'model_cluster') == first
  table = (run / 'clusters.csv').read_text('utf-8-sig').splitlines()
  assert table[-1] == f"3,{cut.count('3')},"
  (run / 'clusters.csv').write_text(f'cluster,name\n{largest},Big\n3,big\n')
  assert commands.small(*decide).code == 0
  assert column(run, 'cluster') == first
  (run / 'clusters.csv').write_text(f'cluster,name\n{largest},Big\n3,Small\n')
  sample = '--mode=sample', f'--workdir={run}', '--config.sample.num_images=1'
  check_error(commands.small(*sample, '--config.sample.clusters=small'), "'small'",
              f'cluster {largest}', 'split')
  outcome = commands.small(*decide, '--split=small')
  assert outcome.code == 0 and "'Small' (cluster 3) was split" in outcome.out
  assert set(column(run, 'cluster')) == {*first, '3', '4'}
  (run / 'pinned.csv').write_text('file,cluster\na/00.png,4\n')
  kept = (run / 'clusters.csv').read_bytes()
  check_error(commands.small(*decide, '--unsplit'), "'4'", 'pinned.csv', 'a/00.png')
  assert (run / 'clusters.csv').read_bytes() == kept
  (run / 'pinned.csv').write_text('file,cluster\n')
  assert commands.small(*decide, '--unsplit').code == 0
  outcome = commands.small(*decide, '--unsplit')
  assert outcome.code == 0 and "its name 'Small'" in outcome.out
  (run / 'clusters.csv').write_bytes(before['clusters.csv'])
  assert commands.small(*decide).code == 0
  for name in names[:2]:
    assert (run / name).read_bytes() == before[name]
  assert not (run / splits.FILE).exists()


def test_what_cannot_be_split(commands, copied):
  run = copied
  decide = '--mode=decide', f'--workdir={run}'
  check_error(commands.small(*decide, '--split=7'), '--split=7', '0..2')
  check_error(commands.small(*decide, '--split=cats'), "'cats'")
  check_error(commands.small(*decide, '--unsplit'), 'no split')
  check_error(commands.small(*decide, '--split=1', '--unsplit'), 'one of them')
  check_error(commands.small('--mode=sort', f'--workdir={run}', '--split=1'), 'decide')
  (run / 'clusters.csv').write_text('cluster,name\n0,One\n1,one\n')
  check_error(commands.small(*decide, '--split=one'), '0, 1', "'One'")
  (run / 'clusters.csv').unlink()
  (run / splits.FILE).write_bytes(b'x')
  check_error(commands.small(*decide), splits.FILE, 'damaged')
  arrays = splits.none_of(3, ['x.png'], [1]).one_more(1, np.ones(1))
  splits.write(run, arrays)
  check_error(commands.small(*decide), splits.FILE, "'a/00.png'")
  (run / splits.FILE).unlink()
  (run / 'gallery.npz').unlink()
  check_error(commands.small(*decide, '--split=1'), 'gallery.npz', 'evaluate')


def test_added_to_a_run(commands, folder, copied, tmp_path, monkeypatch):
  """As `predict` tells them, beside the old ones, which stay; sorted, found, pinned,
  told anew by other weights, and taken back."""
  pics, run, new = folder[0], copied, tmp_path / 'new'
  save(new / 'a' / '00.png', DIGITS[70])  # a name that is taken
  save(new / 'copy.png', DIGITS[5])
  save(new / 'c' / 'x.png', DIGITS[71])
  save(new / 'b' / '07.png', DIGITS[7])  # there already
  of_new = '--config.data.source=folder', f'--config.data.path={new}'
  old = read(run / 'results.csv')
  assert set(column(run, 'added')) == {'no'}
  add = '--mode=add', f'--workdir={run}'
  check_error(commands.small(*add, '--undo'), 'nothing to undo')
  outcome = commands.small(*add, *of_new)
  assert outcome.code == 0, outcome.err
  assert '1 images of folder' in outcome.err and 'not added again' in outcome.err
  assert '3 images of folder' in outcome.out and '1 to the pixel' in outcome.out
  assert "'new/a/00.png'" in outcome.err
  rows = read(run / 'results.csv')
  assert [row['file'] for row in rows[60:]] == ['new/a/00.png', 'c/x.png', 'copy.png']
  for one, other in zip(old, rows):
    assert {**one, 'rank': ''} == {**other, 'rank': ''}
  for q in '012':
    ranks = sorted(int(row['rank']) for row in rows if row['cluster'] == q)
    assert ranks == list(range(1, len(ranks) + 1))
  assert [row['added'] for row in rows[60:]] == ['yes'] * 3
  assert (rows[62]['duplicate_of'], rows[62]['duplicate']) == ('b/05.png', 'exact')
  shown, source = on_the_page(run)
  assert shown['added'] == 3 and shown['file'] == [row['file'] for row in rows]
  assert [str(q) for q in shown['cluster']] == [row['cluster'] for row in rows]
  sheet = re.search(r'[.]t-added-0 .*?base64,(.*?)[)]', source)[1]
  pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet))).convert('L'))
  for place, digit in enumerate((70, 71, 5)):  # in the order of rows: its originals
    np.testing.assert_array_equal(pixels[:8, 8 * place:8 * place + 8], DIGITS[digit] * 15)
  (new / 'b' / '07.png').unlink()
  assert commands.small('--mode=predict', f'--workdir={run}', *of_new).code == 0
  told = read(run / 'results_new.csv')
  for one, other in zip(told, rows[60:]):
    for name in ('cluster', 'probability', 'second', 'bound', 'typicality', 'foreign',
                 'why', 'x', 'y', 'neighbor_files', 'neighbor_distances', 'duplicate_of'):
      assert one[name] == other[name]
  table = pyarrow.parquet.read_table(run / 'results.parquet').to_pydict()
  same = table['file'].index('b/05.png')
  assert table['image'][62]['bytes'] == table['image'][same]['bytes']
  assert table['neighbors'][62]['ids'][0] == same
  outcome = commands.small(*add, *of_new)
  assert outcome.code == 0 and 'nothing is changed' in outcome.out
  # Found, by pictures of either kind; pinned; sorted.
  outcome = commands.small('--mode=similar', f'--workdir={run}', '--image=b/05.png')
  assert outcome.out.splitlines()[2].split()[::3] == ['0.000', 'copy.png']
  # Taken back by another command while the table has been read: as it was then.
  kept, gallery_of = (run / 'added.parquet').read_bytes(), deciding.read_gallery

  def undone(*args):
    (run / 'added.parquet').unlink()
    return gallery_of(*args)

  with monkeypatch.context() as patch:
    patch.setattr(deciding, 'read_gallery', undone)
    again = commands.small('--mode=similar', f'--workdir={run}', '--image=b/05.png')
  assert again == outcome
  (run / 'added.parquet').write_bytes(kept)
  (run / 'pinned.csv').write_text('file,cluster\nc/x.png,2\n')
  assert commands.small('--mode=decide', f'--workdir={run}', '--split=2').code == 0
  check_error(commands.small(*add, '--undo'), "'c/x.png'", 'pinned')
  parts = column(run, 'cluster')
  assert parts[61] == '2' and '3' in parts
  shown, _ = on_the_page(run)
  assert [str(q) for q in shown['cluster']] == parts and shown['pinned'] == [61]
  outcome = commands.small('--mode=sort', f'--workdir={run}', '--action=copy')
  assert outcome.code == 0 and '63 files went' in outcome.out, outcome.err
  laid = {path.relative_to(run / 'sorted') for path in (run / 'sorted').rglob('*.png')}
  assert len(laid) == 63 and 'x.png' in {path.name for path in laid if
                                         str(path.parent) == 'cluster 2'}
  assert commands.small('--mode=sort', f'--workdir={run}', '--action=undo').code == 0
  # Several files are listed, until they are taken back; they are files as any other.
  several = [tmp_path / 'more' / name for name in ('p.png', 'q.png')]
  for path, digit in zip(several, DIGITS[73:75]):
    save(path, digit)
  outcome = commands.small(*several, *add)
  assert outcome.code == 0 and '2 images of files:more added' in outcome.out, outcome.err
  assert column(run, 'file')[63:] == ['p.png', 'q.png']
  assert len(list(run.glob('files_added_*.json'))) == 1
  outcome = commands.small('--mode=sort', f'--workdir={run}', '--action=move')
  assert outcome.code == 0 and '65 files went' in outcome.out, outcome.err
  assert not several[0].exists()
  assert commands.small('--mode=sort', f'--workdir={run}', '--action=undo').code == 0
  assert several[0].exists() and commands.small(*add, '--undo').code == 0
  assert not list(run.glob('files_added_*.json'))
  # The folder of the run has grown: the new image alone is added, by itself.
  save(pics / 'zz.png', DIGITS[72])
  assert commands.small(*add, '--config.data.source=folder',
                        f'--config.data.path={pics}').code == 0
  assert column(run, 'file')[60:] == ['new/a/00.png', 'c/x.png', 'copy.png', 'zz.png']
  # Other weights: told anew, as far as they are there.
  last = read(run / 'results.csv')
  added.write(run, added.read(run)._replace(weights='others'))
  check_error(commands.small(*add, *of_new), 'evaluate')
  shutil.move(new / 'c', tmp_path / 'away')
  outcome = commands.small('--mode=evaluate', f'--workdir={run}',
                           '--config.quality.num_images=0')
  assert outcome.code == 0 and '1 of 4 images that were added' in outcome.err
  assert column(run, 'file')[60:] == ['new/a/00.png', 'copy.png', 'zz.png']
  again = read(run / 'results.csv')
  assert on_the_page(run)[0]['file'] == column(run, 'file')
  del last[61]
  for name in ('file', 'cluster', 'foreign', 'duplicate_of', 'neighbor_files'):
    assert [row[name] for row in again] == [row[name] for row in last]
  (run / 'pinned.csv').write_text('file,cluster\nzz.png,2\n')
  check_error(commands.small(*add, '--undo'), "'zz.png'", 'pinned.csv')
  (run / 'pinned.csv').unlink()
  assert commands.small('--mode=decide', f'--workdir={run}', '--unsplit').code == 0
  for count in (1, 3):
    outcome = commands.small(*add, '--undo')
    assert outcome.code == 0 and f'{count} images were taken back' in outcome.out
  for name in ('file', 'added', 'neighbor_files', 'duplicate_of', 'x'):
    assert column(run, name) == [row[name] for row in old]
  shown, source = on_the_page(run)
  assert shown['file'] == column(run, 'file') and shown['added'] == 0
  assert 't-added' not in source and not (run / added.FILE).exists()


def test_cut_off_and_given_again(commands, copied, tmp_path, monkeypatch):
  """What was decided is done once, not once more; images that are added are shown."""
  run, new = copied, tmp_path / 'new'
  save(new / 'x.png', DIGITS[70])
  number = len(column(run, 'file'))
  (run / 'figures').mkdir(exist_ok=True)
  (run / 'figures' / '.loss.1.png').write_bytes(b'half of a figure of a killed process')

  def stop(*args):
    raise KeyboardInterrupt

  for words in (['--mode=decide', '--split=2'], ['--mode=decide', '--unsplit'],
                [new, '--mode=add'], ['--mode=add', '--undo']):
    with monkeypatch.context() as patched:
      patched.setattr(deciding, 'write_table', stop)
      assert commands.small(*words, f'--workdir={run}').code == 130
    outcome = commands.small(*words, f'--workdir={run}')
    assert outcome.code == 0, outcome.err
    assert (run / splits.FILE).exists() == ('--split=2' in words)
    assert ('3' in column(run, 'cluster')) == ('--split=2' in words)
    assert len(column(run, 'file')) == number + (words[0] == new)
    assert b'.loss.1' not in (run / 'report.html').read_bytes()


def test_names_that_are_taken():
  """With the folder, and with a number if that is taken, too."""
  taken = ['a.png', 'new/b.png', 'b.png']
  assert added.distinct(['a.png', 'b.png', 'c.png', 'c.png'], taken, 'new') == [
      'new/a.png', 'new/b 2.png', 'c.png', 'new/c.png']


def test_one_table_below_the_other():
  """Cells that one of them lacks are empty; pictures are of all or of none."""
  one = {'file': ['a'], 'probabilities': np.ones((1, 2)), 'x': [1.], 'image': [b'']}
  more = {'file': ['b'], 'probabilities': np.zeros((1, 2)), 'plate': ['P']}
  found = spreadsheet.one_below_the_other(one, more)
  assert found.pop('probabilities').tolist() == [[1, 1], [0, 0]]
  assert found == {'file': ['a', 'b'], 'x': [1., None], 'plate': [None, 'P']}
