"""Each source against data written here byte by byte, and each of its messages."""

import ast
import collections
import dataclasses
import errno
import functools
import gzip
import io
import json
import math
import os
import pathlib
import pickle
import re
import shutil
import struct
import sys
import warnings
import zlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin
import pyarrow
import pyarrow.parquet
import pytest

from jdiffclust import beginning, errors
from jdiffclust.data import dataset, preprocess, rendering
from jdiffclust.data.sources import arrays, tfds as tfds_reader
from jdiffclust.data.sources.folder import Found, file_of, left_out_notes
from jdiffclust.data.sources.idx import read_idx, read_idx_images

FEW = hypothesis.settings(
    max_examples=25, deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])


class MakesAFile:
  """Unpickled, it makes a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return open, (self.path, 'w')


def refused(data):
  """Returns the one line a mistake is answered with."""
  with pytest.raises(errors.UserError) as caught:
    dataset.load_source(data)
  message = str(caught.value)
  assert '\n' not in message and message
  return message


# --- idx ----------------------------------------------------------------------


@pytest.fixture
def idx(options):
  return functools.partial(options, source='idx')


@FEW
@hypothesis.given(
    shape=st.tuples(*[st.integers(1, 4)] * 3), gzipped=st.booleans(), data=st.data())
def test_idx_round_trip(tmp_path, write_idx, shape, gzipped, data):
  size = math.prod(shape)
  values = data.draw(st.binary(min_size=size, max_size=size))
  name = 'x.gz' if gzipped else 'x'
  read = read_idx_images(write_idx(tmp_path / name, values, shape))
  assert read.shape == (*shape, 1) and read.dtype == np.uint8
  assert read.tobytes() == values


@pytest.mark.parametrize('kind, form, values', [
    (0x09, 'b', [-1, 2]), (0x0B, 'h', [-300, 2]), (0x0C, 'i', [70000, -1]),
    (0x0D, 'f', [0.5, -2]), (0x0E, 'd', [0.1, 3])])
def test_idx_types(tmp_path, write_idx, kind, form, values):
  path = write_idx(tmp_path / 'x', values, (2,), kind, form)
  assert read_idx(path).tolist() == values


@pytest.mark.parametrize('images, labels', [
    ('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz'),
    ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte'),
    ('t10k-images.idx3-ubyte', 't10k-labels.idx1-ubyte'),
    ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte.gz'),
    ('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte')])
def test_idx_finds_its_labels(tmp_path, write_idx, idx, images, labels):
  path = write_idx(tmp_path / images, range(200, 212), (3, 2, 2))
  write_idx(tmp_path / labels, [7, 0, 9], (3,))
  source = dataset.load_source(idx(path=path, range=(0, 255)))
  assert source.labels.tolist() == [1, 0, 2] and source.labels.dtype == np.int64
  assert source.label_names == ('0', '7', '9')
  assert source.levels == 256 and source.name == f'idx:{images}'
  np.testing.assert_array_equal(source.images[2, :, :, 0], [[208, 209], [210, 211]])
  assert not isinstance(source.images, np.memmap)
  mapped = dataset.load_source(idx(path=path, range=(0, 255), pipeline='grain'))
  assert isinstance(mapped.images, np.memmap) != images.endswith('.gz')
  assert dataset.load_source(idx(path=path, use_labels=False)).labels is None


def test_idx_beside_its_copy(tmp_path, write_idx, idx):
  """It is not taken for the labels where nothing tells which these are."""
  for name in ('digits', 'digits.gz'):
    write_idx(tmp_path / name, range(12), (3, 2, 2))
  assert dataset.load_source(idx(path=str(tmp_path / 'digits'))).labels is None


def test_idx_without_labels_and_with_labels_elsewhere(tmp_path, write_idx, idx):
  path = write_idx(tmp_path / 'pictures', range(12), (3, 2, 2))
  assert dataset.load_source(idx(path=path)).labels is None
  labels = write_idx(tmp_path / 'classes', [1, 2, 300], (3,), 0x0C, 'i')
  source = dataset.load_source(idx(path=path, labels_path=labels))
  assert source.label_names == ('1', '2', '300')


def test_idx_in_colour_and_padded_from_a_map(tmp_path, write_idx, idx):
  path = write_idx(tmp_path / 'x', range(36), (3, 2, 2, 3))
  source = dataset.load_source(idx(path=path, padding=1))
  assert source.image_shape == (4, 4, 3)
  images = dataset.read_images(source, [2])
  assert images[0, 1:3, 1:3].ravel().tolist() == list(range(24, 36))
  assert images.sum() == sum(range(24, 36))


@pytest.mark.parametrize('cut', [4, 15, 17, 27])
def test_idx_cut_short(tmp_path, write_idx, idx, cut):
  whole = write_idx(tmp_path / 'whole', range(12), (3, 2, 2))
  content = pathlib.Path(whole).read_bytes()[:cut]
  (tmp_path / 'x').write_bytes(content)
  (tmp_path / 'x.gz').write_bytes(gzip.compress(content))
  for name in ('x', 'x.gz'):
    message = refused(idx(path=str(tmp_path / name)))
    assert 'truncated' in message and name in message
    if cut > 16:
      assert f'announces 12 bytes for the shape (3, 2, 2), {cut - 16} follow' in message


def test_idx_longer_than_announced(tmp_path, write_idx, idx):
  for name in ('x', 'x.gz'):
    path = write_idx(tmp_path / name, range(12), (3, 2, 2), extra=b'more')
    assert 'longer than its header says' in refused(idx(path=path))


def test_gzip_cut_short_or_damaged(tmp_path, write_idx, idx):
  path = pathlib.Path(write_idx(
      tmp_path / 'x.gz', np.random.default_rng(0).bytes(4000), (10, 20, 20)))
  content = path.read_bytes()
  path.write_bytes(content[:-100])
  assert 'damaged or truncated gzip' in refused(idx(path=str(path)))
  path.write_bytes(content[:300] + b'xx' + content[302:])
  assert 'damaged or truncated gzip' in refused(idx(path=str(path)))


@pytest.mark.parametrize('size', [2**20, 2**31])  # 2^60 bytes, and beyond an int64
def test_gzip_that_announces_more_than_memory_holds(size, tmp_path, write_idx, idx):
  path = write_idx(tmp_path / 'x.gz', range(12), (size, size, size))
  assert 'too large to be unpacked in memory' in refused(idx(path=path))


def test_not_idx(tmp_path, write_idx, idx):
  for content in (b'', b'\x89PNG\r\n\x1a\n', b'\0\0\x07\x03' + b'\0' * 99):
    (tmp_path / 'x').write_bytes(content)
    message = refused(idx(path=str(tmp_path / 'x')))
    assert 'is not an IDX file' in message
    assert repr(content[:4].hex(' ')) in message
  labels = write_idx(tmp_path / 'y', [1, 2], (2,))
  assert 'not images' in refused(idx(path=labels))
  floats = write_idx(tmp_path / 'z', [1] * 8, (2, 2, 2), 0x0D, 'f')
  assert 'not images' in refused(idx(path=floats))


def test_idx_paths_that_are_no_files(tmp_path, write_idx, idx):
  assert 'does not exist' in refused(idx(path=str(tmp_path / 'nope')))
  assert 'is a folder without IDX files' in refused(idx(path=str(tmp_path)))
  assert "'' names no file" in refused(idx(path=''))
  path = write_idx(tmp_path / 'x', range(12), (3, 2, 2))
  assert 'nowhere' in refused(idx(path=path, labels_path='nowhere'))


def test_a_folder_stands_for_all_its_idx_images(tmp_path, write_idx, idx):
  """Those of training first; of a gzipped twin once; other files are passed over."""
  for name, first in (('t10k-images-idx3-ubyte.gz', 200), ('train-images-idx3-ubyte', 0),
                      ('train-images-idx3-ubyte.gz', 0)):
    write_idx(tmp_path / name, range(first, first + 12), (3, 2, 2))
  write_idx(tmp_path / 'train-labels-idx1-ubyte', [7, 0, 9], (3,))
  (tmp_path / 'notes.txt').write_text('of an evening')
  (tmp_path / 'cut.gz').write_bytes(b'\x1f\x8b\x08')
  (tmp_path / 'more').mkdir()
  source = dataset.load_source(idx(path=str(tmp_path), range=(0, 255)))
  assert source.num_images == 6 and source.name == f'idx:{tmp_path.name}'
  assert source.images[:, 0, 0, 0].tolist() == [0, 4, 8, 200, 204, 208]
  assert source.labels.tolist() == [1, 0, 2, -1, -1, -1]
  assert source.label_names == ('0', '7', '9')
  assert source.notes[-1].endswith(
      '3 of train-images-idx3-ubyte, then 3 of t10k-images-idx3-ubyte.gz')
  labels = write_idx(tmp_path / 'all', [1, 1, 2, 2, 3, 3], (6,))
  source = dataset.load_source(idx(path=str(tmp_path), labels_path=labels))
  assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
  write_idx(tmp_path / 'larger', range(18), (2, 3, 3))
  assert 'must be of one shape' in refused(idx(path=str(tmp_path)))


def test_labels_that_do_not_fit(tmp_path, write_idx, idx):
  path = write_idx(tmp_path / 'a-images-idx3', range(12), (3, 2, 2))
  write_idx(tmp_path / 'a-labels-idx1', [1, 2], (2,))
  assert '2 labels for 3 images' in refused(idx(path=path))
  assert dataset.load_source(idx(path=path, use_labels=False)).num_images == 3
  floats = write_idx(tmp_path / 'y', [0.5, 1, 2], (3,), 0x0D, 'f')
  assert 'not whole numbers' in refused(idx(path=path, labels_path=floats))


# --- npz and npy --------------------------------------------------------------


@pytest.fixture
def npz(options, tmp_path):
  """Returns a function from arrays and options to the data options of their file."""
  def save(arrays, **changes):
    np.savez(tmp_path / 'x.npz', **arrays)
    return options(source='npz', path=str(tmp_path / 'x.npz'), **changes)
  return save


IMAGES = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)


@pytest.mark.parametrize('image_key, label_key', [
    ('images', 'labels'), ('x', 'y'), ('x_train', 'y_train'), ('arr_0', 'arr_1')])
def test_npz_names_found_by_themselves(npz, image_key, label_key):
  source = dataset.load_source(npz({image_key: IMAGES, label_key: [3, 1, 2, 0]}))
  np.testing.assert_array_equal(source.images[..., 0], IMAGES)
  assert source.labels.tolist() == [3, 1, 2, 0]
  assert source.levels == 256 and source.name == 'npz:x.npz'


def test_npz_names_given_or_single(npz):
  assert dataset.load_source(npz({'pictures': IMAGES})).labels is None
  both = {'pictures': IMAGES, 'classes': [1, 2, 3, 4], 'images': IMAGES[:2]}
  source = dataset.load_source(npz(both, image_key='pictures', label_key='classes'))
  assert source.num_images == 4 and source.labels.tolist() == [0, 1, 2, 3]
  assert source.label_names == ('1', '2', '3', '4')


def test_npz_names_missing(npz):
  two = {'a': IMAGES, 'b': IMAGES}
  message = refused(npz(two))
  assert 'images, x, x_train, arr_0' in message and 'it has: a, b' in message
  assert "no array 'c'; it has: a, b" in refused(npz(two, image_key='c'))
  message = refused(npz(two, image_key='a', label_key='z'))
  assert "no array 'z'" in message and 'label_key' in message
  assert 'it has: none' in refused(npz({}))


def test_npz_channels(npz):
  colour = np.arange(96, dtype=np.uint8).reshape(4, 2, 4, 3)
  assert dataset.load_source(npz({'x': colour})).image_shape == (2, 4, 3)
  assert dataset.load_source(npz({'x': colour}, channels=1)).image_shape == (2, 4, 1)
  alpha = np.zeros((2, 1, 1, 4), np.uint8)
  alpha[:, 0, 0] = [[200, 100, 50, 51], [200, 100, 50, 255]]
  source = dataset.load_source(npz({'x': alpha}))
  assert source.images[:, 0, 0].tolist() == [[40, 20, 10], [200, 100, 50]]


@pytest.mark.parametrize('shape', [
    (4, 48), (4, 3, 4, 4, 1), (4, 3, 32, 32), (4, 2, 2, 2)])
def test_npz_shapes_that_are_no_images(npz, shape):
  message = refused(npz({'x': np.zeros(shape)}))
  assert str(shape) in message and 'channels last' in message


def test_npz_integers_and_truth_values(npz):
  source = dataset.load_source(npz({'x': IMAGES.astype(np.int64)}))
  assert source.levels == 256 and source.images.dtype == np.uint8
  np.testing.assert_array_equal(source.images[..., 0], IMAGES)
  source = dataset.load_source(npz({'x': IMAGES > 20}))
  assert source.levels == 2 and set(source.images.ravel()) == {0, 1}


# What the range of the bits used, or the own range, makes of stored values.
INTEGERS = {
    '12 bits': ([0, 1000, 4095], np.uint16, [0, 62, 255], 256, ''),
    '10 bits in int64': ([0, 512, 600], np.int64, [0, 128, 150], 256, ''),
    '16 bits': ([0, 257, 65535], np.uint16, [0, 1, 255], 256, ''),
    '24 bits': ([0, 10**6, 10**7], np.int32, [0, 26, 255], 256, ''),
    '0..16': ([0, 5, 16], np.uint8, [0, 5, 16], 17, '0..16, under a tenth of 0..255'),
    'a mask': ([0, 1, 1], np.uint8, [0, 1, 1], 2, '0..1, under a tenth of 0..255'),
    'faint': ([100, 105, 110], np.uint8, [0, 128, 255], 256, '100..110, under a tenth'),
    'signed': ([-100, 0, 155], np.int16, [0, 100, 255], 256, 'from -100 to 155'),
    '8 bits': ([0, 100, 200], np.uint8, [0, 100, 200], 256, '')}


@pytest.mark.parametrize('case', INTEGERS)
def test_range_of_integers_is_looked_at(npz, case):
  """Their bits decide, or their own range if that is under a tenth, which is told."""
  stored, dtype, wanted, levels, told = INTEGERS[case]
  images = np.array(stored, dtype)[[[[0, 1]], [[2, 1]]]]
  source = dataset.load_source(npz({'x': images}))
  np.testing.assert_array_equal(
      source.images[..., 0], np.array(wanted)[[[[0, 1]], [[2, 1]]]])
  assert source.images.dtype == np.uint8 and source.levels == levels
  # Of two pixels, one image alone may be faint.
  notes = [note for note in source.notes if 'span less' not in note]
  assert bool(told) == bool(notes) and told in ''.join(notes)


def test_range_by_option(npz):
  """What is given holds, for integers and floats; what lies outside is clipped."""
  images = np.array([0, 50, 300])[[[[0, 1]], [[2, 1]]]]
  source = dataset.load_source(npz({'x': images}, range=(50, 152)))
  assert source.images[:, 0, 0, 0].tolist() == [0, 255] and source.levels == 256
  source = dataset.load_source(npz({'x': images / 1.}, range=(0., 100.)))
  assert source.images[..., 0].tolist() == [[[-1, 0]], [[1, 0]]]


@pytest.mark.parametrize('kind', ['npz', 'floats', 'files'])
def test_faint_images_of_a_given_range_are_told_of(npz, folder, kind):
  """Whoever gives the range is told when the images span less than a tenth of it."""
  images = np.random.default_rng(0).integers(0, 20, (6, 8, 8), np.uint8)
  for top, faint in ((255, True), (150, False)):
    if kind == 'files':
      files = {f'{i}.png': image for i, image in enumerate(images)}
      source = dataset.load_source(folder(files, range=(0, top)))
    else:
      given = images * (1. if kind == 'floats' else 1)
      source = dataset.load_source(npz({'x': given}, range=(0, top)))
    told = any('under a tenth of the range 0 to' in note for note in source.notes)
    assert told == faint


def test_hot_pixels_are_told_of_and_left_out_by_option(npz):
  """One pixel of 1e6 among floats of 0..1."""
  images = np.random.default_rng(0).random((50, 8, 8))
  images[3, 4, 4] = 1e6
  source = dataset.load_source(npz({'x': images}))
  assert 'percentile' in source.notes[0] and source.images.std() < .1
  source = dataset.load_source(npz({'x': images}, percentile=.1))
  low, high = np.percentile(images, (.1, 99.9))
  np.testing.assert_allclose(
      source.images[..., 0], np.clip((images - low) / (high - low) * 2 - 1, -1, 1),
      atol=1e-5)


FEW_DECIDE = {
    'a hot pixel': (np.uint16, lambda images: images.__setitem__((..., 0, 0), 65535)),
    'no data': (np.float32,
                lambda images: images.__setitem__((slice(3), 1), -9999)),
    'no signed data': (np.int32, lambda images: images.__setitem__((..., 1, 3), -9999))}


@pytest.mark.parametrize('case', FEW_DECIDE)
@pytest.mark.parametrize('files', [False, True])
def test_pixels_that_alone_decide_the_scale(npz, folder, case, files):
  """Whatever their type and container; by option they are left out."""
  kind, spoil = FEW_DECIDE[case]
  images = np.random.default_rng(0).integers(100, 200, (9, 32, 32)).astype(kind)
  spoil(images)


  def read(**changes):
    files_of = {f'{k}.tif': image for k, image in enumerate(images)}
    source = dataset.load_source(folder(files_of, **{'range': (), **changes}) if files
                                 else npz({'x': images}, **changes))
    return source, ' '.join(source.notes)
  told = read()[1]
  assert 'decide the scale' in told and '100..199' in told
  source, told = read(percentile=4.)
  assert 'decide' not in told
  assert source.rendering.range_of('real' if kind == np.float32 else 'wide') == (
      pytest.approx(tuple(np.percentile(images, (4., 96.))), abs=3))
  assert 'decide' not in read(range=(100., 200.))[1]


@pytest.mark.parametrize('values', [(0, 65535), (0, 30000, 65535), (0, 1)])
def test_a_ground_decides_no_scale(npz, values):
  """Masks, trimaps, and drawings whose greys fill the range."""
  images = np.random.default_rng(0).choice(values, (9, 16, 16)).astype(np.uint16)
  for given in (images, images / max(values)):
    assert 'decide the scale' not in ' '.join(
        dataset.load_source(npz({'x': given})).notes)


def test_a_fourth_channel_is_told_of(npz):
  images = np.full((4, 8, 8, 4), 255, np.uint8)
  images[..., :3] = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3))
  assert not dataset.load_source(npz({'x': images})).notes  # nothing shows through
  images[1:3, 2, 2, 3] = 9
  [note] = dataset.load_source(npz({'x': images})).notes
  assert '4th channel' in note and '2 images' in note


def test_new_images_by_the_rendering_of_the_fit(npz):
  """Floats and integers: the same value is the same level, whatever is beside it."""
  images = np.random.default_rng(0).random((20, 4, 4))
  fitted = dataset.load_source(npz({'x': images}))
  alone = dataset.load_source(npz({'x': images[:3] / 4}), False, fitted.rendering)
  low, high = images.min(), images.max()
  np.testing.assert_allclose(
      alone.images[..., 0], (images[:3] / 4 - low) / (high - low) * 2 - 1, atol=1e-5)
  beyond = dataset.load_source(npz({'x': images[:3] + 1}), False, fitted.rendering)
  assert beyond.images.max() > 1 and 'the fit had' in beyond.notes[0]
  assert rendering.from_json(fitted.rendering.to_json()).beyond  # kept so
  even = dataset.load_source(npz({'x': np.full((2, 4, 4), .5)}), False, fitted.rendering)
  assert np.ptp(even.images) == 0
  fitted = dataset.load_source(npz({'x': (images * 4095).astype(np.uint16)}))
  faint = (images[:3] * 200).astype(np.uint16)
  alone = dataset.load_source(npz({'x': faint}), False, fitted.rendering)
  np.testing.assert_array_equal(alone.images[..., 0], np.rint(faint * (255 / 4095)))
  assert alone.levels == fitted.levels == 256
  assert 'under a tenth of the range 0 to 4095' in alone.notes[0]
  fitted = dataset.load_source(npz({'x': (images * 16).astype(np.uint8)}))
  beyond = dataset.load_source(npz({'x': (images * 90).astype(np.uint8)}), False,
                               fitted.rendering)
  least, most = (images * 90).astype(int).min(), (images * 90).astype(int).max()
  assert f'from {least} to {most}, but the fit had 0 to 15' in beyond.notes[0]
  assert beyond.images.max() == 15


@pytest.mark.parametrize('top', [1, 16, 20, 255])
@pytest.mark.parametrize('of_the_fit', ['?', 'u1', 'i8', '<u2'])
@pytest.mark.parametrize('new', ['?', 'u1', 'i4', '>u2', 'f4'])
def test_new_images_in_another_type(npz, top, of_the_fit, new):
  """The same whole numbers are the same pixels, whatever type holds them."""
  if top > 1 and '?' in (of_the_fit, new):
    return
  images = np.random.default_rng(0).integers(0, top + 1, (20, 4, 4))
  images[0, 0, :2] = 0, top
  fitted = dataset.load_source(npz({'x': images.astype(of_the_fit)}))
  others = dataset.load_source(npz({'x': images[:9].astype(new)}), False,
                               fitted.rendering)
  np.testing.assert_array_equal(others.images, fitted.images[:9])
  assert others.levels == fitted.levels and not others.notes


def test_new_images_beyond_the_integers_of_the_fit(npz, options, tmp_path):
  """Integers that are no values of the fit keep the range of their container."""
  for fitted, new, scale in ((255, np.uint16([[[0, 65535]]]), 65535),
                             (4095, np.uint8([[[0, 200]]]), 255)):
    kept = dataset.load_source(npz({'x': np.arange(fitted + 1).reshape(-1, 1, 2).astype(
        np.uint8 if fitted == 255 else np.uint16)})).rendering
    found = dataset.load_source(npz({'x': new}), False, kept).images
    np.testing.assert_array_equal(found[..., 0], np.rint(new * (255. / scale)))
  # Of files as of arrays.
  for folder, dtype in (('fit', np.uint8), ('new', np.uint16)):
    (tmp_path / folder).mkdir()
    for name, pixels in (('a', RAMP * 255), ('b', RAMP.T * 255)):
      Image.fromarray(pixels.astype(dtype)).save(tmp_path / folder / f'{name}.png')
  fitted, new = (options(source='folder', path=str(tmp_path / folder))
                 for folder in ('fit', 'new'))
  fitted = dataset.load_source(fitted)
  found = dataset.load_source(new, False, fitted.rendering)
  np.testing.assert_array_equal(found.images[0], fitted.images[0])
  assert not found.notes


def test_npz_floats_fill_the_range(npz):
  source = dataset.load_source(npz({'x': IMAGES.astype(np.float64) * 3 - 100}))
  assert source.levels is None and source.images.dtype == np.float32
  np.testing.assert_allclose(
      source.images[..., 0], IMAGES / 47 * 2 - 1, atol=1e-6)
  padded = dataset.load_source(npz({'x': IMAGES.astype(np.float16)}, padding=1))
  assert padded.images[:, 0].max() == -1 and padded.images.dtype == np.float32


def test_npz_float_alpha(npz):
  images = np.array([[[[0.5, 1, 0.25, 0.5]]], [[[0, 0, 0, 1]]]])
  source = dataset.load_source(npz({'x': images}))
  np.testing.assert_allclose(source.images[0, 0, 0], [0, 1, -0.5])
  images[0, 0, 0, 3] = 255
  assert 'alpha' in refused(npz({'x': images}))


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_npz_pixels_not_finite(npz, bad):
  images = IMAGES.astype(np.float32)
  images[[1, 3], 0, 0] = bad
  message = refused(npz({'x': images}))
  assert '2 of 4 images' in message and 'first is index 1' in message


def test_npz_complex_pixels(npz):
  assert 'complex64' in refused(npz({'x': IMAGES.astype(np.complex64)}))


def test_npz_labels(npz):
  texts = np.array(['dog', 'cat', 'dog', 'ape'])
  source = dataset.load_source(npz({'x': IMAGES, 'y': texts}))
  assert source.labels.tolist() == [2, 1, 2, 0]
  assert source.label_names == ('ape', 'cat', 'dog')
  column = np.array([[3.], [1.], [2.], [0.]])
  source = dataset.load_source(npz({'x': IMAGES, 'y': column}))
  assert source.labels.tolist() == [3, 1, 2, 0]
  assert source.label_names == ('0', '1', '2', '3')
  assert 'argmax' in refused(npz({'x': IMAGES, 'y': np.eye(4)}))
  assert '3 labels for 4' in refused(npz({'x': IMAGES, 'y': [1, 2, 3]}))
  assert 'not whole' in refused(npz({'x': IMAGES, 'y': [1, np.nan, 2, 3]}))


@pytest.mark.parametrize('images, labels', [
    ('x_test', 'y_test'), ('X_test', 'Y_TEST'), ('test_images', 'test_labels'),
    ('val_image', 'val_label'), ('x', 'y')])
def test_npz_labels_are_those_of_the_images(npz, images, labels):
  """Not those of another part of the data, of as many images."""
  arrays = {'x_train': IMAGES, 'y_train': [0, 0, 0, 1], 'labels': [2, 2, 2, 3],
            images: IMAGES, labels: [5, 6, 7, 8]}
  source = dataset.load_source(npz(arrays, image_key=images))
  assert source.label_names == ('5', '6', '7', '8')
  [note] = source.notes
  assert "'x_train'" in note and 'not read' in note
  del arrays[labels]
  assert dataset.load_source(npz(arrays, image_key=images)).labels is None
  del arrays['x_train']  # the only images: labels of no name are theirs
  source = dataset.load_source(npz(arrays, image_key=images))
  assert source.label_names == ('2', '3') and not source.notes


def test_npz_of_images_alone(npz):
  """Two arrays of them, by the names that NumPy gives: the second is no labels."""
  source = dataset.load_source(npz({'arr_0': IMAGES, 'arr_1': IMAGES[:2]}))
  assert source.num_images == 4 and source.labels is None
  assert "'arr_1'" in source.notes[0]


def test_labels_of_which_nothing_is_known(npz, options):
  texts = np.array(['a', '', ' ', 'b'])
  source = dataset.load_source(npz({'x': IMAGES, 'y': texts}))
  assert source.labels.tolist() == [0, -1, -1, 1] and not source.notes
  hidden = np.ma.array([3, 4, 3, 5], mask=[0, 1, 0, 0])
  source = dataset.array_source(IMAGES, options(), labels=hidden)
  assert source.labels.tolist() == [0, -1, 0, 1] and source.label_names == ('3', '5')
  texts = np.array(['a', 'NA', 'nan', 'b'])  # NA may be Namibia: it is told of
  source = dataset.load_source(npz({'x': IMAGES, 'y': texts}))
  assert source.label_names == ('NA', 'a', 'b', 'nan')
  assert "'NA', 'nan' counts as a class" in source.notes[0]


# A label is a name: whatever its type, as many classes as there are different ones.
LABELS = {
    'numbers of a register': ([20230002, 20230001, 20230002, 10**12],
                              ('20230001', '20230002', str(10**12))),
    'signs': ([-1, 1, -1, 1], ('-1', '1')),
    'huge floats': ([1e300, 0., 1e300, 2.], ('0', '2', '1e+300')),
    'beyond int64': (np.array([2**63 + 5, 1, 1, 2**63 + 5], np.uint64),
                     ('1', str(2**63 + 5))),
    'truth values': ([True, False, True, True], ('False', 'True')),
    'bytes': (np.array(['\xe4'.encode(), b'b', b'b', b'c']), ('b', 'c', '\xe4')),
    'objects': (np.array(['x', 'y', 'y', 'z'], object), ('x', 'y', 'z'))}


@pytest.mark.parametrize('case', LABELS)
def test_labels_are_names(options, case):
  given, names = LABELS[case]
  source = dataset.array_source(IMAGES, options(), labels=given)
  assert source.label_names == names
  assert source.labels.min() == 0 and source.labels.dtype == np.int64
  given = np.asarray(given)
  same = given[:, None] == given[None]
  np.testing.assert_array_equal(source.labels[:, None] == source.labels[None], same)


@pytest.mark.parametrize('shape', [(64, 48, 3), (28, 28, 500), (28, 28, 20),
                                   (300, 200, 4), (12, 12, 60), (8, 8, 60)])
def test_axes_that_look_transposed(npz, shape):
  message = refused(npz({'x': np.zeros(shape, np.uint8)}))
  assert str(shape) in message and 'moveaxis' in message


def smooth(*shape):
  """Images of which neighbouring pixels are alike, and others not, uint8 [N, H, W]."""
  random = np.random.default_rng(0)
  found = random.normal(size=shape) * 1.
  for axis in (1, 2):
    found = found + np.roll(found, 1, axis) + np.roll(found, 2, axis)
  found -= found.min()
  return (found / found.max() * 255).astype(np.uint8)


@pytest.mark.parametrize('shape', [(30, 20, 28), (20, 30, 28), (60, 24, 20)])
def test_axes_that_look_transposed_by_their_pixels(npz, options, shape):
  """Not by their shape; an axis of channels, and the format of IDX, leave no doubt."""
  images = smooth(*shape)
  assert dataset.load_source(npz({'x': images})).image_shape == (*shape[1:], 1)
  turned = np.moveaxis(images, 0, -1)
  assert 'np.moveaxis(array, -1, 0)' in refused(npz({'x': turned}))
  sure = dataset.load_source(npz({'x': turned[..., None]}))
  assert sure.num_images == shape[1] and not sure.notes
  colours = dataset.load_source(npz({'x': np.stack([turned] * 3, -1)}))
  assert 'np.moveaxis(array, 2, 0)' in colours.notes[0]
  right = dataset.load_source(npz({'x': np.stack([images] * 3, -1)}))
  assert not right.notes


@pytest.mark.parametrize('shift', [0, 1])
def test_films_are_not_taken_for_transposed(npz, shift):
  """From one frame to the next hardly anything changes."""
  frame = smooth(1, 30, 64)[0]
  frames = np.stack([np.roll(frame, shift * k, 1)[:, :24] for k in range(20)])
  frames[0, 0, 0] += 1  # not all the same
  assert dataset.load_source(npz({'x': frames})).num_images == 20


class NoArray:
  """As PyTorch's tensors that cannot be made arrays."""

  def __init__(self, error):
    self.error = error

  def __array__(self, *given, **more):
    raise self.error


