"""What is decided by hand: names, clusters that are one, pins; and its undoing."""

import numpy as np
import pytest

from jdiffclust import decisions, splits
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


def test_a_name_of_letters_written_in_another_way(tmp_path):
  """ä is one sign here, and an a with two dots behind it there: one cluster."""
  write(tmp_path, 'cluster,name\n0,K\xe4se\n2,Ka\u0308se\n', None)
  found = decisions.read(tmp_path, 4, IDS)
  assert found.owners.tolist() == [0, 1, 0, 3]
  assert found.numbers_of('ka\u0308se') == [0, 2]


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
    (',cat', ["no cluster ''"]), ('1,3', ["'3'", 'letter']), ('1,---', ['letter']),
    ('1,"1,5"', ["'1,5'", 'letter']), ('1,\xbd', ['letter']), ('1,a\x07', ['letter']),
    ('1,cat\n1,dog', ["'dog'", 'twice']),
    ('1,Cluster 2', ['without a name']), ('1,#NAME?', ['formula that fails']),
    ('1,cat,x', ['line 2', '3 cells'])])
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


def test_columns_of_pins_in_any_case_and_order(tmp_path):
  """As those of clusters."""
  write(tmp_path, None, 'Cluster,File\n1,y.png\n')
  assert sorted(decisions.read(tmp_path, 4, IDS).pins)[-2:] == [-1, 1]
  write(tmp_path, None, 'File,Group\ny.png,1\n')
  assert 'File, Group' in refused(decisions.read, tmp_path, 4, IDS)


def test_a_column_that_means_nothing(tmp_path):
  """It is refused, lest a wish is passed over; an empty one does no harm."""
  write(tmp_path, 'cluster,name,merge_into\n1,cat,\n')
  assert decisions.read(tmp_path, 4, IDS).names[1] == 'cat'
  write(tmp_path, 'cluster,name,merge_into\n1,,2\n')
  line = refused(decisions.read, tmp_path, 4, IDS)
  assert "'merge_into'" in line and 'same name' in line


def split_of(share):
  """Cluster 3 of 4 cut by shares of the images of IDS, and then its new part, 4."""
  cut = splits.none_of(4, IDS, range(4)).one_more(3, np.array(share))
  return cut.one_more(4, np.array([0, .5, 1, 1.]))


def test_split_clusters(tmp_path):
  """By hand: tau_4 = s tau_3, tau_5 = t tau_4; an image stays with its cluster's parts
  though each of these is less than another cluster; new ones as their nearest."""
  cut = split_of([1, .75, .25, 0])
  splits.write(tmp_path, cut)
  found = decisions.read(tmp_path, 4, IDS)
  assert [found.splits.root(q) for q in range(6)] == [0, 1, 2, 3, 3, 3]
  assert found.splits.whole(3) == [3, 4, 5] and found.splits.whole(2) == [2]
  kept, parts = found.merged(TAU)
  assert kept.tolist() == [0, 1, 2, 3, 4, 5]
  np.testing.assert_allclose(parts[1], [.1, .2, .3, .1, .15, .15])
  np.testing.assert_allclose(parts[2], [.05, .5, .05, .3, 0, .1])
  np.testing.assert_allclose(parts.sum(axis=1), 1)
  assert found.clusters_of(TAU).tolist() == [0, 4, 1, 0]  # not 2, of .3, but a part
  columns = spreadsheet.assigned(TAU, BOUND, found)
  assert columns['cluster'] == [0, 4, 1, 0] and columns['second'][1] == 2
  assert columns['model_cluster'] == [0, 3, 1, 0]
  # Far from all but the second, or amid the first and the last.
  near, away = np.array([[1, 0], [0, 3]]), np.array([[1e-4, 9], [1., 1]])
  others = found.for_others(near, away)
  np.testing.assert_allclose(others.shares, [[.75, .5], [.5, .5]], atol=1e-4)
  assert found.and_others(near, away).shares.shape == (6, 2)


def test_parts_of_one_name_are_the_cluster_again(tmp_path):
  """Names of parts; of some of them the model knows nothing."""
  splits.write(tmp_path, split_of([1, .75, .25, 0]))
  write(tmp_path, 'cluster,name\n3,a\n4,a\n5,A\n')
  found = decisions.read(tmp_path, 4, IDS)
  np.testing.assert_allclose(found.merged(TAU)[1], TAU)
  assert found.clusters_of(TAU).tolist() == TAU.argmax(axis=1).tolist()
  assert found.of_the_model == ('', '', '', 'a')
  assert found.drawn_for('a') == [3] == found.drawn_for(3)
  write(tmp_path, 'cluster,name\n3,a\n4,b\n')
  found = decisions.read(tmp_path, 4, IDS)
  assert found.of_the_model == ('', '', '', 'a + b + cluster 5')
  assert 'cluster 3' in refused(found.drawn_for, 'b')
  write(tmp_path, 'cluster,name\n6,a\n')
  assert '0..5' in refused(decisions.read, tmp_path, 4, IDS)


@pytest.mark.parametrize('text', [
    '\ufeffname;cluster\r\nb;2.0\r\n;3\r\n', 'cluster,images,name\n2,5,b\n3,1,\n',
    'sep=;\r\nname;cluster\r\nb;2.0\r\n;3\r\n'])
def test_a_row_comes_and_goes(text, tmp_path):
  """What a person has written, and how, stays."""
  path, above = tmp_path / CLUSTERS, 1 if 'sep' in text else 0
  path.write_bytes(text.encode())
  decisions.with_row(tmp_path, 4, 9)
  lines = path.read_text('utf-8-sig').split()
  assert lines == [*text.lstrip('\ufeff').split(), ';4' if ';' in text else '4,9,']
  decisions.without_row(tmp_path, 2)
  assert path.read_text('utf-8-sig').split() == [*lines[:above + 1], *lines[above + 2:]]


def test_rows_of_a_table_without_a_header(tmp_path):
  """It is read as one of cluster and name, and gets these when it is written."""
  write(tmp_path, '0,cats\n1,dogs\n')
  assert decisions.read(tmp_path, 4, IDS).names == ('cats', 'dogs', '', '')
  decisions.with_row(tmp_path, 4, 9)
  lines = (tmp_path / CLUSTERS).read_text('utf-8-sig').split()
  assert lines == ['cluster,name', '0,cats', '1,dogs', '4,']
  write(tmp_path, '0,cats\n1,dogs\n')
  decisions.without_row(tmp_path, 0)
  lines = (tmp_path / CLUSTERS).read_text('utf-8-sig').split()
  assert lines == ['cluster,name', '1,dogs']


@pytest.mark.parametrize('name', [
    '\u06af\u0631\u0628\u0647\u200c\u0647\u0627', '\U0001f469\u200d\U0001f52c',
    '\u732b', '\u2642 male', '1st'])
def test_names_in_any_script(name, tmp_path):
  """Persian with its joiner, a picture of two signs, Chinese."""
  write(tmp_path, f'cluster,name\n1,{name}\n')
  assert decisions.read(tmp_path, 4, IDS).names[1] == name


def test_tables_to_fill_in(tmp_path):
  """They say nothing yet, and what is filled in stays."""
  decisions.write_templates(tmp_path, [3, 0, 1, 0])
  assert not decisions.read(tmp_path, 4, IDS).any
  write(tmp_path, (tmp_path / CLUSTERS).read_text('utf-8-sig').replace('0,3,', '0,3,cat'))
  decisions.write_templates(tmp_path, [3, 0, 1, 0])
  assert decisions.read(tmp_path, 4, IDS).names == ('cat', '', '', '')
