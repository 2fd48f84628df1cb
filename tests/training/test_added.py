"""A cluster split in two and images added to a finished run, by the command."""

import shutil

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn import datasets

from jdiffclust import added, splits
from jdiffclust.report import spreadsheet
from tests.helpers import check_error
from tests.training.test_results_table import read

DIGITS = datasets.load_digits().images.astype(np.uint8)


def save(path, image):
  """Writes a digit as a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image * 15).save(path)


@pytest.fixture(scope='module')
def fit(commands, tmp_path_factory):
  """(folder of 60 images, folder of a fit to them)."""
  where = tmp_path_factory.mktemp('added')
  for number in range(60):
    save(where / 'pics' / f'{number:02}.png', DIGITS[number])
  outcome = commands.fit(where / 'run', 'data.source=folder', f'data.path={where}/pics',
                         'data.use_labels=False', 'data.max_images=0')
  assert outcome.code == 0, outcome.err
  return where / 'pics', where / 'run'


@pytest.fixture
def run(fit, tmp_path):
  """A copy of the fit's folder, to be changed."""
  return shutil.copytree(fit[1], tmp_path / 'run')


def column(run, name):
  """A column of results.csv."""
  return [row[name] for row in read(run / 'results.csv')]


def test_split_and_back(commands, run):
  """The members of one cluster are shared out, the others stay; names hold; taken back,
  nothing is left of it."""
  decide = '--mode=decide', f'--workdir={run}'
  names = ('results.csv', 'report.html', 'clusters.csv')
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
  assert table[4] == f"3,{cut.count('3')},"
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
  (run / 'pinned.csv').write_text('file,cluster\n00.png,4\n')
  kept = (run / 'clusters.csv').read_bytes()
  check_error(commands.small(*decide, '--unsplit'), "'4'", 'pinned.csv', '00.png')
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


def test_what_cannot_be_split(commands, run):
  decide = '--mode=decide', f'--workdir={run}'
  check_error(commands.small(*decide, '--split=7'), '--split=7', '0..2')
  check_error(commands.small(*decide, '--split=cats'), "'cats'")
  check_error(commands.small(*decide, '--unsplit'), 'no split')
  check_error(commands.small(*decide, '--split=1', '--unsplit'), 'one of them')
  check_error(commands.small('--mode=sort', f'--workdir={run}', '--split=1'), 'decide')
  (run / 'clusters.csv').write_text('cluster,name\n0,One\n1,one\n')
  check_error(commands.small(*decide, '--split=one'), '0, 1', "'One'")
  (run / 'clusters.csv').unlink()
  few = [f'{number:02}.png,2\n' for number in range(60)]
  (run / 'pinned.csv').write_text('file,cluster\n' + ''.join(few))
  (run / splits.FILE).write_bytes(b'x')
  check_error(commands.small(*decide), splits.FILE, 'damaged')
  arrays = splits.none_of(3, ['x.png'], [1]).one_more(1, np.ones(1))
  splits.write(run, arrays)
  check_error(commands.small(*decide), splits.FILE, "'00.png'")
  (run / splits.FILE).unlink()
  (run / 'gallery.npz').unlink()
  check_error(commands.small(*decide, '--split=1'), 'gallery.npz', 'evaluate')


