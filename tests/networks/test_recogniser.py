"""The recognition network's layers, against Flax's."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jdiffclust.networks.recogniser import halved


@pytest.mark.parametrize('shape', [(3, 4, 6, 2), (2, 7, 5, 3), (1, 2, 3, 1)])
def test_halved_is_flax_max_pool(shape):
  """Values and gradients have its bits, with ties, and with odd sides."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 3, size=shape).astype(np.float32)
  pooled = lambda x: nn.max_pool(x, (2, 2), (2, 2))
  (value, pull), (expected, pull_expected) = (
      jax.vjp(f, images) for f in (halved, pooled))
  np.testing.assert_array_equal(value, expected)
  g = rng.normal(size=value.shape).astype(np.float32)
  np.testing.assert_array_equal(pull(g)[0], pull_expected(g)[0])
