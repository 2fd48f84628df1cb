"""Tables of a person's, joined to images by the names of files."""

import os

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from jdiffclust.config import default_config
from jdiffclust.data import by_name
from jdiffclust.data.dataset import load_source
from jdiffclust.data.fingerprint import reordered
from jdiffclust.data.sources.common import alike_classes
from jdiffclust.data.sources.folder import listed
from tests.helpers import refused

IDS = ('cats/a.png', 'cats/b.png', 'dogs/a.png', 'c.png', '-7.png', '7')


@pytest.mark.parametrize('name, image', [
    ('cats/a.png', 0), ('./cats/a.png', 0), ('cats\\a.png', 0), ('b.png', 1),
    ('/home/me/pics/cats/b.png', 1), ('a.png', None), ('birds/b.png', None),
    ('x/c.png', 3), ('-7.png', 4), (7, 5), (7., 5), (None, None),
    # Where nothing else fits: in any case, and without an ending.
    ('C.PNG', 3), ('Cats/B.png', 1), ('b', 1), ('C:\\cats\\B', 1), ('a', None),
    ('a.jpg', None), ('b.p', None)])
def test_whose_row_it_is(name, image):
  """The id, or its end at a '/'; what fits several or none is counted."""
  joined = by_name.join([name], IDS, ['x'], 'the table')
  expected = [-1] * 6
  if image is not None:
    expected[image] = 0
  assert joined.rows.tolist() == expected
  several = name in ('a.png', 'a')
  assert ('several images' in joined.note) == several
  assert ('no image here' in joined.note) == (image is None and not several)
  assert f'{6 - (image is not None)} of 6 images have no row' in joined.note


def test_letters_written_in_another_way():
  """ä is one sign here, and an a with two dots behind it there."""
  for name in ('Ka\u0308se.png', 'Ka\u0308se'):
    assert by_name.images_of([name], ['K\xe4se.png']) == [[0]]
  assert by_name.images_of(['K\xe4se.png'], ['Ka\u0308se.png']) == [[0]]


def test_files_whose_names_differ_in_that_alone():
  """Each is the one that is named to the sign."""
  ids = ['K\xe4se.png', 'Ka\u0308se.png']
  assert by_name.images_of(ids[::-1], ids) == [[1], [0]]
  assert by_name.images_of(['x/' + ids[0]], ids) == [[0, 1]]


def test_paths_before_numbers_of_rows(tmp_path):
  """A number may be the stem of another file: the column counts that names files."""
  ids = ('0.png', '1.png', '2.png')
  for header in ('id,image_path,label', 'name,img,label', 'id,path,label'):
    (tmp_path / 'x.csv').write_text(
        f'{header}\n0,in/2.png,c\n1,in/1.png,b\n2,in/0.png,a\n')
    labels, _ = by_name.read_labels(str(tmp_path / 'x.csv'), ids)
    assert [labels.names[k] for k in labels.numbers] == ['a', 'b', 'c'], header
    columns, _ = by_name.read_metadata(str(tmp_path / 'x.csv'), ids)
    assert columns['label'] == ['a', 'b', 'c'], header
  # Where the other column has no files, numbers are names.
  (tmp_path / 'x.csv').write_text('path,id,label\nx,2,c\ny,1,b\nz,0,a\n')
  labels, _ = by_name.read_labels(str(tmp_path / 'x.csv'), ('0', '1', '2'))
  assert [labels.names[k] for k in labels.numbers] == ['a', 'b', 'c']


def test_blanks_before_a_quote(tmp_path):
  """They belong to neither cell; commas within quotes part none."""
  (tmp_path / 'x.csv').write_text('"file", "label"\n"0", "a, x"\n"1",  "b"\n')
  assert by_name.read_table(str(tmp_path / 'x.csv'), 'x').columns == {
      'file': ['0', '1'], 'label': ['a, x', 'b']}


def test_one_file_spelled_twice(tmp_path):
  """In two ways: it would be two images of the run."""
  (tmp_path / 'list.txt').write_text(f'a.png\nb.png\n{tmp_path}/b.png\n')
  assert "'b.png' 2 times" in refused(listed, str(tmp_path / 'list.txt'))
  (tmp_path / 'list.txt').write_text('a.png\n./a.png\n')
  assert "'a.png' 2 times" in refused(listed, str(tmp_path / 'list.txt'))