def test_added_to_a_run(commands, fit, run, tmp_path):
  """As `predict` tells them, beside the old ones, which stay; sorted, found, pinned,
  told anew by other weights, and taken back."""
  pics, new = fit[0], tmp_path / 'new'
  save(new / '00.png', DIGITS[70])  # a name that is taken
  save(new / 'copy.png', DIGITS[5])
  save(new / 'b' / 'x.png', DIGITS[71])
  save(new / '07.png', DIGITS[7])  # there already
  of_new = '--config.data.source=folder', f'--config.data.path={new}'
  old = read(run / 'results.csv')
  assert set(column(run, 'added')) == {'no'}
  add = '--mode=add', f'--workdir={run}'
  check_error(commands.small(*add, '--undo'), 'nothing to undo')
  outcome = commands.small(*add, *of_new)
  assert outcome.code == 0, outcome.err
  assert '1 images of folder' in outcome.err and 'not added again' in outcome.err
  assert '3 images of folder' in outcome.out and '1 to the pixel' in outcome.out
  assert "'new/00.png'" in outcome.err
  rows = read(run / 'results.csv')
  assert [row['file'] for row in rows[60:]] == ['new/00.png', 'b/x.png', 'copy.png']
  for one, other in zip(old, rows):
    assert {**one, 'rank': ''} == {**other, 'rank': ''}
  for q in '012':
    ranks = sorted(int(row['rank']) for row in rows if row['cluster'] == q)
    assert ranks == list(range(1, len(ranks) + 1))
  assert [row['added'] for row in rows[60:]] == ['yes'] * 3
  assert (rows[62]['duplicate_of'], rows[62]['duplicate']) == ('05.png', 'exact')
  (new / '07.png').unlink()  # so that an image's draws are the same
  assert commands.small('--mode=predict', f'--workdir={run}', *of_new).code == 0
  told = read(run / 'results_new.csv')
  for one, other in zip(told, rows[60:]):
    for name in ('cluster', 'probability', 'second', 'bound', 'typicality', 'foreign',
                 'why', 'x', 'y', 'neighbor_files', 'neighbor_distances', 'duplicate_of'):
      assert one[name] == other[name]
  table = pyarrow.parquet.read_table(run / 'results.parquet').to_pydict()
  assert table['image'][62]['bytes'] == table['image'][5]['bytes']
  assert table['neighbors'][62]['ids'][0] == 5
  outcome = commands.small(*add, *of_new)
  assert outcome.code == 0 and 'nothing is changed' in outcome.out
  # Found, by pictures of either kind; pinned; sorted.
  outcome = commands.small('--mode=similar', f'--workdir={run}', '--image=05.png')
  assert outcome.out.splitlines()[2].split()[::3] == ['0.000', 'copy.png']
  (run / 'pinned.csv').write_text('file,cluster\nb/x.png,2\n')
  assert commands.small('--mode=decide', f'--workdir={run}', '--split=2').code == 0
  parts = column(run, 'cluster')
  assert parts[61] == '2' and '3' in parts
  outcome = commands.small('--mode=sort', f'--workdir={run}', '--action=copy')
  assert outcome.code == 0 and '63 files went' in outcome.out, outcome.err
  laid = {path.relative_to(run / 'sorted') for path in (run / 'sorted').rglob('*.png')}
  assert len(laid) == 63 and 'x.png' in {path.name for path in laid if
                                         str(path.parent) == 'cluster 2'}
  assert commands.small('--mode=sort', f'--workdir={run}', '--action=undo').code == 0
  # The folder of the run has grown: the new image alone is added, by itself.
  save(pics / 'zz.png', DIGITS[72])
  assert commands.small(*add, '--config.data.source=folder',
                        f'--config.data.path={pics}').code == 0
  assert column(run, 'file')[60:] == ['new/00.png', 'b/x.png', 'copy.png', 'zz.png']
  # Other weights: told anew, as far as they are there.
  last = read(run / 'results.csv')
  added.write(run, added.read(run)._replace(weights='others'))
  check_error(commands.small(*add, *of_new), 'evaluate')
  shutil.move(new / 'b', tmp_path / 'away')
  evaluate = '--mode=evaluate', f'--workdir={run}', '--config.quality.num_images=0'
  outcome = commands.small(*evaluate)
  assert outcome.code == 0 and '1 of 4 images that were added' in outcome.err
  assert column(run, 'file')[60:] == ['new/00.png', 'copy.png', 'zz.png']
  shutil.move(tmp_path / 'away', new / 'b')
  assert commands.small(*evaluate).code == 0
  again = read(run / 'results.csv')
  for name in ('file', 'cluster', 'foreign', 'duplicate_of'):
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
  assert not (run / added.FILE).exists()


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