@pytest.mark.parametrize('given, fragment', [
    (NoArray(RuntimeError('requires grad')), 'requires grad'),
    (NoArray(TypeError('BFloat16')), 'BFloat16'), (None, 'NoneType'),
    ({'a': IMAGES}, 'dict'), ((image for image in IMAGES), 'generator'),
    (np.zeros((9, 3, 20, 30)), 'np.moveaxis(array, 1, -1)')])
def test_what_is_no_array_of_images(given, fragment, options):
  with pytest.raises(errors.UserError) as caught:
    dataset.array_source(given, options())
  assert fragment in str(caught.value)


def test_hidden_pixels_are_not_shown(options):
  """A mask over an array is not silently lifted; one that hides nothing is none."""
  hidden = np.ma.masked_array(IMAGES, IMAGES == IMAGES.flat[0])
  with pytest.raises(errors.UserError, match='1 pixels .*filled'):
    dataset.array_source(hidden, options())
  source = dataset.array_source(np.ma.masked_array(IMAGES), options())
  np.testing.assert_array_equal(source.images[..., 0], IMAGES)


def test_transparent_pictures_lie_where_they_are_seen(npz):
  """Black drawings on white, white ones on black; by option on either."""
  alpha = np.random.default_rng(0).integers(0, 2, (6, 4, 4)).astype(np.uint8) * 255
  for ink, ground in ((0, 'white'), (255, 'black')):
    images = np.full((6, 4, 4, 4), ink, np.uint8)
    images[..., 3] = alpha
    source = dataset.load_source(npz({'x': images}))
    assert source.rendering.background == ground
    expected = np.where(alpha == 255, ink, 255 - ink)
    np.testing.assert_array_equal(source.images[..., 0], expected)
    other = {'white': 'black', 'black': 'white'}[ground]
    assert 'every pixel' in refused(npz({'x': images}, background=other))