def test_blanks_around_a_name(tmp_path):
  """Cells lose them; a file has them."""
  ids = [' a .png', 'b.png', 'b.png ']
  assert by_name.images_of(['a .png', 'b.png'], ids) == [[0], [1]]
  assert by_name.images_of(['a'], ids) == [[0]]
  (tmp_path / 'list.txt').write_text(' a .png\n b.png\n')
  (tmp_path / ' a .png').touch()
  assert listed(str(tmp_path / 'list.txt'))[1] == [' a .png', 'b.png']


def test_rows_that_pandas_calls_by_names(tmp_path):
  """An index of texts names the images; one of numbers says nothing."""
  path = str(tmp_path / 'x.parquet')
  rows = pandas.DataFrame({'label': ['x', 'y']}, index=['b.png', 'a.png'])
  rows.to_parquet(path)
  assert by_name.read_table(path, 'x').columns == {
      'label': ['x', 'y'], 'file': ['b.png', 'a.png']}
  rows.assign(file=['1', '2']).to_parquet(path)
  assert by_name.read_table(path, 'x').columns['file'] == ['1', '2']


def test_metadata_that_say_nothing(tmp_path):
  (tmp_path / 'x.csv').write_text('file\na.png\n')
  told = refused(by_name.read_metadata, str(tmp_path / 'x.csv'), ['a.png'])
  assert "no column but 'file'" in told


def test_an_image_called_as_a_column_is(tmp_path):
  """A header is one, also where an image is `image.png`."""
  (tmp_path / 'table.csv').write_text('image,species\nimage.png,cat\n')
  columns, note = by_name.read_metadata(str(tmp_path / 'table.csv'), ['image.png'])
  assert columns == {'species': ['cat']} and not note


def test_a_name_that_fits_has_the_image_alone():
  """One that fits but for case or ending says nothing of it then."""
  joined = by_name.join(['A.PNG', 'a.png', 'a'], ['a.png'], ['x', 'y', 'z'], 'the table')
  assert joined.rows.tolist() == [1] and '2 rows are of no image' in joined.note


def test_whole_numbers_of_which_some_are_missing(tmp_path):
  """pandas makes floats of them: they stay the classes 1 and 2."""
  path = tmp_path / 'labels.parquet'
  pyarrow.parquet.write_table(pyarrow.table({
      'file': ['c.png', '7', 'cats/b.png'], 'label': [1., 2., None]}), path)
  labels, note = by_name.read_labels(str(path), IDS)
  assert labels.names == ('1', '2') and labels.numbers.tolist() == [-1, -1, -1, 0, -1, 1]
  assert "its column 'label' is empty for 1 of 6 images (such as 'cats/b.png')" in note


def test_what_a_spreadsheet_writes_for_a_formula_that_fails(tmp_path):
  """-cats and =dogs become the same class there."""
  path = tmp_path / 'l.csv'
  path.write_text('file,label\nc.png,#NAME?\n7,#NAME?\ncats/b.png,#1\n')
  labels, note = by_name.read_labels(str(path), IDS)
  assert labels.names == ('#1', '#NAME?')
  assert "the class of 2 images is '#NAME?'" in note


def test_rows_that_say_nothing_are_told_of(tmp_path):
  """Not cells here and there, which are usual."""
  path = tmp_path / 'm.csv'
  path.write_text('file,site,age\nc.png,north,\n7,,\ncats/b.png,, \n')
  columns, note = by_name.read_metadata(str(path), IDS)
  assert columns['site'].count('north') == 1
  assert 'all but the name is empty for 2 of 6 images' in note
  path.write_text('file,site,age\nc.png,north,\n7,,3\ncats/b.png,south,\n')
  assert 'empty' not in by_name.read_metadata(str(path), IDS)[1]


def test_empty_cells_and_texts_of_a_parquet_file(tmp_path):
  """NaN and blanks are no classes, as in a CSV; some write texts as bytes."""
  path = str(tmp_path / 'labels.parquet')
  for cells, names in (([1., 2., float('nan')], ('1', '2')),
                       (['x', 'y', ' '], ('x', 'y')),
                       ([b'x', 'ä'.encode(), None], ('x', 'ä'))):
    table = {'file': [b'c.png', b'7', b'cats/b.png'], 'label': cells}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    labels, _ = by_name.read_labels(path, IDS)
    assert labels.names == names and labels.numbers.tolist() == [-1, -1, -1, 0, -1, 1]


