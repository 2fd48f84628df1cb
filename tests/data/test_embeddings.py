"""Embeddings: whatever file holds them, each image gets its own, or a line says why not.
"""

import datetime
import json

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from jdiffclust.data import dataset
from jdiffclust.data.embeddings import matched, opened
from jdiffclust.data.fingerprint import as_before, fingerprint
from tests.helpers import refused

NAMES = [f'{sub}/{k}.png' for sub in 'ab' for k in range(3)]  # as a folder is read
VALUES = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def pictures(folder, names=NAMES):
  """Writes images that differ."""
  for k, name in enumerate(names):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), 40 * k, np.uint8)).save(folder / name)
  return folder


def table(names=NAMES, values=VALUES, **columns):
  """A table of names and a column for each number."""
  return pa.table({'file': names, **{
      f'e{k}': column for k, column in enumerate(values.T)}, **columns})


def write(found, path):
  """Writes a table as the name of the file says."""
  (pa.csv.write_csv if path.suffix == '.csv' else pa.parquet.write_table)(found, path)


def lists(path, values=VALUES, names=NAMES):
  write(pa.table({'path': names, 'vector': [list(row) for row in values]}), path)


def without_header(path):
  path.write_text(''.join(','.join(map(repr, row)) + '\n' for row in VALUES.tolist()))


def without_header_but_names(path):
  path.write_text(''.join(','.join([name, *map(repr, row)]) + '\n'
                          for name, row in zip(NAMES, VALUES.tolist())))


WRITERS = {
    'a.npy': lambda path: np.save(path, VALUES),
    'double.npy': lambda path: np.save(path, VALUES.astype(np.float64)),
    'a.npz': lambda path: np.savez(path, embeddings=VALUES),
    'only.npz': lambda path: np.savez(path, names=NAMES[::-1], mine=VALUES[::-1]),
    'files.npz': lambda path: np.savez(path, file_name=NAMES[::-1], x=VALUES[::-1]),
    'paths.npz': lambda path: np.savez(path, features=VALUES[::-1], Image_Paths=[
        name.encode() for name in NAMES[::-1]]),
    'a.csv': lambda path: write(table(), path),
    'bare.csv': without_header,
    'numbered.csv': lambda path: write(pa.table({
        str(k): column for k, column in enumerate(VALUES.T)}), path),
    'named.csv': without_header_but_names,
    'a.parquet': lambda path: write(table(), path),
    'lists.parquet': lists,
    'fixed.parquet': lambda path: write(pa.table({
        'x': pa.FixedSizeListArray.from_arrays(pa.array(VALUES.ravel()), 4)}), path),
}


@pytest.mark.parametrize('name', WRITERS)
def test_every_kind_of_file_gives_the_same_vectors(name, tmp_path):
  """Up to what a text of a number keeps."""
  WRITERS[name](tmp_path / name)
  values, notes = matched(opened(tmp_path / name), NAMES)
  np.testing.assert_allclose(values, VALUES, rtol=1e-6)
  assert notes == ()


@pytest.mark.parametrize('rename', [
    lambda name, root: name, lambda name, root: f'./{name}',
    lambda name, root: f'{root}/{name}', lambda name, root: name.replace('/', '_')])
@pytest.mark.parametrize('order', [range(6), (5, 2, 0, 1, 4, 3)])
def test_rows_find_their_images(rename, order, options, tmp_path):
  """By names relative to the folder, by whole paths, or by file names that differ."""
  flat = rename('a/b', '') == 'a_b'
  names = [name.replace('/', '_') for name in NAMES] if flat else NAMES
  folder = pictures(tmp_path / 'images', names)
  given = [f'elsewhere/{names[k]}' if flat else rename(names[k], folder) for k in order]
  np.savez(tmp_path / 'e.npz', names=given, embeddings=VALUES[list(order)])
  data = options(source='folder', path=str(folder), image_size=2,
                 embeddings=str(tmp_path / 'e.npz'))
  source = dataset.load_source(data, finest=4)
  assert list(source.ids) == names
  for seen in (source, source.seen):
    np.testing.assert_array_equal(dataset.embeddings_at(seen, range(6)), VALUES)
  assert source.seen.image_shape == (4, 4, 1)


def test_a_folder_of_the_working_directory(options, tmp_path, monkeypatch):
  """Names as `find images` prints them."""
  pictures(tmp_path / 'images')
  monkeypatch.chdir(tmp_path)
  write(table([f'images/{name}' for name in NAMES]), tmp_path / 'e.csv')
  source = dataset.load_source(options(source='folder', path='images',
                                       embeddings='e.csv'))
  np.testing.assert_allclose(source.embeddings, VALUES, rtol=1e-6)