def test_npy_is_a_map_of_8_bits(options, tmp_path):
  np.save(tmp_path / 'x.npy', IMAGES)
  given = {'source': 'npz', 'path': str(tmp_path / 'x.npy')}
  source = dataset.load_source(options(**given, pipeline='grain'))
  assert isinstance(source.images, np.memmap) and source.labels is None
  # Where there is room it is read: what is written there later is another matter.
  kept = dataset.load_source(options(**given))
  with open(tmp_path / 'x.npy', 'r+b') as file:
    file.seek(-1, 2)
    file.write(bytes([255 - IMAGES[-1, -1, -1]]))
  np.testing.assert_array_equal(kept.images[..., 0], IMAGES)
  np.save(tmp_path / 'x.npy', IMAGES)
  read = dataset.read_images(source, [3, 0])
  assert not isinstance(read, np.memmap)
  np.testing.assert_array_equal(read[..., 0], IMAGES[[3, 0]])


@pytest.mark.parametrize('content', [
    b'', b'hello, this is text', b'PK\3\4 cut short', b'\x93NUMPY\1\0'])
def test_npz_that_is_none(options, tmp_path, content):
  (tmp_path / 'x.npz').write_bytes(content)
  message = refused(options(source='npz', path=str(tmp_path / 'x.npz')))
  assert 'np.savez' in message and 'x.npz' in message


