"""A linear denoiser whose errors, costs and bounds are known in closed form."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters
from jdiffclust.config import default_config
from jdiffclust.diffusion.process import process_from_config


def denoise(network, x_t, t, mu, dropout_keys):
  """eta = g_t x_t + h_t mu + k_t."""
  g, h, k = (network[name][t][:, None, None, None] for name in 'ghk')
  return g * x_t + h * mu + k


def linear_network(steps, seed=0):
  rng = np.random.default_rng(seed)
  return {name: jnp.asarray(centre + .3 * rng.normal(size=steps + 1), jnp.float32)
          for name, centre in (('g', .6), ('h', 0.), ('k', 0.))}


def expected_errors(p, network, x0, mu):
  """E_eps norm2(n_t - eta) over t = 0..T: n_t - eta = u + v eps, entry by entry."""
  g, h, k = (np.asarray(network[name], np.float64) for name in 'ghk')
  abar, m = np.cumprod(1 - p.beta), p.m
  x0, mu = np.asarray(x0, np.float64), np.asarray(mu, np.float64)
  result = np.zeros(len(abar))
  for t in range(1, len(abar)):
    noise, root = (1 - abar[t] - m[t]**2 * abar[t])**.5, (1 - abar[t])**.5
    mean = (1 - m[t]) * abar[t]**.5 * x0 + m[t] * abar[t]**.5 * mu
    u = m[t] * abar[t]**.5 * (mu - x0) / root - g[t] * mean - h[t] * mu - k[t]
    result[t] = (u**2).sum() + x0.size * (noise / root - g[t] * noise)**2
  return result


def prior(p, x0, mu):
  """KL(N(mean, delta_T) || N(0, 1)), summed over pixels."""
  abar, m = np.prod(1 - p.beta), p.m[-1]
  delta = 1 - abar - m**2 * abar
  mean = abar**.5 * ((1 - m) * np.asarray(x0) + m * np.asarray(mu))
  return .5 * (mean**2 + delta - 1 - np.log(delta)).sum()


def exact_levels(p, network, x0, mu):
  """Negative parts of the bound given a cluster, of the levels t > 1; [T + 1]."""
  errors = expected_errors(p, network, x0, mu)
  abar = np.cumprod(1 - p.beta)
  a, b = (1 - p.m) * abar**.5, 1 - abar - p.m**2 * abar
  levels = np.zeros(len(abar))
  for t in range(2, len(abar)):
    k = a[t] / a[t - 1]
    step = b[t] - k**2 * b[t - 1]  # the model's variance
    posterior = 1 / (1 / b[t - 1] + k**2 / step)
    shift = posterior * a[t - 1] / b[t - 1] * ((1 - abar[t]) / abar[t])**.5
    levels[t] = shift**2 * errors[t] / (2 * step)
    levels[t] += np.asarray(x0).size / 2 * (posterior / step - 1
                                            - np.log(posterior / step))
  return levels


def exact_parts(p, network, x0, mu):
  """Negative parts of the bound given a cluster: KL_T, levels t > 1, decoder."""
  errors = expected_errors(p, network, x0, mu)
  abar = np.cumprod(1 - p.beta)
  a, b = (1 - p.m) * abar**.5, 1 - abar - p.m**2 * abar
  variance = b[1] / a[1]**2
  decoder = ((1 - abar[1]) / abar[1] * errors[1] / (2 * variance)
             + np.asarray(x0).size / 2 * np.log(2 * np.pi * variance))
  return prior(p, x0, mu), exact_levels(p, network, x0, mu).sum(), decoder


def make(steps=10, betas='cosine', rescale=True):
  options = default_config().diffusion
  options.update(num_steps=steps, betas=betas, rescale_betas=rescale)
  return process_from_config(options)


def parameters(network, means, proportions=None):
  means = jnp.asarray(means, jnp.float32)
  if proportions is None:
    proportions = np.full(len(means), 1 / len(means))
  return Parameters(network, means, jnp.asarray(np.log(proportions), jnp.float32))


def known_error(network, x_t, t, mu, dropout_keys):
  """eta = n_t - scale (x_0 - mu): an error that neither t nor eps changes.

  The network variables hold x_0 itself: a row an image, on one device only.
  """
  root = jnp.sqrt(network['abar'][t])[:, None, None, None]
  n_t = (x_t - root * network['x0']) / jnp.sqrt(1 - root**2)
  return n_t - network['scale'] * (network['x0'] - mu)


def known_network(p, x0, scale=1.):
  return {'abar': jnp.asarray(np.cumprod(1 - p.beta), jnp.float32), 'x0': x0,
          'scale': jnp.float32(scale)}


@pytest.fixture
def oracle():
  """The helpers of this file."""
  return types.SimpleNamespace(
      model=ConditionalDDPM(denoise), known=ConditionalDDPM(known_error),
      network=linear_network, known_network=known_network,
      expected_errors=expected_errors, prior=prior, exact_parts=exact_parts,
      exact_levels=exact_levels, make=make, parameters=parameters)


@pytest.fixture
def images():
  """A function from a seed and a number of rows to images [B, 2, 2, 1]."""
  return lambda seed, rows: jnp.asarray(
      np.random.default_rng(seed).uniform(-1, 1, (rows, 2, 2, 1)), jnp.float32)


@pytest.fixture
def key():
  return jax.random.key(11)