def test_a_sample_of_the_images_takes_its_rows(options, tmp_path):
  """max_images chooses after the rows have found their images."""
  images = np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2)
  rows = np.arange(20.)[:, None] * [1, 2]
  source = dataset.array_source(images, options(max_images=7), embeddings=rows)
  np.testing.assert_array_equal(source.images[:, 0, 0, 0] / 4, source.embeddings[:, 0])
  part = dataset.embeddings_at(source, [3, 1])
  np.testing.assert_array_equal(part, source.embeddings[[3, 1]])
  assert part.dtype == np.float32


@pytest.mark.parametrize('named', [False, True])
def test_images_added_later_need_no_vectors(named, options, tmp_path):
  """Those of the run have theirs; a file that has vectors of all is one, too."""
  pictures(tmp_path / 'x', [*NAMES, 'a/00.png'])  # between others
  path = tmp_path / ('v.npz' if named else 'v.npy')
  save = lambda values, names: (np.savez(path, x=values, names=names) if named
                                else np.save(path, values))
  data = options(source='folder', path=str(tmp_path / 'x'), embeddings=str(path))
  save(VALUES, NAMES)
  assert ("'a/00.png'" if named else '7 images') in refused(dataset.load_source, data)
  found = dataset.load_source(data, later={'a/00.png'})
  own = [found.ids.index(name) for name in NAMES]
  np.testing.assert_array_equal(np.asarray(found.embeddings)[own], VALUES)
  rows = [NAMES.index(name) if name in NAMES else 0 for name in found.ids]
  save(VALUES[rows], found.ids)
  found = dataset.load_source(data, later={'a/00.png'})
  np.testing.assert_array_equal(np.asarray(found.embeddings)[own], VALUES)


def test_a_file_is_mapped_not_read(tmp_path):
  """70,000 vectors stay on the disk until they are asked for."""
  np.save(tmp_path / 'e.npy', VALUES)
  values, _ = matched(opened(tmp_path / 'e.npy'), [str(k) for k in range(6)])
  assert isinstance(values, np.memmap)


def test_what_is_not_used_is_told(tmp_path):
  """Vectors of other images, names that nothing is compared with, constant vectors."""
  write(table(), tmp_path / 'e.csv')
  values, notes = matched(opened(tmp_path / 'e.csv'), NAMES[1:3])
  np.testing.assert_allclose(values, VALUES[1:3], rtol=1e-6)
  assert '4 of 6 vectors' in notes[0]
  _, notes = matched(opened(tmp_path / 'e.csv'), [str(k) for k in range(6)])
  assert 'in their order' in notes[0]
  damaged = VALUES.copy()
  damaged[4] = 7.
  _, notes = matched(opened(damaged), NAMES)
  assert len(notes) == 1 and '1 of 6' in notes[0] and "'b/1.png'" in notes[0]
  write(table(caption=['words'] * 6), tmp_path / 'w.csv')
  np.savez(tmp_path / 'w.npz', x=VALUES, caption=['words'] * 6,
           things=np.array([None] * 6))
  for name, texts in (('w.csv', "'caption'"), ('w.npz', "'caption', 'things'")):
    notes = matched(opened(tmp_path / name), NAMES)[1]
    assert f'{texts} is not used' in notes[0]


@pytest.mark.parametrize('column', [
    {'label': [0, 1, 0, 1, 2, 2]}, {'Class': [.5, 1, 1, 1, 1, 1]},
    {'': [0, 1, 2, 3, 4, 5]}, {'day': [datetime.date(2020, 1, 1)] * 6},
    {'good': [True] * 6}])
def test_columns_that_are_no_embedding_are_refused(column, tmp_path):
  """Labels above all: they must not find their way into the vectors."""
  write(table(**column), tmp_path / 'e.parquet')
  assert repr(*column) in refused(opened, tmp_path / 'e.parquet')


@pytest.mark.parametrize('column', [
    {'file': [5, 3, 0, 1, 4, 2]}, {'Id': [5, 3, 0, 1, 4, 2]}, {'': [0, 1, 2, 3, 4, 5]},
    {'row': [1, 2, 3, 4, 5, 6]}])
def test_columns_of_row_numbers_among_whole_numbers(column, tmp_path):
  """Vectors of counts: a number of the file or the row is no part of them."""
  counts = {f'e{k}': np.arange(6) * k % 4 for k in range(1, 4)}
  write(pa.table(column | counts), tmp_path / 'e.csv')
  assert repr(*column) in refused(opened, tmp_path / 'e.csv')
  write(pa.table(counts), tmp_path / 'e.csv')
  assert opened(tmp_path / 'e.csv').values.shape == (6, 3)


def of_values(change):
  """A function that writes an npy file of changed vectors."""
  return lambda path: np.save(path, change(VALUES.copy()))


def put(row, value):
  def change(values):
    values[row] = value
    return values
  return change