def test_a_pipe(tmp_path):
  """It is not waited for."""
  path = str(tmp_path / 'pipe.csv')
  os.mkfifo(path)
  assert 'it is a pipe' in refused(by_name.read_labels, path, IDS)


def test_a_column_of_classes_that_is_guessed(tmp_path):
  """Told, where others may be meant."""
  path = tmp_path / 'labels.csv'
  path.write_text('file,split,species\nc.png,train,cat\n')
  assert "its column 'split'; if they are in 'species'" in by_name.read_labels(
      str(path), IDS)[1]
  path.write_text('file,split,Label\nc.png,train,cat\n')
  labels, note = by_name.read_labels(str(path), IDS)
  assert labels.names == ('cat',) and 'its column' not in note


def test_a_column_without_any_class(tmp_path):
  """Nothing could be scored: it is said, as is what the column is called."""
  path = tmp_path / 'labels.csv'
  path.write_text('file,label\na.png,\nb.png,\n')
  assert "its column 'label' is empty" in refused(
      by_name.read_labels, str(path), ('a.png', 'b.png'))


@pytest.mark.parametrize('names, first', [
    (('Cat', 'cat', 'dog'), "'Cat' and 'cat'"), (('007', '7', '8'), "'007' and '7'"),
    (('1', '1.0'), "'1' and '1.0'"), (('a', '\u200ba'), "'a' and"),
    (('a b', 'a_b'), "'a b' and 'a_b'"), (('1', '-1', '2', '10', 'a', 'b'), ''),
    (('1e30', '1e31', '20230001', '20230002'), '')])
def test_classes_that_are_written_alike(names, first):
  """They stay several, as they are written, which is told."""
  note = ''.join(alike_classes(names))
  assert bool(note) == bool(first) and first in note


def test_columns_in_which_nothing_stands(tmp_path):
  """As Excel leaves them behind or between others; one with cells but no name is none."""
  (tmp_path / 'x.csv').write_text('file,,label,,\ncats/a.png,,cat,,\nc.png,,dog\n')
  table = by_name.read_table(str(tmp_path / 'x.csv'), 'config.data.labels')
  assert table.columns == {'file': ['cats/a.png', 'c.png'], 'label': ['cat', 'dog']}
  (tmp_path / 'x.csv').write_text('file,label,,\ncats/a.png,cat,7,8\n')
  assert 'column' in refused(by_name.read_table, str(tmp_path / 'x.csv'), 'o')


def test_rows_that_contradict_each_other():
  """Equal ones do not; the whole id counts before its end."""
  of = lambda names, values: by_name.join(names, IDS, values, 't').rows.tolist()
  assert of(['b.png', 'b.png'], 'xx')[1] == 0
  assert of(['b.png', 'b.png'], 'xy')[1] == -1
  assert of(['b.png', 'cats/b.png'], 'xy')[1] == 1
  note = by_name.join(['b.png', 'b.png'], IDS, 'xy', 't').note
  assert "1 images have rows that contradict each other" in note and 'cats/b.png' in note
  assert by_name.join(IDS, IDS, IDS, 't').note == ''


@pytest.mark.parametrize('data', [
    'file,label\na.png,cat\n-b.png,dog\n'.encode(),
    '\ufefffile;label\r\na.png;cat\r\n\'-b.png;dog\r\n;\r\n'.encode(),
    'file\tlabel\na.png\tcat\n-b.png\tdog\n'.encode('utf-16'),
    b'sep=;\r\nfile;label\r\na.png;cat\r\n-b.png;dog\r\n',
    b'a.png,cat\n-b.png,dog\n', b'Label,FileName\ncat,a.png\ndog,-b.png\n'])