def with_header(path, text):
  """Gives a .npy another header, written by hand."""
  text = text.encode() + b'\n'
  path.write_bytes(b'\x93NUMPY\1\0' + len(text).to_bytes(2, 'little') + text
                   + bytes(1000))


@pytest.mark.parametrize('header', [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 3, 2)",  # no end
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (2000000000, 2000000, 8)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (4, 3, 2)}",
    "{'descr': 'x', 'fortran_order': False, 'shape': (4, 3, 2)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': 'x'}", '((((', '\0', ''])
def test_npy_of_a_damaged_header(header, options, tmp_path):
  with_header(tmp_path / 'x.npy', header)
  assert 'np.savez' in refused(options(source='npz', path=str(tmp_path / 'x.npy')))


def test_pickles_are_not_executed(options, tmp_path):
  marker = tmp_path / 'marker'
  array = np.array([MakesAFile(marker)] * 4, object)
  np.save(tmp_path / 'x.npy', array)
  np.savez(tmp_path / 'x.npz', images=array)
  (tmp_path / 'y.npy').write_bytes(pickle.dumps(MakesAFile(marker)))
  for name in ('x.npy', 'x.npz', 'y.npy'):
    message = refused(options(source='npz', path=str(tmp_path / name)))
    assert 'np.savez' in message and 'allow_pickle' not in message
  assert not marker.exists()
  np.load(tmp_path / 'x.npy', allow_pickle=True)
  assert marker.exists()  # the trap works


def test_npz_of_objects_and_missing_file(npz, options):
  assert 'np.savez' in refused(npz({'x': np.array([{}, {}], object)}))
  assert 'does not exist' in refused(options(source='npz', path='nope.npz'))


# --- folder -------------------------------------------------------------------


@pytest.fixture
def folder(options, tmp_path):
  """Returns a function from {path: image array or bytes} to the data options."""
  def write(files, **changes):
    for name, content in files.items():
      path = tmp_path / 'images' / name
      path.parent.mkdir(parents=True, exist_ok=True)
      if isinstance(content, bytes):
        path.write_bytes(content)
      else:
        content = np.asarray(content)
        as_they_are = content.dtype in (np.uint8, np.uint16, np.int32, np.float32)
        Image.fromarray(content if as_they_are else content.astype(np.uint8)).save(path)
    path = str(tmp_path / 'images')
    return options(**{'source': 'folder', 'path': path, 'range': (0, 255), **changes})
  return write


def grey(value, height=2, width=2):
  return np.full((height, width), value, np.uint8)


def colour(value):
  return np.full((2, 2, 3), value, np.uint8)


def test_folder_order_labels_and_pixels(folder):
  source = dataset.load_source(folder({
      'dog/b.png': grey(1), 'cat/z.BMP': grey(2), 'dog/a.png': grey(3),
      'cat/more/c.tif': grey(4), 'cat/.hidden.png': grey(9), '.git/x.png': grey(9),
      'notes.txt': b'not an image, not listed'}))
  assert source.ids == ('cat/more/c.tif', 'cat/z.BMP', 'dog/a.png', 'dog/b.png')
  assert source.labels.tolist() == [0, 0, 1, 1] and source.labels.dtype == np.int64
  assert source.label_names == ('cat', 'dog')
  assert source.levels == 256 and source.image_shape == (2, 2, 1)
  assert source.name == 'folder:images' and source.skipped == ()
  assert isinstance(source.images, np.ndarray)  # decoded once
  assert dataset.read_images(source, [0, 1, 2, 3])[:, 0, 0, 0].tolist() == [4, 2, 3, 1]
  assert source.images[3].dtype == np.uint8


def test_folder_labels_only_where_they_mean_something(folder):
  files = {'a.png': grey(1), 'b.png': grey(2)}
  assert dataset.load_source(folder(files)).labels is None
  assert dataset.load_source(folder({'sub/c.png': grey(3)})).labels is None
  source = dataset.load_source(folder({'tub/d.png': grey(4)}))
  assert source.ids == ('a.png', 'b.png', 'sub/c.png', 'tub/d.png')
  assert source.labels.tolist() == [-1, -1, 0, 1]
  assert source.label_names == ('sub', 'tub')
  assert dataset.load_source(folder({}, use_labels=False)).labels is None


def test_one_sub_folder_is_no_label(folder):
  source = dataset.load_source(folder({'all/a.png': grey(1), 'all/b.png': grey(2)}))
  assert source.labels is None and source.label_names is None


@pytest.mark.parametrize('splits', [
    ('train', 'test'), ('Train', 'Test', 'unlabeled'), ('train2017', 'val2017'),
    ('train_images', 'test_images')])
def test_parts_of_the_data_are_no_classes(folder, splits):
  """Also where a picture lies beside them."""
  for extra, more in (({}, []), ({'preview.png': grey(9)}, [-1])):
    files = {f'{split}/{kind}/{n}.png': grey(n) for split in splits
             for n, kind in enumerate(('cat', 'dog'))}
    source = dataset.load_source(folder({**files, **extra}))
    assert source.label_names == ('cat', 'dog')
    assert sorted(source.labels.tolist()) == more + [0] * len(splits) + [1] * len(splits)
    assert 'not for classes' in ' '.join(source.notes)


def test_folders_of_systems_are_hidden(folder):
  names = ('a.png', 'b.png', '@eaDir/a.png', '$RECYCLE.BIN/b.png',
           '__MACOSX/c.png')
  files = {name: grey(1 + k) for k, name in enumerate(names)}
  source = dataset.load_source(folder(files))
  assert source.ids == ('a.png', 'b.png') and source.labels is None


def test_classes_in_a_list_of_images_are_told_of(folder, options, tmp_path):
  folder({'a.png': grey(1), 'b.png': grey(2)})
  listing = tmp_path / 'images' / 'list.csv'
  listing.write_text('file,Label\na.png,cat\nb.png,dog\n')
  data = dict(source='files', path=str(listing), range=(0, 255))
  source = dataset.load_source(options(**data))
  assert source.labels is None
  assert "'Label' is not used" in ' '.join(source.notes)
  source = dataset.load_source(options(**data, labels=str(listing)))
  assert source.label_names == ('cat', 'dog') and 'not used' not in ' '.join(source.notes)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('compression', [None, 'tiff_lzw'])
def test_tiff_that_lies_on_its_side(options, tmp_path, orientation, compression):
  """As the same picture in a PNG file, which is turned by us."""
  pixels = np.random.default_rng(0).integers(0, 256, (20, 60), np.uint8)
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  for name, more in (('a.png', {}), ('b.tif', {'compression': compression})):
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, **more)
  data = options(source='folder', path=str(tmp_path), image_size=0)
  source = dataset.load_source(data, for_fit=False)
  images = dataset.read_images(source, [0, 1])
  upright = (60, 20) if orientation > 4 else (20, 60)
  assert source.image_shape[:2] == upright
  np.testing.assert_array_equal(images[1], images[0])
  np.testing.assert_array_equal(source.thumbnail(1, 60), source.thumbnail(0, 60))
  assert beginning.sizes_of([tmp_path / 'b.tif']).tolist() == [list(upright)]


def test_tiff_whose_white_is_0(options, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 2**16, (9, 9)).astype(np.uint16)
  for name, meaning in (('a.tif', 1), ('b.tif', 0)):
    Image.fromarray(pixels if meaning else 65535 - pixels).save(
        tmp_path / name, tiffinfo={TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: meaning})
  with Image.open(tmp_path / 'b.tif') as image:
    if image.tag_v2[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] != 0:
      data = bytearray((tmp_path / 'b.tif').read_bytes())
      where = data.index(bytes([6, 1, 3, 0, 1, 0, 0, 0]))  # the tag, of one short number
      data[where + 8] = 0
      (tmp_path / 'b.tif').write_bytes(data)
  source = dataset.load_source(options(source='folder', path=str(tmp_path)),
                               for_fit=False)
  images = dataset.read_images(source, [0, 1])
  np.testing.assert_array_equal(images[1], images[0])


def test_folder_channels(folder):
  mixed = {'a.png': grey(7), 'b.png': colour((255, 0, 0))}
  source = dataset.load_source(folder(mixed))
  assert source.image_shape == (2, 2, 3)
  images = dataset.read_images(source, [0, 1])
  assert images[0, 0, 0].tolist() == [7, 7, 7]
  assert images[1, 0, 0].tolist() == [255, 0, 0]
  images = dataset.read_images(dataset.load_source(folder({}, channels=1)), [0, 1])
  assert images[:, 0, 0].tolist() == [[7], [76]]


def test_folder_sizes(folder):
  files = {'a.png': grey(1, 4, 6), 'b.png': grey(2, 4, 6), 'c.png': grey(3, 8, 6)}
  message = refused(folder(files))
  assert 'a.png is 4x6' in message and 'c.png is 8x6' in message
  assert '--config.data.image_size=N' in message
  source = dataset.load_source(folder({}, image_size=3, padding=1))
  assert source.image_shape == (5, 5, 1)
  images = dataset.read_images(source, range(3))
  assert images[:, 1:4, 1:4].reshape(3, -1).tolist() == [[1] * 9, [2] * 9, [3] * 9]


def test_large_jpeg_is_reduced_while_decoding(folder, tmp_path):
  ramp = np.tile(np.linspace(0, 255, 512), (256, 1))
  source = dataset.load_source(
      folder({'a.jpg': ramp, 'b.jpg': 255 - ramp}, image_size=8))
  images = dataset.read_images(source, [0, 1])[..., 0].astype(int)
  middle = ramp[:, 128:384].reshape(8, 32, 8, 32).mean((1, 3))
  assert np.abs(images[0] - middle).max() <= 3
  assert np.abs(images[1] - (255 - middle)).max() <= 3


