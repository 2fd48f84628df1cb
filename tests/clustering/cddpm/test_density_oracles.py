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
  t = jnp.asarray([1., path.t_max])
  low, high = np.asarray(path.sigma(t), np.float64)
  a, b = (float(f(t[1])) for f in (path.scale, path.pull))
  # The ODE moves y away from mu as the spread of its density grows, up to the prior.
  growth = np.sqrt((VARIANCE + high**2) / (VARIANCE + low**2))
  last = a * (means + growth * (images[:, None] - means)) + b * means
  expected = np.sum(stats.norm.logpdf(last) + np.log(a * growth), axis=(2, 3, 4))
  np.testing.assert_allclose(found.clusters, expected, rtol=2e-3)
  np.testing.assert_allclose(
      found.mixture, logsumexp(expected + np.log(proportions), axis=1), rtol=2e-3)
  np.testing.assert_allclose(found.standard_error, 0., atol=1e-3)
  # And that is about the density of the data with the noise of t = 1.
  of_data = stats.norm.logpdf(images[:, None], means, np.sqrt(VARIANCE + low**2))
  np.testing.assert_allclose(expected, of_data.sum(axis=(2, 3, 4)), rtol=.01)