def test_labels_as_excel_and_others_write_them(data, tmp_path):
  """With and without a header; a third image has none."""
  (tmp_path / 'x.csv').write_bytes(data)
  labels, note = by_name.read_labels(str(tmp_path / 'x.csv'), ('a.png', '-b.png', 'c'))
  assert labels.names == ('cat', 'dog') and labels.numbers.tolist() == [0, 1, -1]
  assert note.endswith("x.csv: 1 of 3 images have no row (such as 'c')")


@pytest.mark.parametrize('data, fragment', [
    ('file,label\na.png,Käse\n'.encode('cp1252'), 'CSV UTF-8'), (b'', 'is empty'),
    (b'file,label\nz.png,cat\n', "'z.png', the images 'a.png'"),
    (b'file,label\na.png,b,cat\n', 'line 2: 3 cells'), (b'file\na.png\n', "'label'"),
    (b'file,label,label\na.png,b,c\n', "two columns 'label'"),
    (b'PK\x03\x04\n', 'a workbook'),
    (b'file,label\na.png,"cat\nb.png,dog\n', 'quote in line 2 is not closed')])
def test_tables_that_are_wrong(data, fragment, tmp_path):
  (tmp_path / 'x.csv').write_bytes(data)
  path = str(tmp_path / 'x.csv')
  line = refused(by_name.read_labels, path, ('a.png', 'b.png'))
  assert fragment in line and path in line
  assert 'cannot be read' in refused(by_name.read_labels, path + 'x', ('a.png',))


@pytest.mark.parametrize('data, fragment', [
    (b'a.png,cat\nb.png,dog\n', "names an image, 'a.png', in its first line"),
    (b'file,kind\n', 'no line below'), (b'file,kind\nz.png,cat\n', "'z.png'")])
def test_metadata_of_no_image(data, fragment, tmp_path):
  """Their columns have names: none is taken from what is of an image."""
  (tmp_path / 'x.csv').write_bytes(data)
  line = refused(by_name.read_metadata, str(tmp_path / 'x.csv'), ('a.png', 'b.png'))
  assert fragment in line


def test_columns_have_types():
  """Numbers only where all cells are, but for what is missing; codes are names."""
  assert by_name.typed(['1', None, '-2']) == [1, None, -2]
  assert by_name.typed(['1', '.5']) == [1., .5]
  assert by_name.typed(['nan', '1', 'NA', '<NA>', 'None']) == [None, 1, None, None, None]
  assert by_name.typed(['1e-05', '2.5', 'NULL']) == [1e-5, 2.5, None]
  assert by_name.typed(['1.0', '0.25', '2e+05']) == [1., .25, 2e5]
  assert by_name.typed(['1.10', '2.35']) == [1.1, 2.35]
  for texts in (['007', '1'], ['1', 'x'], ['1_0'], [None], ['NA'],
                ['1.10', '1.1'], ['+4912345', '5'], ['inf', '1'],
                ['1E5', '2', '33'], ['12e3', '1'], ['2.10', '3.2', '7.1']):
    assert by_name.typed(texts) == texts


@pytest.mark.parametrize('header, row', [
    ('file\tsize, cm', 'b.png\t3'), ('file;"a, b, c"', 'b.png;3'),
    ('file,a;b', 'b.png,3'), ('"file";x', 'b.png;3'), ('other,file', '3,b.png')])
def test_which_sign_parts_the_columns(header, row, tmp_path):
  """One by which a column is called as the files are; commas within a name part none."""
  (tmp_path / 'x.csv').write_text(f'{header}\n{row}\n', encoding='utf-8')
  found, note = by_name.read_metadata(str(tmp_path / 'x.csv'), ('b.png',))
  assert list(found.values()) == [[3]] and not note


def test_a_row_that_is_set_aside_is_told():
  """One names the image whole, the other by its end, and says something else."""
  joined = by_name.join(['t/a.png', 'a.png', 'b.png'], ['t/a.png', 't/b.png'],
                        [1, 9, 2], 'x.csv')
  assert joined.rows.tolist() == [0, 2]
  assert "1 rows name an image by its end alone" in joined.note and 'a.png' in joined.note


def test_paths_from_elsewhere_are_of_the_longest_end():
  """/r/b/a.png is b/a.png, though it ends in a.png, too."""
  ids = ['a.png', 'b/a.png', 'c/b/a.png']
  assert by_name.images_of([f'/r/{name}' for name in ids], ids) == [[0], [1], [2]]