def test_large_jpeg_keeps_the_detail_that_fits(folder):
  stripes = np.tile(np.repeat([0, 255], 4), (256, 64))  # one pixel wide, once resized
  source = dataset.load_source(
      folder({'a.jpg': stripes, 'b.jpg': 255 - stripes}, image_size=64))
  images = dataset.read_images(source, [0, 1])[:, 8:56, 8:56, 0].astype(int)
  assert (images[0, :, 1::2] - images[0, :, ::2]).min() > 100
  assert (images[1, :, ::2] - images[1, :, 1::2]).min() > 100


def test_folder_unreadable_files(folder):
  files = {f'{i}.png': grey(i) for i in range(3)}
  whole = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
  files['whole.jpg'] = whole
  data = folder(files, image_size=2)
  path = pathlib.Path(data.path)
  (path / 'cut.jpg').write_bytes((path / 'whole.jpg').read_bytes()[:-400])
  (path / 'text.png').write_bytes(b'x')
  (path / 'empty.gif').write_bytes(b'')
  (path / 'a.txt').write_bytes(b'x')  # not an extension Pillow reads
  os.symlink('nowhere', path / 'link.png')
  message = refused(data)
  assert '4 of 8 image files' in message and 'unreadable=skip' in message
  assert 'cut.jpg (' in message and 'empty.gif (not an image)' in message
  assert 'text.png' not in message and '...' in message  # the first three
  data.unreadable = 'skip'
  source = dataset.load_source(data)
  assert source.skipped == ('cut.jpg', 'empty.gif', 'link.png', 'text.png')
  assert source.ids == ('0.png', '1.png', '2.png', 'whole.jpg')


def test_what_helps_with_photographs(folder, monkeypatch):
  """A huge picture, and those of a telephone, are told of in words that help."""
  data = folder({'a.png': grey(1), 'b.png': np.zeros((9, 9), np.uint8)}, image_size=2)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40)
  assert 'b.png (of more than 0 million pixels: make it smaller)' in refused(data)
  found = Found([], [], [], collections.Counter({'.heic': 2, '.txt': 1}))
  note, = left_out_notes(found, [], [], 'first')
  assert '2 .heic' in note and 'pip install pillow-heif' in note


def test_folder_with_nothing_readable(folder):
  message = refused(folder({'a.png': b'x'}, unreadable='skip'))
  assert '1 of 1' in message and 'a.png (not an image)' in message


def test_folder_without_images(folder, options, tmp_path):
  (tmp_path / 'images').mkdir()
  assert 'none at all' in refused(folder({}))
  message = refused(folder({'a.txt': b'', 'b.TXT': b'', 'c.csv': b'', 'd': b''}))
  assert '1 without extension, 1 .csv, 2 .txt' in message
  assert 'is not a folder' in refused(options(source='folder', path='nowhere'))
  assert 'is not a folder' in refused(options(source='folder', path=''))


def test_folder_follows_links_but_not_in_circles(folder, tmp_path):
  data = folder({'a/1.png': grey(1), 'b/2.png': grey(2)})
  (tmp_path / 'elsewhere').mkdir()
  Image.fromarray(grey(3)).save(tmp_path / 'elsewhere' / '3.png')
  os.symlink(tmp_path / 'elsewhere', tmp_path / 'images' / 'c')
  os.symlink(tmp_path / 'images', tmp_path / 'images' / 'a' / 'up')
  source = dataset.load_source(data)
  assert source.ids == ('a/1.png', 'b/2.png', 'c/3.png')
  assert source.label_names == ('a', 'b', 'c')


def test_max_images_of_a_folder_are_spread(folder):
  files = {f'{c}/{i}.png': grey(10 * j + i) for j, c in enumerate('abc')
           for i in range(4)}
  source = dataset.load_source(folder(files, max_images=6))
  assert len(source.ids) == 6 and list(source.ids) == sorted(source.ids)
  assert len(set(source.labels.tolist())) > 1
  unlabelled = dataset.load_source(folder(files, max_images=6, use_labels=False))
  assert unlabelled.ids == source.ids  # no label enters


def test_constant_folder_is_refused(folder):
  message = refused(folder({'a.png': grey(7), 'b.png': grey(7)}))
  assert 'every pixel of every image is 7' in message


def odd_pictures():
  """Pictures of every kind of pixel, of 12x20, by the names of their files."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:12, :20]
  shape = (np.hypot(y - 6, x - 10) < 5).astype(np.uint8)
  noise = rng.integers(0, 256, (12, 20, 4), dtype=np.uint8)
  wide = shape * np.uint16(3000) + noise[..., 0]
  real = (shape + noise[..., 0] / 300.).astype(np.float32)
  return {
      'full.png': noise[..., :3], 'faint.png': shape, 'grey.png': noise[..., 0],
      'clear.png': noise, 'wide.png': wide, 'real.tif': real,
      'large.jpg': np.kron(noise[..., :3], np.ones((9, 9, 1), np.uint8))}


@pytest.mark.parametrize('changes', [
    {'image_size': 8, 'fit': 'crop'}, {'image_size': (6, 9), 'fit': 'pad'},
    {'image_size': 24},
    {'image_size': 7, 'fit': 'squash', 'background': 'white'},
    {'image_size': 8, 'range': (0, 200)}], ids=str)
@pytest.mark.parametrize('name', odd_pictures())
def test_kept_pictures_are_those_decoded_again(folder, monkeypatch, name, changes):
  """Decoded once, before the range was known, or once more after it: the same levels."""
  picture = odd_pictures()[name]
  files = {f'{number}{name}': np.roll(picture, 3 * number, 1) for number in range(3)}
  changes = {'range': (), **changes}
  data = folder(files, **changes)
  calls, stored_pixels = [], preprocess.stored_pixels
  monkeypatch.setattr(preprocess, 'stored_pixels',
                      lambda image: calls.append(0) or stored_pixels(image))
  kept = dataset.load_source(data)
  assert len(calls) == 3  # once each
  again = dataset.load_source(folder({}, pipeline='grain', **changes))
  np.testing.assert_array_equal(kept.images, dataset.read_images(again, range(3)))
  assert kept.rendering == again.rendering and kept.notes == again.notes
  new = dataset.load_source(data, for_fit=False, rendering=kept.rendering)
  np.testing.assert_array_equal(new.images, kept.images)


def test_percentiles_are_of_all_files_together(folder):
  """One picture of noise decides no more than its share of the pixels."""
  rng = np.random.default_rng(0)
  files = {f'{i}.tif': rng.normal(size=(40, 50)).astype(np.float32) for i in range(4)}
  files['noise.tif'] = 100 * rng.normal(size=(40, 50)).astype(np.float32)
  source = dataset.load_source(folder(files, percentile=12., range=()))
  expected = np.percentile(np.stack(list(files.values())), (12, 88))
  np.testing.assert_allclose(source.rendering.range_of('real'), expected)


def test_images_that_are_not_square(folder):
  """A height and a width; the same for new images of the fit."""
  source = dataset.load_source(
      folder({'a.png': grey(1, 8, 16), 'b.png': grey(9, 30, 30)}, image_size=(4, 8)))
  assert source.images.shape == (2, 4, 8, 1)


def bars_and_noise():
  """Of 12x24: two pictures of a bar on black, with ends at the edges; two of noise."""
  rng = np.random.default_rng(0)
  bars = np.zeros((2, 12, 24), np.uint8)
  bars[0, 5:7], bars[1, 3:9] = 255, 255
  return bars, rng.integers(0, 256, (2, 12, 24), dtype=np.uint8)


@pytest.mark.parametrize('pipeline', ['memory', 'grain'])
@pytest.mark.parametrize('in_files', [True, False])
def test_pictures_on_a_ground_are_shown_whole(folder, npz, in_files, pipeline):
  """Bars with both ends: with fit 'auto' as with 'pad', noise as with 'crop'."""
  def source(images, new=None, **changes):
    given = {'image_size': 12, 'pipeline': pipeline, **changes}
    data = (folder({f'{len(images)}{k}.png': image for k, image in enumerate(images)},
                   **given) if in_files else npz({'x': images}, **given))
    return dataset.load_source(data, *new or ())

  read = lambda found: dataset.read_images(found, range(found.num_images))
  bars, noise = bars_and_noise()
  found = source(bars)
  assert found.rendering.fit == 'pad'
  np.testing.assert_array_equal(read(found), read(source(bars, fit='pad')))
  assert (read(found)[:, 0] == 0).all() and read(found)[0, 5:7, [0, -1]].min() > 90
  cropped = source(bars, fit='crop')
  assert cropped.rendering.fit == 'crop' and (read(cropped)[0, 5:7] > 90).all()
  # New pictures, whatever they are, as those of the fit, but for what is asked for.
  for kept in (found, cropped):
    again = rendering.from_json(json.loads(json.dumps(kept.rendering.to_json())))
    new = source(noise if in_files else bars, (False, again))
    assert new.rendering.fit == kept.rendering.fit
  asked = source(bars, (False, found.rendering), fit='squash')
  assert asked.rendering.fit == 'squash'


def test_photographs_lose_their_edges(folder, npz):
  """Noise has no ground; where bars are as many, or proportions as wanted, no choice."""
  bars, noise = bars_and_noise()
  files = {f'noise{k}.png': image for k, image in enumerate(noise)}
  assert dataset.load_source(folder(files, image_size=12)).rendering.fit == 'crop'
  assert dataset.load_source(npz({'x': noise}, image_size=12)).rendering.fit == 'crop'
  for size in (0, (12, 24), (6, 12)):
    assert dataset.load_source(npz({'x': bars}, image_size=size)).rendering.fit == 'crop'
  files |= {f'bar{k}.png': bars[k % 2] + np.uint8(k) for k in range(3)}
  assert dataset.load_source(folder(files, image_size=12)).rendering.fit == 'pad'


def test_a_fit_of_before_resized_as_its_options_say():
  """Runs of before kept no fit: theirs is the option's."""
  stored = {'ranges': {'byte': [0, 255]}, 'background': 'black'}
  kept = rendering.from_json(stored)
  assert kept.fit == 'crop'
  assert rendering.asked_for(kept, (), 'auto', 'pad').fit == 'pad'
  assert rendering.asked_for(kept, (), 'auto', 'auto').fit == 'crop'


def on_white(width, dtype=np.uint8, top=255):
  """A dark stroke on white, 12 pixels high."""
  image = np.full((12, width), top, dtype)
  image[5:7, 2:-2] = 0
  return image


def letter():
  """An L that fills its frame of 12x24: five of eight pixels of its border are black."""
  image = np.full((12, 24), 255, np.uint8)
  image[:, :3], image[-3:], image[0, :16] = 0, 0, 0
  return image


