"""The decoders p(x_0 | x_1) against scipy's normal distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jdiffclust.config import default_config
from jdiffclust.diffusion import reverse
from jdiffclust.diffusion.process import as_float32, process_from_config

LEVELS = (2, 4, 17, 256)
discretized = jax.jit(reverse.discretized_log_decoder, static_argnums=3)


def make(steps):
  options = default_config().diffusion
  options.num_steps = steps
  return process_from_config(options)


def grid(levels):
  return 2 * np.arange(levels) / (levels - 1) - 1


def log_interval(low, high):
  """log of the normal mass of [low, high], float64, by whichever tail is exact."""
  low, high = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
  upper, lower = scipy.special.log_ndtr(high), scipy.special.log_ndtr(low)
  return upper + np.log1p(-np.exp(lower - upper))


def reference(x0, mean, scale, levels):
  """log of the Gaussian's mass in each level's bin, outer bins unbounded."""
  x0, mean = np.asarray(x0, np.float64), np.asarray(mean, np.float64)
  level = np.rint((x0 + 1) / 2 * (levels - 1))
  half = 1 / (levels - 1)
  low = np.where(level == 0, -np.inf, (x0 - half - mean) / scale)
  high = np.where(level == levels - 1, np.inf, (x0 + half - mean) / scale)
  return log_interval(low, high)


def pixels(values):
  """One image a value, of one pixel."""
  return jnp.asarray(values, jnp.float32)[:, None, None, None]


@functools.partial(jax.jit, static_argnums=3)
def gradient_of(process, x0, mean, levels):
  """Gradient of the discretized decoder by its mean."""
  return jax.grad(lambda m: reverse.discretized_log_decoder(
      process, x0, m, levels).sum())(mean)


def test_log_interval_is_cdf_difference():
  """The oracle itself: equals scipy's cdf differences where these are exact."""
  low, high = np.array([-np.inf, -1., .3]), np.array([-.2, .5, np.inf])
  norm = scipy.stats.norm
  np.testing.assert_allclose(np.exp(log_interval(low, high)),
                             norm.cdf(high) - norm.cdf(low), rtol=1e-12)


@pytest.mark.parametrize('steps', (50, 1000))
def test_gaussian_decoder(x64, steps):
  """Sum over pixels of scipy's log density, variance delta_1 / ((1-m_1)^2 abar_1)."""
  p = make(steps)
  rng = np.random.default_rng(0)
  x0, mean = rng.normal(size=(2, 3, 4, 4, 3))
  abar = 1 - p.beta[1]
  m = 1 - np.sqrt(abar)
  variance = (1 - abar - m**2 * abar) / ((1 - m)**2 * abar)
  expected = scipy.stats.norm.logpdf(x0, mean, variance**.5).sum(axis=(1, 2, 3))
  actual = reverse.gaussian_log_decoder(jax.tree.map(jnp.asarray, p), jnp.asarray(x0),
                                        jnp.asarray(mean))
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize('steps', (50, 1000))
@pytest.mark.parametrize('levels', LEVELS)
def test_discretized_decoder(levels, steps):
  """Float32 log masses equal float64 ones, for means on, near and far from the bin."""
  p = make(steps)
  scale = float(p.reverse_variance[1])**.5
  offsets = np.concatenate([[0.], *([s * d for s in (-1, 1)] for d in (
      .1 * scale, .49 / (levels - 1), 1 / (levels - 1), 3 * scale, .1, .7, 2.3, 5.))])
  x0 = np.repeat(grid(levels), len(offsets)).astype(np.float32)
  mean = (x0 + np.tile(offsets, levels)).astype(np.float32)
  expected = reference(x0, mean, scale, levels)
  actual = discretized(as_float32(p), pixels(x0), pixels(mean), levels)
  assert np.isfinite(actual).all()
  # Inputs near 1 in float32 fix the distance over the scale to about 1e-5 at best.
  slack = 1e-6 / scale * (1 + np.abs(mean - x0) / scale)
  assert (np.abs(actual - expected) <= 1e-5 + 1e-5 * np.abs(expected) + slack).all()


@pytest.mark.parametrize('levels', LEVELS)
def test_probabilities_sum_to_one(levels):
  """The masses of all levels sum to 1, whatever the mean."""
  p = as_float32(make(200))
  for mean in (-4., -1., -.313, 0., .02, .5, 1., 1.3):
    x0 = pixels(grid(levels))
    logs = discretized(p, x0, jnp.full_like(x0, mean), levels)
    np.testing.assert_allclose(np.exp(np.asarray(logs, np.float64)).sum(), 1, atol=2e-5)


def test_pixels_add_up():
  """An image's log probability is the sum over its pixels."""
  p = as_float32(make(200))
  rng = np.random.default_rng(1)
  x0 = rng.choice(grid(17), (3, 2, 2, 3)).astype(np.float32)
  mean = (x0 + rng.normal(size=x0.shape) * .1).astype(np.float32)
  whole = discretized(p, jnp.asarray(x0), jnp.asarray(mean), 17)
  expected = reference(x0, mean, float(p.reverse_variance[1])**.5, 17).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(whole, expected, rtol=1e-4)


@pytest.mark.parametrize('steps', (50, 1000))
@pytest.mark.parametrize('levels', LEVELS)
def test_gradient(levels, steps):
  """Finite everywhere, and equal to the closed form (phi_low - phi_high) / mass."""
  p = make(steps)
  scale = float(p.reverse_variance[1])**.5
  rng = np.random.default_rng(2)
  offsets = np.concatenate([rng.normal(size=6) * scale, rng.normal(size=6) * .3,
                            [-9., -3., 3., 9.]])
  x0 = np.repeat(grid(levels), len(offsets)).astype(np.float32)
  mean = (x0 + np.tile(offsets, levels)).astype(np.float32)
  process = as_float32(p)
  gradient = np.ravel(gradient_of(process, pixels(x0), pixels(mean), levels))
  assert np.isfinite(gradient).all()
  half = 1 / (levels - 1)
  a, b = np.float64(x0), np.float64(mean)
  level = np.rint((a + 1) / 2 * (levels - 1))
  low = np.where(level == 0, -np.inf, (a - half - b) / scale)
  high = np.where(level == levels - 1, np.inf, (a + half - b) / scale)
  log_mass = log_interval(low, high)
  log_phi = scipy.stats.norm.logpdf
  edges = [np.exp(log_phi(edge) - log_mass) for edge in (low, high)]
  expected = (edges[0] - edges[1]) / scale
  # 900 deviations off, the log density is -4e5: float32 keeps its gradient to 2%.
  far = np.abs(b - a) / scale > 100
  np.testing.assert_allclose(gradient[~far], expected[~far], rtol=2e-3,
                             atol=2e-3 / scale)
  np.testing.assert_allclose(gradient[far], expected[far], rtol=.05)


@pytest.mark.parametrize('levels', LEVELS)
def test_gradient_on_the_level(levels):
  """A mean exactly on the level: finite, zero inside by symmetry."""
  process = as_float32(make(1000))
  x0 = pixels(grid(levels))
  gradient = np.ravel(gradient_of(process, x0, x0, levels))
  assert np.isfinite(gradient).all()
  np.testing.assert_allclose(gradient[1:-1], 0, atol=1e-2)
