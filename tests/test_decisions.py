"""What is decided by hand: names, clusters that are one, pins; and its undoing."""

import numpy as np
import pytest

from jdiffclust import decisions
from jdiffclust.decisions import CLUSTERS, PINNED
from jdiffclust.report import spreadsheet
from tests.helpers import refused

IDS = ('a/x.png', 'b/x.png', 'y.png', 'z.png')
TAU = np.array([[.4, .3, .2, .1], [.1, .2, .3, .4], [.05, .5, .05, .4], [1, 0, 0, 0.]])
BOUND = np.array([1., 2., 3., 4.])


def write(folder, clusters=None, pinned=None):
  """Tables as a person leaves them."""
  for name, text in ((CLUSTERS, clusters), (PINNED, pinned)):
    if text is None:
      (folder / name).unlink(missing_ok=True)
    else:
      (folder / name).write_bytes(text.encode('utf-8-sig'))


def test_names_and_pins(tmp_path):
  """As Excel writes them: semicolons, 3.0, names in another case; two of one name."""
  write(tmp_path, 'cluster;images;name\r\n1.0;12;Big cats\r\n3;4;big  CATS\r\n0;1;\r\n',
        'file;cluster\r\nz.png;BIG cats\r\na/x.png;2\r\n')
  found = decisions.read(tmp_path, 4, IDS)
  assert found.names == ('', 'Big cats', '', 'big CATS')
  assert found.owners.tolist() == [0, 1, 2, 1] and found.pins.tolist() == [2, -1, -1, 1]
  assert found.numbers_of('big cats') == [1, 3] and found.numbers_of(2) == [2]
  assert [found.name(q) for q in (0, 1)] == ['cluster 0', 'Big cats'] and found.any
  assert found.clusters_of(TAU).tolist() == [2, 1, 1, 1]
  columns = spreadsheet.assigned(TAU, BOUND, found)
  assert columns['cluster'] == [2, 1, 1, 1] and columns['model_cluster'] == [0, 3, 1, 0]
  np.testing.assert_allclose(columns['probability'], [.2, .6, .9, 0])
  assert columns['second'] == [0, 2, 0, 0]  # of the model's 0, 1 = 3 and 2
  np.testing.assert_allclose(columns['second_probability'], [.4, .3, .05, 1])
  assert columns['rank'] == [1, 2, 1, 3]
  assert columns['pinned'] == [True, False, False, True]
  assert columns['name'] == ['cluster 2', 'Big cats', 'Big cats', 'Big cats']


def test_undone_by_removing_rows(tmp_path):
  """No table, no row and an empty name say nothing."""
  nothing = decisions.none_of(4, 4)
  for tables in ((None, None), ('', ';\r\n'), ('cluster,name\n', 'file,cluster\n'),
                 ('cluster,name\n2,\n', None)):
    write(tmp_path, *tables)
    found = decisions.read(tmp_path, 4, IDS)
    assert not found.any and found.names == nothing.names
    np.testing.assert_array_equal(found.owners, nothing.owners)
    np.testing.assert_array_equal(found.pins, nothing.pins)


@pytest.mark.parametrize('row, fragments', [
    ('4,cat', ["'4'", '0..3']), ('1.5,cat', ["'1.5'"]), ('cat,1', ["'cat'"]),
    (',cat', ["no cluster ''"]), ('1,3', ["'3'", 'letter']),
    ('1,cat\n1,dog', ["'dog'", 'twice']),
    ('1,Cluster 2', ['without a name']), ('1,cat,x', ['line 2', '3 cells'])])
def test_wrong_names(row, fragments, tmp_path):
  write(tmp_path, f'cluster,name\n{row}\n')
  line = refused(decisions.read, tmp_path, 4, IDS)
  assert CLUSTERS in line
  for fragment in fragments:
    assert fragment in line


@pytest.mark.parametrize('row, fragments', [
    ('q.png,1', ["'q.png'", "'a/x.png'"]),
    ('x.png,1', ["'x.png'", 'not the name of one']),
    ('y.png,4', ["'4'", '0..3']), ('y.png,cat', ["'cat'"]), ('y.png,', ['no cluster']),
    (',1', ['no file']), ('y.png,1\ny.png,2', ['two clusters'])])
def test_wrong_pins(row, fragments, tmp_path):
  write(tmp_path, None, f'file,cluster\n{row}\n')
  line = refused(decisions.read, tmp_path, 4, IDS)
  assert PINNED in line
  for fragment in fragments:
    assert fragment in line


def test_a_column_that_means_nothing(tmp_path):
  """It is refused, lest a wish is passed over; an empty one does no harm."""
  write(tmp_path, 'cluster,name,merge_into\n1,cat,\n')
  assert decisions.read(tmp_path, 4, IDS).names[1] == 'cat'
  write(tmp_path, 'cluster,name,merge_into\n1,,2\n')
  line = refused(decisions.read, tmp_path, 4, IDS)
  assert "'merge_into'" in line and 'same name' in line


def test_tables_to_fill_in(tmp_path):
  """They say nothing yet, and what is filled in stays."""
  decisions.write_templates(tmp_path, [3, 0, 1, 0])
  assert not decisions.read(tmp_path, 4, IDS).any
  write(tmp_path, (tmp_path / CLUSTERS).read_text('utf-8-sig').replace('0,3,', '0,3,cat'))
  decisions.write_templates(tmp_path, [3, 0, 1, 0])
  assert decisions.read(tmp_path, 4, IDS).names == ('cat', '', '', '')
