"""Paths, analytic data and a distance between samples, for the oracle tests."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.config import default_config
from jdiffclust.diffusion import analytic, paths
from jdiffclust.diffusion.process import process_from_config

PATHS = ('vp', 've', 'ddpm', 'cddpm')


def process(pull='one_minus_sqrt_abar', steps=50):
  options = default_config().diffusion
  options.update(num_steps=steps, pull=pull)
  return process_from_config(options)


def path(name, steps=50):
  """Of noise so strong that the prior's error does not show."""
  if name == 'vp':
    return paths.VariancePreserving(.1, 50.)
  if name == 've':
    return paths.VarianceExploding(.01, 1000.)
  return paths.from_process(process('zero' if name == 'ddpm' else 'one_minus_sqrt_abar',
                                    steps))


def gaussian(dim=4):
  """Independent coordinates of different means and spreads."""
  return analytic.GaussianMixture(
      jnp.zeros(1), jnp.linspace(-.4, .6, dim)[None], jnp.linspace(.05, .6, dim)[None])


def mixture(dim=8):
  """The 25 components on the scale of images: modes 1/2 apart, standard deviation 1/8."""
  wide = analytic.mixture_of_25(dim, spacing=4.)
  return wide._replace(means=wide.means / 8, variances=wide.variances / 64)


def keys(num, seed=0):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(num))


def sliced_distance(x, y, num_slices=100):
  """Sliced Wasserstein-2 distance of two samples [n, dim] of one size."""
  directions = np.random.default_rng(0).normal(size=(x.shape[1], num_slices))
  directions /= np.linalg.norm(directions, axis=0)
  sort = lambda z: np.sort(np.asarray(z, np.float64) @ directions, axis=0)
  return np.sqrt(np.mean((sort(x) - sort(y))**2))


@pytest.fixture(scope='session')
def world():
  """What this file defines."""
  return types.SimpleNamespace(
      process=process, path=path, gaussian=gaussian, mixture=mixture, keys=keys,
      sliced_distance=sliced_distance)
