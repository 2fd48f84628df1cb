"""Densities of a mixture whose components are Gaussian, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters
from jdiffclust.clustering.cddpm.denoising import cluster_denoiser
from jdiffclust.clustering.cddpm.density import make_densities
from jdiffclust.diffusion import predictions
from jdiffclust.diffusion.paths import expand, from_process
from jdiffclust.sharding import make_mesh

VARIANCE = .3


def exact(path):
  """The network of data N(mu, VARIANCE I): n_t of the posterior mean of x_0."""
  def denoise(network, x, t, mu, dropout_keys=None):
    y = path.centred(x, t, mu)
    share = VARIANCE / (VARIANCE + expand(path.sigma(t), x)**2)
    return predictions.eta_from_x0(path, x, t, mu, mu + share * (y - mu))
  return denoise


def exact_log_density(path, means, images):
  """Of the ODE of N(mu, VARIANCE I), pixel by pixel, [B, Q, H, W, C]; and its slope."""
  low, high = np.asarray(path.sigma(jnp.asarray([1., path.t_max])), np.float64)
  a, b = (float(f(jnp.asarray(path.t_max))) for f in (path.scale, path.pull))
  # The ODE moves y away from mu as the spread of its density grows, up to the prior.
  growth = np.sqrt((VARIANCE + high**2) / (VARIANCE + low**2))
  last = a * (means + growth * (images[:, None] - means)) + b * means
  return stats.norm.logpdf(last) + np.log(a * growth), a * growth


def test_grey_levels_are_spread_over_their_bins(oracle):
  """The mean log density of x + u, u uniform in +-1/2: a quadratic's, in closed form."""
  path = from_process(oracle.make(200, 'linear'))
  means = np.random.default_rng(0).normal(size=(1, 2, 2, 1))
  image = np.array([-1., 0., 1., 0.]).reshape(1, 2, 2, 1)  # of three levels
  model, rows = ConditionalDDPM(exact(path), levels=3), 512
  params = Parameters({}, jnp.asarray(means, jnp.float32), jnp.zeros(1))
  found = np.asarray(make_densities(model, make_mesh(8))(
      cluster_denoiser(model, path, {}), params,
      np.repeat(image, rows, axis=0).astype(np.float32),
      jax.random.split(jax.random.key(0), rows), 20, 1).mixture, np.float64)
  plain, slope = exact_log_density(path, means, image)
  wanted = plain.sum() - 4 * slope**2 / 2 * .5**2 / 3
  assert found.std() > .1
  assert abs(found.mean() - wanted) < 4 * found.std() / rows**.5 + .01 * abs(wanted)


@pytest.mark.parametrize('num_probes', [0, 3])
def test_gaussian_clusters(oracle, num_probes):
  """Against SciPy; the field is linear, so any probe gives the exact trace."""
  path = from_process(oracle.make(200, 'linear'))
  mesh = make_mesh(8)
  rng = np.random.default_rng(0)
  means = rng.normal(size=(3, 2, 2, 1))
  images = rng.normal(size=(8, 2, 2, 1)).astype(np.float32)
  proportions = np.array([.5, .3, .2])
  params = Parameters({}, jnp.asarray(means, jnp.float32),
                      jnp.asarray(np.log(proportions), jnp.float32))
  model = ConditionalDDPM(exact(path))
  found = make_densities(model, mesh)(
      cluster_denoiser(model, path, params.network), params, images,
      jax.random.split(jax.random.key(0), 8), 60, num_probes)
  expected = exact_log_density(path, means, images)[0].sum(axis=(2, 3, 4))
  np.testing.assert_allclose(found.clusters, expected, rtol=2e-3)
  np.testing.assert_allclose(
      found.mixture, logsumexp(expected + np.log(proportions), axis=1), rtol=2e-3)
  np.testing.assert_allclose(found.standard_error, 0., atol=1e-3)
  # And that is about the density of the data with the noise of t = 1.
  low = float(path.sigma(jnp.asarray(1.)))
  of_data = stats.norm.logpdf(images[:, None], means, np.sqrt(VARIANCE + low**2))
  np.testing.assert_allclose(expected, of_data.sum(axis=(2, 3, 4)), rtol=.01)
