"""Gaussian mixtures: data whose denoiser, score and density are known exactly.

They stand in for a network where a method shall be judged by itself. A Gaussian is a
mixture of one component.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.paths import Path


class GaussianMixture(NamedTuple):
  """A mixture of K Gaussians of diagonal covariance over points of any shape.

  Attributes:
    log_weights: [K], normalised.
    means: [K, ...].
    variances: broadcasts to the means, positive.
  """

  log_weights: jax.Array
  means: jax.Array
  variances: jax.Array

  def log_joint(self, y, sigma=0.) -> jax.Array:
    """log weight + log density of each component smoothed by noise, [B, K].

    Args:
      y: points [B, ...].
      sigma: standard deviation of the noise, [] or [B].
    """
    variance = self._smoothed(y, sigma)
    log_density = -.5 * ((y[:, None] - self.means[None])**2 / variance
                         + jnp.log(2 * jnp.pi * variance))
    axes = tuple(range(2, log_density.ndim))
    return self.log_weights[None] + jnp.sum(log_density, axis=axes)

  def log_density(self, y, sigma=0.) -> jax.Array:
    """log density in nats of y = x_0 + sigma eps, [B]; arguments as of `log_joint`."""
    return jax.nn.logsumexp(self.log_joint(y, sigma), axis=1)

  def posterior_mean(self, y, sigma) -> jax.Array:
    """E[x_0 | y], [B, ...]; arguments as of `log_joint`."""
    shares = jax.nn.softmax(self.log_joint(y, sigma), axis=1)
    gain = self._variances() / self._smoothed(y, sigma)
    means = self.means[None] + gain * (y[:, None] - self.means[None])
    return jnp.einsum('bk,bk...->b...', shares, means)

  def sample(self, key, num: int) -> jax.Array:
    """Draws [num, ...]."""
    which, noise = jax.random.split(key)
    component = jax.random.categorical(which, self.log_weights, shape=(num,))
    eps = jax.random.normal(noise, (num, *self.means.shape[1:]), self.means.dtype)
    variances = jnp.broadcast_to(self.variances, self.means.shape)[component]
    return self.means[component] + jnp.sqrt(variances) * eps

  def _variances(self):
    return jnp.broadcast_to(self.variances, self.means.shape)[None]

  def _smoothed(self, y, sigma):
    noise = jnp.broadcast_to(jnp.asarray(sigma, y.dtype)**2, y.shape[:1])
    return self._variances() + noise.reshape((-1,) + (1,) * y.ndim)


def denoiser(path: Path, mixture: GaussianMixture) -> Denoiser:
  """The perfect denoiser of data of a mixture; conditions are mu [B, ...]."""
  return Denoiser(path, mixture, _posterior_mean)


def _posterior_mean(mixture, path, x, t, mu):
  return mixture.posterior_mean(path.centred(x, t, mu), path.sigma(t))


def mixture_of_25(dim: int, seed: int = 0, spacing: float = 8.) -> GaussianMixture:
  """The prior of MCGdiff's experiments (Cardoso et al., 2024).

  Means (-spacing i, -spacing j) over i, j in -2..2, repeated over dim / 2 pairs of
  coordinates, identity covariance, weights in proportion to squared normals.

  Args:
    dim: even.
    seed: of the weights.
    spacing: between neighbouring means, in standard deviations.
  """
  steps = np.arange(-2, 3)
  pairs = -spacing * np.stack(np.meshgrid(steps, steps, indexing='ij'), -1)
  weights = np.random.default_rng(seed).normal(size=25)**2
  return GaussianMixture(
      jnp.asarray(np.log(weights / weights.sum()), float),
      jnp.asarray(np.tile(pairs.reshape(25, 2), dim // 2), float),
      jnp.ones((1, 1), float))