@pytest.mark.parametrize('pipeline', ['memory', 'grain'])
@pytest.mark.parametrize('in_files', [True, False])
def test_one_ground_surrounds_all_pictures(folder, npz, tmp_path, in_files, pipeline):
  """What fills its frame lies on the ground of the others; so do new pictures."""
  def source(images, new=None, **changes):
    shutil.rmtree(tmp_path / 'images', ignore_errors=True)
    given = {'image_size': 24, 'pipeline': pipeline, 'fit': 'pad', **changes}
    data = (folder({f'{len(images)}{k}.png': image for k, image in enumerate(images)},
                   **given) if in_files else npz({'x': np.stack(images)}, **given))
    found = dataset.load_source(data, *new or ())
    return found, dataset.read_images(found, range(found.num_images))[..., 0]

  strokes = [on_white(24) - np.uint8(k) for k in range(1, 5)]  # 254 and less
  found, images = source([*strokes, letter()])
  assert found.rendering.ground == (252.,) * 3  # the median of 251..254 and the L's 0
  frame = np.r_[:6, 18:24]
  assert (images[-1][frame] == 252).all()
  for stroke, image in zip(strokes, images):  # without a seam
    assert (image[frame] == stroke[0, 0]).all()
  np.testing.assert_array_equal(images[-1][6:18], letter())
  own, others = source([*strokes, letter()], ground='own')
  assert own.rendering.ground is None and (others[-1][frame] == 0).all()
  # A new picture knows of no other; the fit does.
  kept = rendering.from_json(json.loads(json.dumps(found.rendering.to_json())))
  assert (source([letter()], (False, kept))[1][0][frame] == 252).all()
  kept = rendering.from_json(json.loads(json.dumps(own.rendering.to_json())))
  assert (source([letter()], (False, kept))[1][0][frame] == 0).all()
  # Half of them on black: none is the ground of all.
  mixed, images = source([*strokes[:2], 255 - strokes[2], 255 - strokes[3]])
  assert mixed.rendering.ground is None
  assert [image[0, 0] for image in images] == [254, 253, 3, 4]


def test_a_ground_in_other_units(folder, options, tmp_path):
  """Of 12 bits in 16, of floats, of colours with a grey picture among them."""
  root = tmp_path / 'deep'
  root.mkdir()
  for k in range(4):
    deep = on_white(18 + 2 * k, np.uint16, 4095)
    if k == 3:
      deep = 4095 - deep
    Image.fromarray(deep).save(root / f'{k}.png')
  how = {'image_size': 24, 'fit': 'pad'}
  found = dataset.load_source(options(source='folder', path=str(root), **how))
  assert found.rendering.ground == (255.,) * 3 and (found.images[3][0] == 255).all()
  real = np.stack([on_white(24)] * 3 + [letter()]) / 255 * 7.5 - 3
  data = options(**how)
  found = dataset.array_source(real.astype(np.float32), data)
  assert found.rendering.ground == (255.,) * 3 and (found.images[3][:6] == 1).all()
  paper = np.stack([on_white(24)] * 2 + [np.zeros((12, 24), np.uint8)], -1)  # yellow
  found = dataset.load_source(folder(
      {**{f'{k}.png': paper[:, k:] for k in range(4)}, 'l.png': letter()}, **how))
  assert found.rendering.ground == (255, 255, 0)
  assert (found.images[4][0] == (255, 255, 0)).all()
  assert (found.images[4][12] == letter()[6][:, None]).all()
  (tmp_path / 'films').mkdir()
  for k in range(3):  # each frame counts
    film = on_white(18 + 2 * k)
    first, second = Image.fromarray(film), Image.fromarray(255 - film)
    first.save(tmp_path / 'films' / f'{k}.tif', save_all=True, append_images=[second])
  for frames, ground in (('first', (255.,) * 3), ('all', None)):
    found = dataset.load_source(options(
        source='folder', path=str(tmp_path / 'films'), frames=frames, **how))
    assert found.rendering.ground == ground
  clear = np.zeros((12, 24, 4), np.uint8)  # black strokes on nothing lie on white
  clear[5:7, 2:-2, 3] = 255
  found = dataset.load_source(folder(
      {**{f'c{k}.png': clear[:, k:] for k in range(4)}, 'l.png': letter()}, **how))
  names = list(found.ids)
  assert found.rendering.background == 'white'
  assert (found.images[names.index('c0.png')][0] == 255).all()


def test_file_removed_after_loading(folder, tmp_path):
  source = dataset.load_source(
      folder({'a.png': grey(1), 'b.png': grey(2)}, pipeline='grain'))
  (tmp_path / 'images' / 'b.png').unlink()
  with pytest.raises(errors.UserError, match='b.png.*not any more'):
    dataset.read_images(source, [0, 1])


def save_tiff(path, *pages):
  path.parent.mkdir(parents=True, exist_ok=True)
  first, *further = [Image.fromarray(page) for page in pages]
  first.save(path, save_all=bool(further), append_images=further)


RAMP = np.linspace(0, 1, 16).reshape(4, 4)


@pytest.mark.parametrize('top, dtype, ending', [
    (4095, np.uint16, 'tif'), (1023, np.uint16, 'png'), (255, np.int32, 'tif'),
    (1, np.uint8, 'png'), (10**7, np.int32, 'tif'), (7.5, np.float32, 'tif')])
def test_files_of_fewer_bits_than_their_container(options, tmp_path, top, dtype, ending):
  """One factor for the whole folder: the others are as bright beside the brightest."""
  for name, share in (('a', 1), ('b', .6)):
    pixels = (np.round(RAMP * share) if top == 1 else RAMP * share) * top
    Image.fromarray(pixels.astype(dtype)).save(tmp_path / f'{name}.{ending}')
  source = dataset.load_source(options(source='folder', path=str(tmp_path)))
  found = source.images[..., 0].astype(float) / 255
  for image, share in zip(found, (1, .6)):
    wanted = np.round(RAMP * share) if top == 1 else RAMP * share
    np.testing.assert_allclose(image, wanted, atol=.006)
  # A new, fainter file by the same rule; one that goes beyond is told of.
  new = tmp_path / 'new'
  new.mkdir()
  faint = RAMP * .05 * top if top > 1 else np.zeros((4, 4))
  Image.fromarray(faint.astype(dtype)).save(new / f'c.{ending}')
  data = options(source='folder', path=str(new))
  image = dataset.load_source(data, False, source.rendering).images[0, ..., 0]
  np.testing.assert_allclose(image / 255, faint / top, atol=.006)


@pytest.mark.parametrize('pixels, fragment', [
    (RAMP.astype(np.float32), 'floats from 0 to 1 (a.tif)'),
    ((RAMP * 100 - 50).astype(np.int32), 'integers from -50 to 50 (a.tif)')])
def test_new_files_of_a_range_that_the_fit_had_not(options, tmp_path, pixels, fragment):
  """One line; once the range is named, they are read."""
  Image.fromarray(pixels).save(tmp_path / 'a.tif')
  kept = dataset.Rendering({'byte': (0, 255)})
  data = options(source='folder', path=str(tmp_path))
  with pytest.raises(errors.UserError) as caught:
    dataset.load_source(data, False, kept)
  assert fragment in str(caught.value) and 'data.range' in str(caught.value)
  data.range = float(pixels.min()), float(pixels.max())
  found = dataset.load_source(data, False, kept).images[0, ..., 0]
  np.testing.assert_allclose(found, RAMP * 255, atol=3)


def test_new_files_of_all_16_bits(options, tmp_path):
  """What resizing makes of black and white edges is no reason to refuse them."""
  edges = np.tile(np.repeat([0, 65535], 8), (16, 1)).astype(np.uint16)
  Image.fromarray(edges).save(tmp_path / 'a.png')
  data = options(source='folder', path=str(tmp_path), image_size=6)
  found = dataset.load_source(data, False, dataset.Rendering({'byte': (0, 255)})).images
  assert found.min() == 0 and found.max() == 255


def test_new_transparent_files_on_the_ground_of_the_fit(options, npz, tmp_path):
  """Black strokes on black are told of; another ground may be named."""
  strokes = np.zeros((2, 8, 8, 4), np.uint8)
  strokes[:, 2:6, 3, 3] = 255
  for name, image in zip('ab', strokes):
    Image.fromarray(image).save(tmp_path / f'{name}.png')
  for data, named in ((options(source='folder', path=str(tmp_path)), '(a.png)'),
                      (npz({'x': strokes}), 'image 0)')):
    told = ''.join(dataset.load_source(data, False, dataset.Rendering()).notes)
    assert '2 transparent images are one colour on black' in told and named in told
    data.background = 'white'
    found = dataset.load_source(data, False, dataset.Rendering())
    assert 'one colour' not in ''.join(found.notes)
    np.testing.assert_array_equal(found.images[0, ..., 0], 255 - strokes[0, ..., 3])


def test_transparent_files(options, tmp_path):
  """Black drawings are seen on white; those that vanish on a given ground are named."""
  rng = np.random.default_rng(0)
  for k in range(3):
    pixels = np.zeros((6, 6, 4), np.uint8)
    pixels[..., 3] = 255 * rng.integers(0, 2, (6, 6))
    Image.fromarray(pixels).save(tmp_path / f'{k}.png')
  data = options(source='folder', path=str(tmp_path))
  source = dataset.load_source(data)
  assert source.rendering.background == 'white' and not source.notes
  assert set(source.images.ravel()) == {0, 255}
  data.background = 'black'
  found = dataset.load_source(data, for_fit=False)
  assert '3 transparent images are one colour on black (0.png)' in found.notes[0]


def test_pages_of_other_numbers(options, tmp_path):
  """Pages of 8 and of 16 bits have no range in common: the file is named."""
  grey = np.full((4, 4), 200, np.uint8)
  for k in range(2):
    Image.fromarray(grey).save(tmp_path / f'{k}.tif', save_all=True, append_images=[
        Image.fromarray(grey.astype(np.uint16) * 257)])
  data = options(source='folder', path=str(tmp_path), frames='all')
  message = refused(data)
  assert '0.tif' in message and 'different types' in message


@pytest.mark.parametrize('sample_format, values', [
    (1, [0, 2**31 - 1, 2**31, 2**32 - 1]), (2, [0, 2**31 - 1, -2**31, -1])])
def test_tiff_of_32_bits(sample_format, values):
  """With a sign and without: the tag says, by which the bytes are read."""
  kind = np.uint32 if sample_format == 1 else np.int32
  stored = np.array(values, np.int64).astype(kind)
  image = Image.fromarray(stored.view(np.int32).reshape(2, 2))
  file = io.BytesIO()
  image.save(file, 'TIFF')
  tag = b'\x53\x01\x03\x00\x01\x00\x00\x00'  # 339, one number of 16 bits
  whole = file.getvalue()
  assert whole.count(tag + b'\x02') == 1  # Pillow writes numbers with a sign
  whole = whole.replace(tag + b'\x02', tag + bytes([sample_format]))
  with Image.open(io.BytesIO(whole)) as read:
    assert read.tag_v2[339] in (sample_format, (sample_format,))
    assert preprocess.stored_pixels(read).ravel().tolist() == values


