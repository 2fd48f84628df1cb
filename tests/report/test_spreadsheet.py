"""results.csv and results.parquet as others read them."""

import csv
import types

import numpy as np
import pyarrow.parquet

from jdiffclust.data import by_name
from jdiffclust.decisions import none_of
from jdiffclust.evaluation.gallery import Copies
from jdiffclust.report import spreadsheet
from tests.helpers import refused

IDS = ('=1+1.png', '-ü.png', '@a/b.png', 'plain, "quoted".png')
TAU = np.array([[.5, .3, .2], [.6, .1, .3], [.2, .7, .1], [.5, .25, .25]], np.float32)
BOUND = np.array([-3., -1., -2., -2.])


def test_where_images_belong():
  """Ranks within clusters: by probability, and of equal ones by the bound."""
  found = spreadsheet.assigned(TAU, BOUND, none_of(3, 4))
  assert found['cluster'] == [0, 0, 1, 0] and found['second'] == [1, 2, 0, 1]
  assert found['rank'] == [3, 1, 1, 2]
  np.testing.assert_allclose(found['second_probability'], [.3, .3, .2, .25], rtol=1e-6)
  alone = spreadsheet.assigned(np.ones((2, 1)), np.zeros(2), none_of(1, 2))
  assert alone['second'] == alone['second_probability'] == [None, None]


def columns():
  beside = types.SimpleNamespace(
      near=np.array([[1, 2], [0, 2], [3, 0], [2, 1]]), away=np.arange(8.).reshape(4, 2),
      points=np.arange(8.).reshape(4, 2),
      copies=Copies(np.array([-1, 0, -1, 2]), np.array([0, 1, 0, 0], bool)))
  return spreadsheet.columns_of(
      IDS, TAU, BOUND, none_of(3, 4), np.array([0, .25, .5, .5]),
      (np.array([True, False, False, True]), ['too plain'] * 4), beside, None,
      ['cat', '', 'dog', 'cat'], {'dose': [1, None, -3, 4], 'cluster': list('wxyz'),
                                  'note': ['=A1', None, None, 'ok']}, [b'png'] * 4)


def test_csv(tmp_path):
  """What a spreadsheet would compute is a text; names come back as they were."""
  spreadsheet.write_csv(tmp_path / 'x.csv', columns())
  data = (tmp_path / 'x.csv').read_bytes()
  assert data.startswith(b'\xef\xbb\xbf')
  with open(tmp_path / 'x.csv', newline='', encoding='utf-8-sig') as file:
    rows = list(csv.DictReader(file))
  of = lambda name: [row[name] for row in rows]
  assert not [row for row in rows for name in ('file', 'note', 'duplicate_of')
              if row[name].startswith(by_name.FORMULA)]
  assert tuple(map(by_name.as_given, of('file'))) == IDS
  assert of('note') == ["'=A1", '', '', 'ok'] and of('dose') == ['1', '', '-3', '4']
  assert of('cluster') == list('0010') and of('metadata_cluster') == list('wxyz')
  assert of('foreign') == ['yes', 'no', 'no', 'yes']
  assert of('why') == ['too plain', '', '', 'too plain']
  assert [*map(by_name.as_given, of('duplicate_of'))] == ['', IDS[0], '', IDS[2]]
  assert of('duplicate') == ['', 'exact', '', 'near']
  assert of('label') == ['cat', '', 'dog', 'cat']
  assert of('neighbor_distances')[1] == '2; 3'
  assert 'neighbors' not in rows[0] and 'image' not in rows[0]


def test_parquet_has_types(tmp_path):
  """Texts as they are, numbers, and lists."""
  spreadsheet.write_parquet(tmp_path / 'x.parquet', columns())
  found = pyarrow.parquet.read_table(tmp_path / 'x.parquet').to_pydict()
  assert tuple(found['file']) == IDS
  assert found['dose'] == [1, None, -3, 4] and found['foreign'][:2] == [True, False]
  assert found['neighbors'][1] == {'ids': [0, 2], 'distances': [2., 3.]}
  assert found['neighbor_files'][1] == [IDS[0], IDS[2]]
  np.testing.assert_array_equal(np.array(found['probabilities'], np.float32), TAU)
  assert found['image'][2] == {'bytes': b'png', 'path': IDS[2]}
  odd = {'mixed': [1, 'x', None], 'empty': [None] * 3, 'hash': [2**64 - 1, None, 0],
         'huge': [2**64, -1, None], 'signs': [2**63, -1, None],
         'objects': [{1}, 2j, None]}
  spreadsheet.write_parquet(tmp_path / 'x.parquet', odd)
  found = pyarrow.parquet.read_table(tmp_path / 'x.parquet')
  assert found.to_pydict() == {
      'mixed': ['1', 'x', None], 'empty': [None] * 3, 'hash': [2**64 - 1, None, 0],
      'huge': [str(2**64), '-1', None], 'signs': [str(2**63), '-1', None],
      'objects': ['{1}', '2j', None]}
  assert [str(kind) for kind in found.schema.types] == [
      'string', 'string', 'uint64', *['string'] * 3]


def test_other_decisions(tmp_path):
  """What was decided changes its columns alone, and is undone to the last digit."""
  spreadsheet.write_parquet(tmp_path / 'x.parquet', columns())
  before = spreadsheet.read_parquet(tmp_path / 'x.parquet')
  decided = none_of(3, 4)._replace(names=('cat', '', 'Cat'), owners=np.array([0, 1, 0]),
                                   pins=np.array([-1, 1, -1, -1]))
  after = spreadsheet.decided_anew(before, decided)
  assert after['cluster'] == [0, 1, 1, 0] and list(after) == list(before)
  same = [name for name in before if name != 'probabilities']
  assert before['probabilities'].tolist() == TAU.tolist()
  changed = {name for name in same if list(before[name]) != list(after[name])}
  assert changed <= {'cluster', 'name', 'probability', 'second', 'second_probability',
                     'rank', 'pinned'}
  undone = spreadsheet.decided_anew(after, none_of(3, 4))
  assert [list(undone[name]) for name in same] == [list(before[name]) for name in same]
  assert 'evaluate' in refused(spreadsheet.read_parquet, tmp_path / 'y.parquet')


def test_names_that_are_taken():
  """A prefix, and more where that is taken, too; nothing of either is lost."""
  found = spreadsheet.with_metadata(
      {'cluster': [0]}, {'cluster': ['a'], 'metadata_cluster': ['b']})
  assert found == {'cluster': [0], 'metadata_cluster_': ['a'], 'metadata_cluster': ['b']}
  # The CSV leaves these columns out, which are the user's here.
  assert spreadsheet.with_metadata({}, {'image': ['a'], 'neighbors': ['b']}) == {
      'metadata_image': ['a'], 'metadata_neighbors': ['b']}
  # The page counts labels, which are classes; another table of the run has added.
  assert spreadsheet.with_metadata({}, {'label': [1], 'added': [2]}) == {
      'metadata_label': [1], 'metadata_added': [2]}