def test_two_columns_of_one_name(tmp_path):
  """In a Parquet file, too: a line."""
  found = pyarrow.table([['a.png'], [1], [2]], names=['file', 'x', 'x'])
  pyarrow.parquet.write_table(found, tmp_path / 'x.parquet')
  line = refused(by_name.read_metadata, str(tmp_path / 'x.parquet'), ('a.png',))
  assert "two columns of one name, 'x'" in line


@pytest.mark.parametrize('text', [
    '007', '1E5', '1.50', '3/4', '1-2', '12:30', '5%', '$5', '1,5', '1.2.3', 'Mar 1',
    'MARCH1', '1-Sept', 'March 1, 2026', '3/1/2026 2:15 PM', '10:30 pm', '(5)',
    '($1,200)', 'Mar 1, 2026 10:30', '5-Mar-26 10:30', '1 Mar, 2026',
    '00123456789012345', '1234567890123456', '=1', "'007"])
def test_what_a_spreadsheet_would_change(text):
  """A text then, which is read again as it was given."""
  assert by_name.as_text(text) == f"'{text}" and by_name.as_given(f"'{text}") == text


@pytest.mark.parametrize('text', [
    '7', '0', '1.5', '2026-03-01', '007.png', '1E5.png', '2026-03-01.png', 'a 1', "x'",
    'Marx 1 b', '3b', '', "'x", '(a)', 'march of 5', '5 a', 'a (5)'])
def test_what_a_spreadsheet_leaves_alone(text):
  assert by_name.as_text(text) == text == by_name.as_given(text)


@hypothesis.given(st.text(alphabet="'=+-@\ta1"))
def test_no_text_is_computed_and_none_is_lost(text):
  shown = by_name.as_text(text)
  assert not shown.startswith(by_name.FORMULA)
  assert by_name.as_given(shown) == text


def test_a_source_with_tables(tmp_path):
  """Labels in the place of its own, columns beside them, in any order; both told of."""
  pyarrow.parquet.write_table(pyarrow.table(
      {'id': [2, 0, 9999], 'plate': ['P2', 'P0', 'P9']}), tmp_path / 'm.parquet')
  (tmp_path / 'l.csv').write_text('0,even\n1,odd\n2,even\n')
  config = default_config()
  config.data.labels = str(tmp_path / 'l.csv')
  config.data.metadata = str(tmp_path / 'm.parquet')
  source = load_source(config.data)
  assert source.label_names == ('even', 'odd')
  assert source.labels[:4].tolist() == [0, 1, 0, -1]
  assert source.metadata['plate'][:3] == ['P0', None, 'P2']
  assert len(source.notes) == 2 and 'such as 9999' in source.notes[1]
  turned = reordered(source, np.array([2, 1]))
  assert turned.metadata == {'plate': ['P2', None]}
  config.data.use_labels = False
  assert load_source(config.data).labels is None


def test_tables_of_a_sample_of_the_images(tmp_path):
  """Rows find their images among all: that others are left out makes none of them odd."""
  names = [f'{folder}/{k}.png' for folder in 'ab' for k in range(20)]
  for k, name in enumerate(names):
    (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 2), k, np.uint8)).save(tmp_path / 'in' / name)
  config = default_config()
  config.data.source, config.data.path = 'folder', str(tmp_path / 'in')
  config.data.max_images = 20
  config.data.labels = str(tmp_path / 'l.csv')
  config.data.metadata = str(tmp_path / 'm.csv')
  (tmp_path / 'l.csv').write_text('file,label\n0.png,x\n1.png,x\n' + ''.join(
      f'{name},{name[0]}\n' for name in names[2:20] + names[22:]))
  (tmp_path / 'm.csv').write_text('file,same\n' + ''.join(f'{n},{n}\n' for n in names))
  source = load_source(config.data)
  assert source.metadata == {'same': list(source.ids)} and source.num_images == 20
  note, = source.notes
  assert '2 rows are of several images' in note and 'of no image' not in note
  # 0.png and 1.png are of none, also where but one of the two images is kept.
  own = [None if name[2:] in ('0.png', '1.png') else name[0] for name in source.ids]
  assert None in own
  assert [source.label_names[n] if n >= 0 else None for n in source.labels] == own