DAMAGED = {
    'short.npy': (of_values(lambda v: v[:5]), '5 vectors', '6 images'),
    'long.npy': (of_values(lambda v: np.r_[v, v]), '12 vectors', '6 images'),
    'nan.npy': (of_values(put((4, 1), np.nan)), "image 4 ('b/1.png')", 'NaN'),
    'inf.npy': (of_values(lambda v: put(2, 1e300)(v.astype(float))), "('a/2.png')"),
    'fill.npy': (of_values(put((3, 1), 1e20)), "image 3 ('b/0.png')", '1e+20'),
    'tiny.npy': (of_values(lambda v: v * np.float32(1e-30)), 'scale all vectors'),
    'objects.npz': (lambda path: np.savez(path, x=VALUES, names=np.array(NAMES, object)),
                    "'names' holds Python objects", 'names.astype(str)'),
    'columns.csv': (lambda path: path.write_text('file,a,a\n' + ''.join(
        f'{name},{k},1\n' for k, name in enumerate(NAMES))), "one name, 'a'"),
    'ends.csv': (lambda path: write(table(['1.png', *NAMES[1:]]), path),
                 "no vector for the image 'a/0.png'", "'1.png' there may be of several"),
    'same.npy': (of_values(put(slice(None), 3.)), 'all 6 vectors are the same'),
    'flat.npy': (of_values(np.ravel), '(24,)', '[N, D]'),
    'complex.npy': (of_values(lambda v: v + 1j), 'complex64'),
    'words.npy': (of_values(lambda v: v.astype(str)), 'real numbers'),
    'torn.npy': (lambda path: path.write_bytes(b'\x93NUMPY\x01'), 'cannot be read'),
    'archive.npy': (lambda path: np.savez(path.open('wb'), x=VALUES), '.npz'),
    'torn.npz': (lambda path: path.write_bytes(b'PK\x03\x04'), 'cannot be read'),
    'torn.parquet': (lambda path: path.write_bytes(b'PAR1'), 'cannot be read'),
    'two.npz': (lambda path: np.savez(path, one=VALUES, two=VALUES), 'one, two'),
    'few.npz': (lambda path: np.savez(path, x=VALUES, names=NAMES[:5]), '5 names'),
    'twice.csv': (lambda path: write(table([*NAMES[:5], NAMES[0]]), path),
                  "'b/2.png'"),
    'again.csv': (lambda path: write(pa.concat_tables([table(), table()[:1]]), path),
                  "two vectors for 'a/0.png', in rows 0 and 6"),
    'lost.csv': (lambda path: write(table([*NAMES[:5], 'c/9.png']), path),
                 "no vector for the image 'b/2.png'", "'a/0.png'"),
    'uneven.parquet': (lambda path: lists(path, [*VALUES[:5], VALUES[0][:2]]),
                       'row 5 has 2 numbers'),
    'holes.csv': (lambda path: path.write_text('e0,e1\n1,2\n3,\n5,6\n7,8\n9,0\n1,1\n'),
                  "image 1 ('a/1.png')"),
    'a.txt': (lambda path: path.write_text('1 2'), '.parquet'),
    'whole.csv': (lambda path: write(table(label_id=np.array([0., 1, 0, 1, 0, 1])), path),
                  "'label_id' looks like labels"),
    'whole.parquet': (lambda path: write(table(kinds=np.tile([0., 1], 3)), path),
                      "'kinds' looks like labels"),
    'rows.csv': (lambda path: path.write_text(
        ',e0\n' + ''.join(f'{k}.0,{k + .5}\n' for k in range(6))), "'' looks like"),
    'comma.csv': (lambda path: path.write_text(
        'file;e0;e1\n' + ''.join(f'{name};{k},5;{k}\n' for k, name in enumerate(NAMES))),
        "'e0'", 'commas', '0,5'),
    'commas.csv': (lambda path: path.write_text(
        'e0;e1\n' + ''.join(f'{k},5;{k},25\n' for k in range(6))), "'e0'", 'commas'),
    'numbered.npz': (lambda path: np.savez(
        path, x=VALUES, image_ids=[3, 0, 1, 2, 4, 5]), "'image_ids' are in no order"),
}


@pytest.mark.parametrize('name', DAMAGED)
def test_damage_is_told_in_a_line(name, tmp_path):
  write, *fragments = DAMAGED[name]
  write(tmp_path / name)
  message = refused(lambda: matched(opened(tmp_path / name), NAMES))
  assert all(fragment in message for fragment in fragments), message