def test_pillow_images_of_a_palette_are_their_colours(options):
  """In a list, as in files; arrays and numbers stay as they are."""
  rgb = np.random.default_rng(0).integers(0, 4, (3, 8, 8, 3)).astype(np.uint8) * 80
  pictures = [Image.fromarray(one) for one in rgb]
  colours = [one.quantize(256) for one in pictures]
  assert colours[0].mode == 'P'
  for one, found in zip(colours, preprocess.arrays_of(colours)):
    np.testing.assert_array_equal(found, np.asarray(one.convert('RGB')))
  source = dataset.array_source(colours, options())
  expected = dataset.array_source(np.stack([np.asarray(one.convert('RGB'))
                                            for one in colours]), options())
  np.testing.assert_array_equal(source.images, expected.images)
  assert preprocess.arrays_of(pictures)[0] is pictures[0]
  assert preprocess.arrays_of(rgb) is rgb
  cyan = Image.fromarray(rgb[0]).convert('CMYK')
  np.testing.assert_array_equal(preprocess.arrays_of([cyan])[0],
                                np.asarray(cyan.convert('RGB')))
  grey = Image.fromarray(rgb[0, :, :, 0]).convert('LA')
  assert preprocess.arrays_of([grey])[0].shape[:2] == (8, 8)


def test_integers_that_fill_a_small_type():
  """Their difference is larger than the type; a warning would be an error here."""
  images = np.array([-128, 127], np.int8).reshape(1, 1, 2, 1)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert arrays.span(images, 255) == (0, 255)
    assert arrays.span(images, 256) == (-128, 127)


def test_pages_and_films(options, tmp_path):
  """The first picture of each file, which is told, or all of them."""
  pages = [np.full((4, 4), value, np.uint8) for value in (0, 100, 200)]
  save_tiff(tmp_path / 'stack.tif', *pages)
  save_tiff(tmp_path / 'zone.tif', pages[2])
  data = options(source='folder', path=str(tmp_path))
  source = dataset.load_source(data)
  assert source.ids == ('stack.tif', 'zone.tif')
  assert 'stack.tif: 3' in source.notes[0] and 'frames=all' in source.notes[0]
  data.frames = 'all'
  source = dataset.load_source(data)
  assert source.ids == ('stack.tif#0', 'stack.tif#1', 'stack.tif#2', 'zone.tif')
  assert source.images[:, 0, 0, 0].tolist() == [0, 100, 200, 200] and not source.notes


def test_what_is_passed_over_is_told(folder, tmp_path):
  """Other endings, runs of our own, pipes; nothing of it becomes an image."""
  data = folder({'a.png': grey(1), 'b.png': grey(200), 'x.HEIF2': b'', 'y.dng': b'',
                 'z': b'', 'film.MPG': b'', 'x.h5': b'', 'run/config.json': b'{}',
                 'run/checkpoints/1': b'',
                 'run/figures/means.png': grey(3)})
  os.mkfifo(tmp_path / 'images' / 'pipe.png')
  source = dataset.load_source(data)
  assert source.ids == ('a.png', 'b.png')
  told = ' '.join(source.notes)
  assert '1 without extension, 1 .dng, 1 .h5, 1 .heif2, 1 .mpg' in told
  assert 'run/' in told


@pytest.mark.parametrize('files, names', [
    (['train/cat/1', 'train/dog/2', 'test/cat/3', 'test/dog/4'], ('cat', 'dog')),
    (['images/cat/1', 'images/dog/2'], ('cat', 'dog')),
    (['data/Train/cat/1', 'data/val/dog/2'], ('cat', 'dog')),
    (['train/1', 'test/2'], None), (['all/1', 'all/2'], None),
    (['train/1', 'cat/2'], ('cat', 'train')), (['cat/test/1', 'dog/2'], ('cat', 'dog'))])
def test_sub_folders_that_are_no_classes(folder, files, names):
  source = dataset.load_source(folder({
      f'{name}.png': grey(60 * k) for k, name in enumerate(files)}))
  assert source.label_names == names
  splits = {name.split('/')[0] for name in files} == {'train', 'test'}
  assert ('parts of the data' in ' '.join(source.notes)) or not splits


def test_pictures_within_a_table(options, tmp_path):
  """What a table has in the place of names is told."""
  path = tmp_path / 'set.parquet'
  for cells, kind in (([{'bytes': b'x', 'path': 'a.png'}] * 3, 'dict'), ([7, 8], 'int')):
    pyarrow.parquet.write_table(pyarrow.table({'image': cells}), path)
    assert f"column 'image' holds {kind}" in refused(
        options(source='files', path=str(path)))


def test_locked_sub_folder(folder, monkeypatch):
  """As the system answers; nothing is locked to root, who may run the tests."""
  data = folder({'a.png': grey(1), 'b.png': grey(200), 'secret/c.png': grey(3)})
  scandir = os.scandir

  def locked(path):
    if os.path.basename(path) == 'secret':
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', locked)
  assert 'secret/ (Permission denied)' in refused(data)
  data.unreadable = 'skip'
  source = dataset.load_source(data)
  assert source.num_images == 2 and source.skipped == ('secret/',)


def test_link_to_itself(folder, tmp_path):
  data = folder({'a.png': grey(1), 'b.png': grey(200)})
  (tmp_path / 'images' / 'loop.png').symlink_to('loop.png')
  assert 'loop.png' in refused(data)
  data.unreadable = 'skip'
  assert dataset.load_source(data).skipped == ('loop.png',)


def test_file_names_that_are_not_utf8(folder, tmp_path):
  data = folder({'a.png': grey(1), 'b.png': grey(2)})
  old = os.fsencode(tmp_path / 'images' / 'b.png')
  try:
    os.rename(old, old.replace(b'b.png', b'\xff.png'))
  except OSError:
    pytest.skip('this file system has UTF-8 names only')
  source = dataset.load_source(data)
  assert source.ids[1].encode('utf-8')  # can be written to a results file
  assert dataset.read_images(source, [1]).max() == 2
  # Sorting finds the files by their ids.
  files = [file_of(tmp_path / 'images', name) for name in source.ids]
  assert [os.fsencode(path.name) for path in files] == [b'a.png', b'\xff.png']


# --- tfds: what is prepared is in test_prepare_tfds.py --------------------------


@pytest.fixture
def offline(monkeypatch):
  """Makes every connection fail at once."""
  import requests
  def refuse(url, **_):
    raise requests.ConnectionError(f'no route to {url}')
  monkeypatch.setattr(requests, 'head', refuse)


def test_tfds_not_prepared_and_no_network(options, tmp_path, offline):
  message = refused(options(source='tfds', name='cifar10', path=str(tmp_path)))
  assert 'no connection to www.cs.toronto.edu' in message
  assert all(part in message for part in (
      str(tmp_path), 'prepare_tfds', 'folder', 'npz', 'idx'))


@pytest.mark.parametrize('name', ['no_such_set', 'cifar10:0.0.9', 'no such set'])
def test_tfds_name_unknown(options, tmp_path, offline, name):
  message = refused(options(source='tfds', name=name, path=str(tmp_path)))
  assert repr(name) in message and str(tmp_path) in message


def test_tfds_name_missing(options):
  assert "name=''" in refused(options(source='tfds'))


@pytest.mark.parametrize('package', [
    'array_record.python.array_record_data_source', 'importlib_resources',
    'tensorflow_datasets'])
def test_tfds_package_missing(options, monkeypatch, package):
  monkeypatch.setitem(sys.modules, package, None)
  message = refused(options(source='tfds', name='cifar10'))
  assert package.split('.')[0] in message and 'pip install' in message


def test_tfds_preparing_needs_a_missing_package(options, tmp_path, monkeypatch):
  import tensorflow_datasets as tfds
  def prepare(self, **_):
    raise ModuleNotFoundError("No module named 'tensorflow'", name='tensorflow')
  monkeypatch.setattr(tfds_reader, '_check_reachable', lambda builder: None)
  monkeypatch.setattr(
      tfds.core.DatasetBuilder, 'download_and_prepare', prepare)
  message = refused(options(source='tfds', name='cifar10', path=str(tmp_path)))
  assert 'needs the package tensorflow' in message and 'prepare_tfds' in message


def test_decoders_say_nothing_by_themselves(folder, tmp_path, capfd):
  """libtiff writes of damage on the error output; a person gets our line alone."""
  data = folder({'a.png': grey(1, 16, 16), 'b.png': grey(2, 16, 16)}, unreadable='skip')
  noise = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
  file = tmp_path / 'images' / 'c.tif'
  Image.fromarray(noise).save(file, compression='tiff_lzw')
  file.write_bytes(file.read_bytes()[:-60])
  assert dataset.load_source(data).skipped == ('c.tif',)
  os.write(2, b'still open')
  assert capfd.readouterr().err == 'still open'


def test_files_of_other_units_among_others_are_told_of(folder):
  """A mask of 0 and 1 among photographs of 0..255; not of a set that is faint as a whole.
  """
  full = np.random.default_rng(0).integers(0, 256, (2, 8, 8)).astype(np.uint8)
  mask = (full[0] > 99).astype(np.uint8)
  files = {'a.png': full[0], 'b.png': full[1], 'mask.png': mask}
  source = dataset.load_source(folder(files, range=()))
  for notes in (source.notes, dataset.load_source(
      folder(files, range=()), False, source.rendering).notes):
    assert '1 of 3 files span less than a tenth' in ''.join(notes)
    assert '(mask.png)' in ''.join(notes)
  plain = folder({'mask.png': grey(7, 8, 8)}, range=())  # a plain one is told elsewhere
  assert 'span less' not in ''.join(dataset.load_source(plain).notes)
  only = folder({name: mask.T for name in files} | {'a.png': mask}, range=())
  assert 'span less' not in ''.join(dataset.load_source(only).notes)


@pytest.mark.parametrize('scale', [1, 1 / 255])
def test_rows_of_other_units_among_others_are_told_of(npz, scale):
  """As of files, of integers and of floats; a plain one, and a faint set, are not."""
  full = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.uint8)
  mask, plain = full[:1] > 99, np.full((1, 8, 8), 7)
  every = lambda *parts: npz({'x': np.concatenate(parts) * (
      np.uint8(1) if scale == 1 else np.float32(scale))})
  source = dataset.load_source(every(full, mask.astype(np.uint8)))
  for notes in (source.notes, dataset.load_source(
      every(full, mask.astype(np.uint8)), False, source.rendering).notes):
    assert '1 of 7 images of' in ''.join(notes) and '(index 6)' in ''.join(notes)
  for parts in ((full, plain.astype(np.uint8)), (mask.astype(np.uint8),) * 2):
    source = dataset.load_source(every(*parts), False)
    assert 'span less' not in ''.join(source.notes)


@pytest.mark.parametrize('low, high, advised', [
    (0., .9, '(0,1)'), (-.8, .9, '(-1,1)'), (0., 240., '(0,255)'), (3., 4e3, '(0,65535)'),
    (-9., 7., '(-9,7)')])
