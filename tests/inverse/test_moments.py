"""The spread of images and the variance of estimates, against those of Gaussians."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.config import default_config
from jdiffclust.diffusion import analytic, paths
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.inverse import moments
from tests.inverse.gaussians import PATH, SHAPE, keys

# One pixel in eight is wilder than the others; the mean is not zero.
VARIANCES = np.full(SHAPE, .25)
VARIANCES[1, 0, 1] = 4.
MEANS = np.random.default_rng(0).normal(size=SHAPE)
NUMBER = 4000


def left(variance, sigma):
  """r^2 of Gaussian pixels."""
  return 1 / (1 / variance + 1 / sigma**2)


@pytest.mark.parametrize('spread', [1., .5])
def test_of_a_gaussian(spread):
  """r^2 = 1 / (1 / s^2 + 1 / sigma^2) at any level, of both kinds, in any shape."""
  found = moments.of_gaussian(spread)
  assert float(found.spread) == spread
  sigma = np.exp(np.random.default_rng(0).uniform(-15, 15, (40, 5)))
  for kind in (found.variance, found.widest):
    np.testing.assert_allclose(kind(jnp.asarray(sigma, jnp.float32)),
                               left(spread**2, sigma), rtol=2e-3)


def test_beyond_the_ends():
  """Constant where there is more noise; sigma^2 times the last share where less."""
  found = moments.Moments(jnp.float32(1.), jnp.log(jnp.array([2., 1., .5])),
                          jnp.log(jnp.array([.8, .6, .2])),
                          jnp.log(jnp.array([1.6, .9, .22])))
  at = jnp.array([1e3, 2., np.sqrt(2), 1., .5, .05])
  np.testing.assert_allclose(
      found.variance(at), [.8, .8, np.sqrt(.8 * .6), .6, .2, .002], rtol=1e-5)
  np.testing.assert_allclose(
      found.widest(at), [1.6, 1.6, 1.2, .9, .22, .0022], rtol=1e-5)


def path_of(name):
  """A path without a pull, or CDDPM's."""
  if name == 'vp':
    return PATH
  options = default_config().diffusion
  options.update(num_steps=30, pull='one_minus_sqrt_abar')
  return paths.from_process(process_from_config(options))


@pytest.mark.parametrize('name', ['vp', 'cddpm'])
def test_measured(name):
  """By images that a Gaussian's perfect denoiser draws, centred on the condition."""
  path = path_of(name)
  mixture = analytic.GaussianMixture(
      jnp.zeros(1), jnp.asarray(MEANS[None], jnp.float32),
      jnp.asarray(VARIANCES[None], jnp.float32))
  centre = np.full(SHAPE, .3) + MEANS
  condition = jnp.broadcast_to(jnp.asarray(centre, jnp.float32), (NUMBER, *SHAPE))
  found = moments.measure(analytic.denoiser(path, mixture), path, keys(NUMBER),
                          condition)
  levels = np.exp(np.asarray(found.log_sigmas, np.float64))
  assert len(levels) == (32 if name == 'vp' else 30) and (np.diff(levels) < 0).all()
  wanted = left(VARIANCES[..., None], levels)
  # CDDPM's few steps draw images of a somewhat larger variance.
  rtol = .04 if name == 'vp' else .2
  np.testing.assert_allclose(np.exp(found.log_variances), wanted.mean((0, 1, 2)),
                             rtol=rtol)
  np.testing.assert_allclose(np.exp(found.log_widest), wanted.max((0, 1, 2)), rtol=rtol)
  np.testing.assert_allclose(found.spread, np.sqrt(VARIANCES.mean() + .3**2),
                             rtol=rtol / 2)


def test_no_estimate_is_worse_than_u():
  """Of a denoiser that fails, r^2 is sigma^2 at most, and falls with the noise."""
  bad = lambda variables, path, x, t, mu: mu + 5 * jnp.cos(7 * x)
  denoiser = analytic.Denoiser(PATH, jnp.zeros(()), bad)
  found = moments.measure(denoiser, PATH, keys(50), jnp.zeros((50, *SHAPE)), 8)
  sigma2 = np.exp(2 * np.asarray(found.log_sigmas))
  for logs in (found.log_variances, found.log_widest):
    assert (np.diff(logs) <= 1e-6).all() and (np.exp(logs) <= 1.001 * sigma2).all()
  perfect = analytic.Denoiser(PATH, jnp.zeros(()), lambda v, path, x, t, mu: mu)
  found = moments.measure(perfect, PATH, keys(50), jnp.zeros((50, *SHAPE)), 8)
  assert all(np.isfinite(a).all() for a in found) and float(found.spread) > 0
