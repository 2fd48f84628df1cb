"""results.csv and .parquet of a fit and of new images, by the command."""

import csv
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn import datasets

from jdiffclust.data.by_name import as_given
from tests.helpers import check_error

IMAGES = datasets.load_digits().images[:60].astype(np.uint8)
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
      f'data.labels={folder}/true.csv', f'data.metadata={folder}/plates.csv')
  assert outcome.code == 0, outcome.err
  assert 'true.csv: 10 of 60 images have no row' in outcome.err
  assert "plates.csv: 1 rows are of no image here (such as '77')" in outcome.err
  assert 'ACC' in outcome.out
  assert '1 images repeat others, 1 of them to the pixel' in outcome.err
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


@pytest.fixture(scope='module')
def folder(commands, tmp_path_factory):
  """(folder of images, folder of a fit to them)."""
  where = tmp_path_factory.mktemp('files')
  for number, image in enumerate(IMAGES):
    path = where / 'pics' / 'ab'[number % 2] / f'{number:02}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image * 15).save(path)
  outcome = commands.fit(where / 'run', 'data.source=folder', f'data.path={where}/pics',
                         'data.use_labels=False', 'data.max_images=0')
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


def test_nearest_images(commands, folder):
  """Of an id of the run as in its results; of a file, itself first."""
  pics, run = folder
  similar = '--mode=similar', f'--workdir={run}'
  rows = {row['file']: row for row in read(run / 'results.csv')}
  outcome = commands.small(*similar, '--image=08.png')
  assert outcome.code == 0, outcome.err
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