def test_the_range_that_is_advised_is_not_that_of_faint_pictures(folder, low, high,
                                                                 advised):
  """Of new floats, of which the fit tells nothing: as programs store them."""
  fit = dataset.load_source(folder({'a.png': grey(0), 'b.png': grey(255)}))
  data = folder({'new/x.tif': np.array([[low, high]], np.float32)}, range=())
  data.path += '/new'
  with pytest.raises(errors.UserError) as caught:
    dataset.load_source(data, False, dataclasses.replace(
        fit.rendering, ranges={'byte': (0, 255)}))
  assert f'--config.data.range="{advised}"' in str(caught.value)


def test_new_integers_beyond_all_that_the_fit_tells(npz):
  """As of files: -100 is nothing of which bytes say what it is."""
  fit = dataset.load_source(npz({'x': np.array([0, 255], np.uint8)[:, None, None]}))
  with pytest.raises(errors.UserError, match='-100 to 146.*set --config.data.range'):
    dataset.load_source(npz({'x': np.array([-100, 146], np.int16)[:, None, None]}), False,
                        fit.rendering)


def test_new_floats_of_one_value_are_no_mistake_of_their_own(npz):
  """That nothing tells what is black and white in them is one."""
  fit = dataset.load_source(npz({'x': np.array([0, 255], np.uint8)[:, None, None]}))
  source = dataset.load_source(npz({'x': np.full((2, 1, 1), .5)}), False, fit.rendering)
  assert source.levels is None
  known = dataclasses.replace(fit.rendering, in_levels=True)
  with pytest.raises(errors.UserError, match='whole numbers of 0 to 255'):
    dataset.load_source(npz({'x': np.full((2, 1, 1), .5)}), False, known)
  even = dataset.load_source(npz({'x': np.full((2, 1, 1), .6)}, range=(0, 1)), False,
                             known)
  assert even.levels == 256 and (even.images == 153).all()


@pytest.mark.parametrize('whole, low, high', [
    (range(256), 0, 1), (range(17), 0, 1), (range(0, 4096, 5), -1, 1),
    (range(-100, 1900, 9), 0, 1), (range(256), 0, 255)])
def test_floats_of_a_fit_to_integers_as_the_message_advises(npz, whole, low, high):
  """By data.range, or by what it says to compute: the levels of the fit."""
  array = np.array(whole, np.uint8 if max(whole) < 256 else np.int16)[:, None, None]
  fit = dataset.load_source(npz({'images': array}))
  known = dataclasses.replace(fit.rendering, in_levels=True)
  least, most = fit.rendering.whole
  x = low + (high - low) * ((array - float(least)) / (most - least))
  if high == 255:
    x = np.clip(x + .25, 0, 255)  # else they are whole numbers already
  with pytest.raises(errors.UserError) as caught:
    dataset.load_source(npz({'images': x}), False, known)
  advised = str(caught.value)
  option, computed = re.search(
      r'range="(.*?)", or give whole numbers, such as (np.rint.*)$', advised).groups()
  expected = dataset.images_at(fit, range(len(whole)))
  for new in ({'range': ast.literal_eval(option)}, {}):
    given = x if new else eval(computed, {'np': np, 'x': x})
    source = dataset.load_source(npz({'images': given}, **new), False, known)
    assert source.levels is not None
    np.testing.assert_allclose(dataset.images_at(source, range(len(whole))), expected,
                               atol=2.01 / 255)  # one level


@pytest.mark.parametrize('given', [{'percentile': 5.}, {'range': (.2, .7)}])
def test_floats_beyond_the_range_are_read_again_as_by_the_fit(npz, given):
  """Clipped, but for what noise has added; without it, to the bit."""
  images = np.random.default_rng(0).random((9, 4, 4))
  fit = dataset.load_source(npz({'x': images}, **given))
  assert fit.images.min() == -1 and fit.images.max() == 1
  again = dataset.load_source(npz({'x': images}), False, fit.rendering)
  np.testing.assert_array_equal(again.images, fit.images)
  assert 'beyond is clipped' in ' '.join(again.notes)
  assert not rendering.from_json(fit.rendering.to_json()).beyond
  noisy = dataclasses.replace(fit.rendering, beyond=True)
  seen = dataset.load_source(npz({'x': images}), False, noisy).images
  assert seen.min() < -1 and seen.max() > 1
  np.testing.assert_array_equal(np.clip(seen, -1, 1), fit.images)


def test_a_range_given_to_the_fit_is_not_that_of_floats_up_to_1(npz):
  """They would all be black."""
  images = np.arange(256, dtype=np.uint8)[:, None, None]
  fit = dataset.load_source(npz({'x': images}, range=(0, 255)))
  known = dataclasses.replace(fit.rendering, in_levels=True)
  with pytest.raises(errors.UserError, match='np.rint'):
    dataset.load_source(npz({'x': images / 255}, range=(0, 255)), False, known)


def test_new_files_far_smaller_than_those_of_the_fit_are_told_of(folder):
  """8 are enlarged twice to 16, no more; of the fit's own something else tells."""
  full = np.random.default_rng(0).integers(0, 256, (20, 20)).astype(np.uint8)
  data = folder({'a.png': full, 'b.png': full[:8, :8], 'c.png': full[:7, :7],
                 'd.png': full[:1, :1]}, image_size=16)
  told = [note for note in dataset.load_source(data, for_fit=False).notes
          if 'enlarged' in note]
  assert len(told) == 1 and '2 of 4 pictures' in told[0] and 'c.png, 7x7' in told[0]
  assert not any('enlarged' in note for note in dataset.load_source(data).notes)


@pytest.mark.parametrize('fit', ['crop', 'pad', 'squash'])
def test_new_files_that_lose_a_part_at_the_shape_of_the_fit_are_told_of(folder, fit):
  """Of 20x30 a third is lost; 20x22 is near enough; only where the middle is kept."""
  full = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
  data = folder({'a.png': full[:, :20], 'b.png': full[:, :22], 'c.png': full,
                 'd.png': full}, image_size=8, fit=fit)
  source = dataset.load_source(data, for_fit=False)
  told = [note for note in source.notes if 'cropped' in note]
  assert len(told) == (fit == 'crop')
  assert all('2 of 4 pictures' in note and '(c.png, 20x30: by 33%' in note
             for note in told)
  assert not any('cropped' in note for note in dataset.load_source(data).notes)


def test_coloured_files_of_a_fit_to_grey_ones_are_told_of(folder):
  """Not those that are grey in a container of colours."""
  grey_one = np.repeat(np.random.default_rng(0).integers(0, 256, (8, 8, 1)), 3, axis=2)
  red = grey_one * [1, 0, 0]
  kept = dataset.Rendering({'byte': (0, 255)})
  for number, files in enumerate(({'a.png': grey_one},
                                  {'a.png': grey_one, 'b.png': red})):
    data = folder(files, channels=1, range=())
    told = ''.join(dataset.load_source(data, False, kept).notes)
    assert ('1 of 2 files are coloured (b.png)' in told) == bool(number)
  data.channels = 3
  assert 'coloured' not in ''.join(dataset.load_source(data, False, kept).notes)


# --- colours of 16 bits ----------------------------------------------------------


def png_of(pixels) -> bytes:
  """A PNG file of 16 bits, by its standard; [H, W, 2] is grey with alpha, 4 has alpha."""
  height, width, channels = pixels.shape
  part = lambda kind, body: (
      struct.pack('>I', len(body)) + kind + body
      + struct.pack('>I', zlib.crc32(kind + body)))
  kind = {2: 4, 3: 2, 4: 6}[channels]
  lines = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  return (b'\x89PNG\r\n\x1a\n'
          + part(b'IHDR', struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0))
          + part(b'IDAT', zlib.compress(lines)) + part(b'IEND', b''))


def tiff_of(pixels, order='<', packed=False) -> bytes:
  """A TIFF file of 16-bit colours [H, W, 3], by its standard."""
  height, width, channels = pixels.shape
  body = pixels.astype(f'{order}u2').tobytes()
  body = zlib.compress(body) if packed else body
  body += b'\0' * (len(body) % 2)
  entries = {256: width, 257: height, 258: None, 259: 8 if packed else 1, 262: 2, 273: 8,
             277: channels, 278: height, 279: len(body), 284: 1}
  begin = 8 + len(body)
  end = begin + 2 + 12 * len(entries) + 4
  table = struct.pack(f'{order}H', len(entries))
  for tag, value in entries.items():
    if value is None:  # three numbers, which stand after the table
      table += struct.pack(f'{order}HHII', tag, 3, channels, end)
    else:
      table += struct.pack(f'{order}HHII', tag, 4, 1, value)
  return (struct.pack(f'{order}2sHI', b'II' if order == '<' else b'MM', 42, begin) + body
          + table + struct.pack(f'{order}I', 0)
          + struct.pack(f'{order}3H', *3 * [16]))


DEEP = np.random.default_rng(0).integers(0, 4096, (8, 9, 3)).astype(np.uint16)


@pytest.mark.parametrize('name, write', [
    ('png', png_of),
    ('png', lambda a: png_of(np.dstack([a, np.full_like(a[..., 0], 65535)]))),
    *(('tif', functools.partial(tiff_of, order=order, packed=packed))
      for order in '<>' for packed in (False, True))],
    ids=['png', 'opaque', 'little', 'little packed', 'big', 'big packed'])
@pytest.mark.parametrize('pipeline', ['memory', 'grain'])
def test_colours_of_12_bits_in_16(folder, name, write, pipeline):
  """All bits count: the range is 0..4095, as of an array of the same pixels."""
  files = {f'a.{name}': write(DEEP), f'b.{name}': write(DEEP[::-1])}
  source = dataset.load_source(folder(files, range=(), pipeline=pipeline))
  expected = np.rint(DEEP / 4095 * 255)
  np.testing.assert_array_equal(source.images[0], expected)
  assert not source.notes
  kept = dataset.load_source(folder(files, range=()), False, source.rendering)
  np.testing.assert_array_equal(kept.images[0], expected)


@pytest.mark.parametrize('name, write', [
    ('png', lambda a: png_of(np.dstack([a, a[..., 0]]))),
    ('png', lambda a: png_of(a[..., :2])),
    ('ppm', lambda a: b'P6 9 8 65535\n' + a.astype('>u2').tobytes())],
    ids=['transparent', 'grey and alpha', 'ppm'])
def test_colours_of_which_8_bits_are_read_are_told_of(folder, name, write):
  """Of a fit's own files and of new ones."""
  files = {f'{k}.{name}': write(DEEP[::step] * 16) for k, step in (('a', 1), ('b', -1))}
  source = dataset.load_source(folder(files))
  for notes in (source.notes, dataset.load_source(
      folder(files), False, source.rendering).notes):
    told = f'2 files store colours or transparency in 16 bits (a.{name})'
    assert told in ''.join(notes)
