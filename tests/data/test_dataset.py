"""The checks and conversions that all sources share."""

import pickle

import hypothesis
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from jdiffclust import errors
from jdiffclust.data import dataset

FEW = hypothesis.settings(max_examples=25, deadline=None)


def refused(data):
  """Returns the one line a mistake is answered with."""
  with pytest.raises(errors.UserError) as caught:
    dataset.load_source(data)
  message = str(caught.value)
  assert '\n' not in message and message
  return message


def test_digits_are_those_of_scikit_learn(options):
  source = dataset.load_source(options())
  digits = datasets.load_digits()
  np.testing.assert_array_equal(source.images[..., 0], digits.images)
  np.testing.assert_array_equal(source.labels, digits.target)
  assert source.images.dtype == np.uint8 and source.labels.dtype == np.int64
  assert (source.name, source.levels, source.num_images) == ('digits', 17, 1797)
  assert source.image_shape == (8, 8, 1)
  assert source.label_names == tuple('0123456789')
  assert source.ids[:2] == ('0', '1') and source.ids[-1] == '1796'
  assert source.skipped == ()


def test_labels_can_be_left_alone(options):
  source = dataset.load_source(options(use_labels=False))
  assert source.labels is None and source.label_names is None


def test_size_channels_and_padding(options):
  source = dataset.load_source(options(image_size=16, channels=3, padding=2))
  assert source.image_shape == (20, 20, 3) == source.images[0].shape
  assert source.levels == 256  # a thin line gets fainter, instead of vanishing
  np.testing.assert_array_equal(source.images[:, :2], 0)
  padded = dataset.load_source(options(padding=4))
  np.testing.assert_array_equal(
      padded.images[:, 4:12, 4:12, 0], datasets.load_digits().images)


def test_max_images_keeps_some_of_everywhere(options):
  """Whatever the order, the same ones each time, and not one in so many."""
  source = dataset.load_source(options(max_images=200))
  assert source.num_images == len(source.ids) == len(source.labels) == 200
  rows = np.array(source.ids, int)
  assert (np.diff(rows) > 0).all() and np.unique(np.diff(rows)).size > 5
  assert (np.histogram(rows, 4, (0, 1797))[0] > 25).all()
  digits = datasets.load_digits()
  np.testing.assert_array_equal(source.labels, digits.target[rows])
  np.testing.assert_array_equal(source.images[..., 0], digits.images[rows])
  assert dataset.load_source(options(max_images=200)).ids == source.ids
  assert dataset.load_source(options(max_images=9999)).num_images == 1797


def test_levels_meet_minus_one_and_one_exactly():
  scaled = dataset.scale_to_model(np.array([0, 8, 16], np.uint8), 17)
  assert scaled.dtype == np.float32 and scaled.tolist() == [-1, 0, 1]
  scaled = dataset.scale_to_model(np.array([0, 255], np.uint8), 256)
  assert scaled.tolist() == [-1, 1]


def test_snapping_is_to_the_nearest_level_in_range():
  """Stored images stay as they are; overshoot is cut; real values are only clipped."""
  stored = dataset.scale_to_model(np.arange(17, dtype=np.uint8), 17)
  np.testing.assert_array_equal(dataset.snap_to_levels(stored, 17), stored)
  found = dataset.snap_to_levels(np.array([-3, -.9, -.1, .4, .6, 2.]), 3)
  assert found.tolist() == [-1, -1, 0, 0, 1, 1] and found.dtype == np.float32
  np.testing.assert_allclose(dataset.snap_to_levels([-3, -.9, .6, 2], None),
                             [-1, -.9, .6, 1], rtol=1e-6)


def test_scale_keeps_jax_arrays_and_real_values():
  scaled = dataset.scale_to_model(jnp.array([0, 16], jnp.uint8), 17)
  assert isinstance(scaled, jnp.ndarray) and scaled.dtype == jnp.float32
  assert scaled.tolist() == [-1, 1]
  real = np.float32([-1, 0.25, 1])
  np.testing.assert_array_equal(dataset.scale_to_model(real, None), real)


@FEW
@hypothesis.given(indices=st.lists(st.integers(0, 1796), max_size=9))
def test_read_images_in_the_order_asked(indices):
  images = np.arange(1797 * 4).astype(np.uint8).reshape(1797, 2, 2, 1)
  source = dataset.ImageSource('x', images, [''] * 1797, None, None, 256)
  read = dataset.read_images(source, indices)
  assert read.shape == (len(indices), 2, 2, 1) and read.dtype == np.uint8
  for image, index in zip(read, indices):
    np.testing.assert_array_equal(image, images[index])


def save(path, **arrays):
  np.savez(path, **arrays)
  return str(path)


def test_one_image_is_refused(options, tmp_path):
  path = save(tmp_path / 'one.npz', images=np.zeros((1, 4, 4), np.uint8))
  assert 'has 1 image' in refused(options(source='npz', path=path))
  path = save(tmp_path / 'none.npz', images=np.zeros((0, 4, 4), np.uint8))
  assert 'has 0 image' in refused(options(source='npz', path=path))


def test_a_path_is_no_array(options):
  """Whoever names a folder is told what reads it."""
  with pytest.raises(errors.UserError, match="'photos' is a path.*data.path.*load"):
    dataset.array_source('photos', options())
  with pytest.raises(errors.UserError, match="'a.png' is a path.*DiffusionClustering"):
    dataset.array_source(['a.png', 'b.png'], options())


def test_images_without_pixels_are_refused(options, tmp_path):
  path = save(tmp_path / 'flat.npz', images=np.zeros((3, 0, 4), np.uint8))
  assert '(0, 4, 1)' in refused(options(source='npz', path=path))


@pytest.mark.parametrize('value, shown', [
    (np.uint8(7), '7'), (np.float32(0.25), '0.25')])
def test_constant_data_is_refused(options, tmp_path, value, shown):
  path = save(tmp_path / 'same.npz', images=np.full((5, 4, 4), value))
  message = refused(options(source='npz', path=path))
  assert f'every pixel of every image is {shown}: nothing to cluster' in message


def test_equal_images_are_refused(options, tmp_path):
  images = np.tile(np.arange(16, dtype=np.uint8).reshape(4, 4), (6, 1, 1))
  path = save(tmp_path / 'same.npz', images=images)
  assert 'all 6 images' in refused(options(source='npz', path=path))
  images[5, 0, 0] = 1  # one pixel of the last image is enough
  path = save(tmp_path / 'other.npz', images=images)
  assert dataset.load_source(options(source='npz', path=path)).num_images == 6


def test_sources_of_lazy_images_pickle(options, tmp_path):
  np.save(tmp_path / 'x.npy', np.arange(32, dtype=np.uint8).reshape(2, 4, 4))
  source = dataset.load_source(
      options(source='npz', path=str(tmp_path / 'x.npy'), padding=1, pipeline='grain'))
  assert not isinstance(source.images, np.ndarray)  # the map stays unread
  again = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(again.images[1], source.images[1])
  np.testing.assert_array_equal(
      dataset.read_images(again, [1, 0])[:, 1:5, 1:5, 0],
      np.arange(32).reshape(2, 4, 4)[::-1])