def test_vectors_of_whole_floats(tmp_path):
  """As a whole they may be counts; one dimension may be the same throughout."""
  counts = np.array([[0., 2, 1], [0, 3, 1], [0, 2, 2], [0, 1, 5], [0, 2, 1], [0, 5, 0]])
  write(table(values=counts), tmp_path / 'e.parquet')
  np.testing.assert_array_equal(matched(opened(tmp_path / 'e.parquet'), NAMES)[0], counts)
  write(table(values=np.c_[VALUES, np.ones(6)]), tmp_path / 'e.csv')
  assert matched(opened(tmp_path / 'e.csv'), NAMES)[0].shape == (6, 5)


def test_names_that_pandas_keeps_as_categories(tmp_path):
  frame = pandas.DataFrame(VALUES[::-1], columns=[f'e{k}' for k in range(4)])
  path = tmp_path / 'e.parquet'
  frame.set_index(pandas.CategoricalIndex(NAMES[::-1])).to_parquet(path)
  np.testing.assert_array_equal(matched(opened(path), NAMES)[0], VALUES)
  frame.assign(file=pandas.Categorical(NAMES[::-1])).to_parquet(path)
  np.testing.assert_array_equal(matched(opened(path), NAMES)[0], VALUES)


def test_arrays_that_cannot_be_taken():
  """As PyTorch's that want gradients, or lie on a card; and hidden numbers."""
  class Tensor:
    def __init__(self, error):
      self.error = error

    def __array__(self, *args, **kwargs):
      raise self.error
  for error in (RuntimeError('requires grad'), TypeError('cuda:0')):
    assert str(error) in refused(lambda: opened(Tensor(error)))
  assert 'hidden' in refused(lambda: opened(np.ma.array(VALUES, mask=VALUES > 1)))
  assert opened(np.ma.array(VALUES)).values.shape == VALUES.shape


def test_a_row_without_a_name(tmp_path):
  write(table([*NAMES[:5], None]), tmp_path / 'e.parquet')
  assert 'row 5 has no name' in refused(opened, tmp_path / 'e.parquet')
  assert 'does not exist' in refused(opened, str(tmp_path / 'none.npy'))
  assert 'is a folder' in refused(opened, str(tmp_path))
  assert 'one length' in refused(opened, [[1, 2], [3]])


def test_a_run_knows_its_embeddings(options):
  """Other ones, fewer numbers, none, or some where there were none: refused."""
  images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
  of = lambda rows: dataset.array_source(images, options(), embeddings=rows)
  told = lambda now, before: refused(as_before, now, before, 'w')
  stored = json.loads(json.dumps(fingerprint(of(VALUES))))
  assert as_before(of(VALUES.astype(np.float64)), stored, 'w').embeddings is not None
  assert "image 3 ('3')" in told(of(put((3, 0), 9.)(VALUES.copy())), stored)
  assert '3 numbers now, 4 before' in told(of(VALUES[:, :3]), stored)
  assert 'have none now' in told(of(None), stored)
  assert 'without embeddings' in told(of(VALUES), fingerprint(of(None)))
  order = [4, 0, 1, 5, 2, 3]
  turned = {**stored, 'ids': [stored['ids'][k] for k in order],
            'checksums': [stored['checksums'][k] for k in order],
            'embeddings': {'size': 4, 'checksums': [
                stored['embeddings']['checksums'][k] for k in order]}}
  np.testing.assert_array_equal(as_before(of(VALUES), turned, 'w').embeddings,
                                VALUES[order])


def test_two_sources_of_embeddings(options):
  """An array and the option: neither is dropped silently."""
  images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
  message = refused(dataset.array_source, images, options(embeddings='e.npy'),
                    embeddings=VALUES)
  assert "'e.npy'" in message


def test_rows_that_pandas_has_numbered_or_named(tmp_path):
  """An index of texts names the images; a shuffled one of numbers is refused."""
  path, order = tmp_path / 'e.parquet', [3, 1, 5, 0, 2, 4]
  columns = [f'e{k}' for k in range(4)]
  rows = pandas.DataFrame(VALUES, columns=columns, index=NAMES).iloc[order]
  rows.to_parquet(path)
  np.testing.assert_array_equal(matched(opened(path), NAMES)[0], VALUES)
  rows = pandas.DataFrame(VALUES, columns=columns)
  rows.iloc[order].to_parquet(path)
  assert 'another order than their index' in refused(opened, path)
  rows.iloc[order].reset_index(drop=True).to_parquet(path)
  np.testing.assert_array_equal(matched(opened(path), NAMES)[0], VALUES[order])


def test_a_number_that_is_none(tmp_path):
  """It makes texts of its column, which must not be lost in silence."""
  path = tmp_path / 'e.csv'
  write(table(other=['.5', '1,5', *map(str, range(4))]), path)
  told = refused(opened, path)
  assert "'other' holds numbers, and '1,5'" in told
  write(table(other=['.5', 'cat', 'dog', 'cow', 'ox', 'ass']), path)
  assert "'other' is not used" in ' '.join(opened(path).notes)
