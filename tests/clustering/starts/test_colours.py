"""Histograms of colours, against loops over pixels; and when they are a space."""

import itertools

import numpy as np
import pytest

from jdiffclust.clustering.starts import colours as lib
from jdiffclust.clustering.starts import neighbours, spaces
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.config import default_config
from tests.helpers import refused


def by_loops(image):
  """Each pixel's share of each of 4x4x4 colours, linear between those of 1/8, 3/8, ..."""
  found = np.zeros((4, 4, 4))
  pixels = image.reshape(-1, 3)
  for pixel in np.clip((pixels + 1) / 2, 1 / 8, 7 / 8):
    for levels in itertools.product(range(4), repeat=3):
      shares = [max(0, 1 - 4 * abs(value - (level + .5) / 4))
                for value, level in zip(pixel, levels)]
      found[levels] += np.prod(shares) / len(pixels)
  return np.sqrt(found)


def test_histograms_are_those_of_loops():
  """Of random images, some pixels beyond black and white; any number of them."""
  images = np.random.default_rng(0).uniform(-1.2, 1.2, (lib.BATCH + 2, 3, 4, 3))
  found = lib.describe(images)
  assert found.dtype == np.float32 and found.shape == (len(images), 4, 4, 4)
  for place in (0, 1, -1):
    np.testing.assert_allclose(found[place], by_loops(images[place]), atol=1e-6)
  np.testing.assert_allclose(np.sum(found**2, axis=(1, 2, 3)), 1, atol=1e-5)


def test_places_do_not_matter():
  """The same pixels anywhere; distances of images without common colours are sqrt(2)."""
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (5, 5, 3)).astype(np.float32)
  moved = rng.permutation(image.reshape(-1, 3)).reshape(image.shape)
  one, other, black, white = lib.describe(np.stack([
      image, moved, np.full_like(image, -1), np.ones_like(image)]))
  np.testing.assert_allclose(one, other, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(black - white), 2**.5, rtol=1e-6)


def coloured(count, seed=0):
  """Patches of red or green at random places on grey, and which."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(2, size=count)
  images = np.zeros((count, 8, 8, 3), np.float32)
  for image, label, (y, x) in zip(images, labels, rng.integers(0, 5, (count, 2))):
    image[y:y + 3, x:x + 3, label] = 1
  return images + .1 * rng.normal(size=images.shape).astype(np.float32), labels


def test_grey_images_have_none():
  """One channel, two, or three that are the same up to a little."""
  images, _ = coloured(9)
  grey = np.repeat(images[..., :1], 3, axis=-1)
  nearly = grey + np.float32(.003) * np.random.default_rng(0).normal(size=grey.shape)
  assert lib.in_colour(images)
  for other in (grey, nearly, images[..., :1], images[..., :2]):
    assert not lib.in_colour(other)


def settled():
  """The default config, no symmetry to be found."""
  config = default_config()
  config.num_clusters = 2
  config.views.update(num=4, sets=1, flip=0., upside_down=0., quarter_turns=0.)
  return config


def test_the_default_leaves_grey_images_as_they_were():
  """The same bits as of pixels and edges; with colour there is a space more."""
  config, images = settled(), coloured(30)[0]
  grey = np.repeat(images[..., :1], 3, axis=-1)
  shape, flat = images.shape[1:], lambda some: some.reshape(len(some), -1)
  assert len(neighbours.spaces_of(flat(images), shape, config, 0)) == 3
  assert spaces.of_colours(flat(grey), shape, config, 0) == []
  tau = fit_start('neighbours', flat(grey), shape, config)(flat(grey), None)
  config.start.spaces = ('pixels', 'edges')
  np.testing.assert_array_equal(
      tau, fit_start('neighbours', flat(grey), shape, config)(flat(grey), None))


def test_colours_alone():
  """They find what differs in colour, new images too; of grey ones they are refused."""
  config, (images, labels) = settled(), coloured(150)
  config.start.spaces = ('colours',)
  flat = images.reshape(150, -1)
  tau = fit_start('neighbours', flat[:100], (8, 8, 3), config)(flat, None)
  found = tau.argmax(axis=1)
  assert np.mean(found == labels) in (0., 1.)
  assert 'config.start.spaces' in refused(
      neighbours.spaces_of, flat[:, ::3], (8, 8, 1), config, 0)


@pytest.mark.parametrize('level', [-1., 0., .3, 1.])
def test_one_colour(level):
  """The two or fewer levels of each channel that it lies between."""
  found, = lib.describe(np.full((1, 2, 2, 3), level))
  np.testing.assert_allclose(found, by_loops(np.full((2, 2, 3), level)), atol=1e-6)
