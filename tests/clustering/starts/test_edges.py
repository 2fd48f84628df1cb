"""Histograms of edge directions, against loops and closed forms."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from jdiffclust.clustering.starts import edges, neighbours
from jdiffclust.config import default_config


def by_loops(image):
  """The definition, pixel by pixel, in double precision."""
  height, width, channels = image.shape
  image = np.asarray(image, np.float64)
  at = lambda y, x, c: image[min(max(y, 0), height - 1), min(max(x, 0), width - 1), c]
  histogram = np.zeros((4, 4, 8))
  for y in range(height):
    for x in range(width):
      slopes = [((at(y + 1, x, c) - at(y - 1, x, c)) / 2,
                 (at(y, x + 1, c) - at(y, x - 1, c)) / 2) for c in range(channels)]
      rise, run = max(slopes, key=lambda slope: slope[0]**2 + slope[1]**2)
      turns = (np.arctan2(rise, run) / (2 * np.pi) * 8) % 8
      row, column = (y + .5) / height * 4 - .5, (x + .5) / width * 4 - .5
      for a in range(4):
        for b in range(4):
          cell = max(0, 1 - abs(row - a)) * max(0, 1 - abs(column - b))
          for d in range(8):
            away = min(abs(turns - d), 8 - abs(turns - d))
            histogram[a, b, d] += cell * max(0, 1 - away) * np.hypot(rise, run)
  return histogram / np.linalg.norm(histogram)


@hypothesis.settings(deadline=None, max_examples=8)
@hypothesis.given(height=st.integers(3, 11), width=st.integers(3, 11),
                  channels=st.sampled_from((1, 3)), seed=st.integers(0, 99))
def test_against_loops(height, width, channels, seed):
  """Any shape and number of channels."""
  image = np.random.default_rng(seed).uniform(-1, 1, (height, width, channels)).astype(
      np.float32)
  np.testing.assert_allclose(jax.jit(edges.orientations)(image), by_loops(image),
                             atol=2e-5)


@pytest.mark.parametrize('turns', (0, 1, 2.5, 4, 6.25, 7.5))
def test_a_ramp_has_one_direction(turns):
  """The two directions beside that of a plane share it linearly, in every cell."""
  y, x = np.mgrid[:12, :12]
  angle = 2 * np.pi * turns / 8
  image = .05 * (np.sin(angle) * y + np.cos(angle) * x)[..., None].astype(np.float32)
  # Of the border, where it is repeated, the slope is another: look at the inner cells.
  inner = np.asarray(edges.orientations(image))[1:3, 1:3]
  wanted = np.zeros(8)
  wanted[int(turns)] = 1 - turns % 1
  wanted[(int(turns) + 1) % 8] += turns % 1
  shares = inner / inner.sum(axis=-1, keepdims=True)
  np.testing.assert_allclose(shares, np.broadcast_to(wanted, (2, 2, 8)), atol=1e-5)


class Variants(chex.TestCase):
  """With and without compilation."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_turned_images(self):
    """A quarter turn turns cells and directions; contrast and brightness do not count."""
    describe = self.variant(edges.orientations)
    image = np.random.default_rng(0).uniform(-1, 1, (8, 8, 1)).astype(np.float32)
    histogram = np.asarray(describe(image))
    self.assertAlmostEqual(np.linalg.norm(histogram), 1, places=5)
    # Turned to the left, y points where x did, and what rose to the right rises upwards.
    turned = np.asarray(describe(np.rot90(image).copy()))
    np.testing.assert_allclose(turned, np.roll(np.rot90(histogram), -2, axis=-1),
                               atol=1e-5)
    np.testing.assert_allclose(describe(.3 * image + .2), histogram, atol=1e-5)
    np.testing.assert_allclose(describe(np.repeat(image, 3, axis=-1)), histogram,
                               atol=1e-6)

  @chex.variants(with_jit=True, without_jit=True)
  def test_nothing_to_see(self):
    """A constant image has no edges, and one pixel no direction; neither has NaNs."""
    describe = self.variant(edges.orientations)
    np.testing.assert_array_equal(describe(np.full((6, 5, 1), .7, np.float32)), 0)
    np.testing.assert_array_equal(describe(np.ones((1, 1, 3), np.float32)), 0)
    faint = .5 + 1e-8 * np.random.default_rng(0).normal(size=(6, 6, 1))
    assert np.linalg.norm(describe(faint.astype(np.float32))) < .05


def test_batches_do_not_matter():
  """More images than are described at once, and a rest."""
  images = np.random.default_rng(0).uniform(-1, 1, (edges.BATCH + 7, 5, 6, 1)).astype(
      np.float32)
  whole = edges.describe(images)
  assert whole.shape == (len(images), 4, 4, 8) and whole.dtype == np.float32
  np.testing.assert_allclose(edges.describe(images[-3:]), whole[-3:], atol=1e-6)


def test_spaces_by_option():
  """start.spaces: which are compared, in which order; views are of pixels alone."""
  config = default_config()
  config.views.sets = 2
  images = np.random.default_rng(0).uniform(-1, 1, (5, 36)).astype(np.float32)
  for names in (('pixels', 'edges'), ('edges', 'pixels'), ('edges',)):
    config.start.spaces = names
    found = neighbours.spaces_of(images, (6, 6, 1), config, 0)
    for name, space in zip(names, found, strict=True):
      if name == 'edges':
        description, = space
        assert description.describe is edges.describe and not description.sets
      else:
        (one, two), = (description.sets for description in space)
        assert len(one.matrix) == len(two.matrix) == config.views.num
        assert not np.allclose(one.matrix, two.matrix)
