"""The reverse process p_theta: from the network's output to x_{t-1}.

`eta` is the network's prediction of n_t (see `forward.noise_target`). Shapes as in
`jdiffclust.diffusion.forward`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from jdiffclust.diffusion.process import Process, at


def reverse_mean(process: Process, x_t, t, mu, eta) -> jax.Array:
  """mu_theta(x_t, t, mu) = c_x x_t + c_mu mu + c_eta eta; at t = 1 the decoder's mean."""
  n = x_t.ndim
  return (at(process.c_x, t, n) * x_t + at(process.c_mu, t, n) * mu
          + at(process.c_eta, t, n) * eta)


def gaussian_log_decoder(process: Process, x0, mean) -> jax.Array:
  """log p(x_0 | x_1, mu) of the Gaussian decoder, per image.

  Args:
    process: the diffusion; its `reverse_variance` at t = 1 is used.
    x0: images [B, H, W, C].
    mean: `reverse_mean` at t = 1, [B, H, W, C].

  Returns:
    [B], nats of a density on images in [-1, 1].
  """
  variance = process.reverse_variance[1]
  log_density = -.5 * ((x0 - mean)**2 / variance + jnp.log(2 * jnp.pi * variance))
  return jnp.sum(log_density, axis=tuple(range(1, x0.ndim)))


def discretized_log_decoder(process: Process, x0, mean, levels: int) -> jax.Array:
  """log p(x_0 | x_1, mu) of the decoder on `levels` grey levels, per image.

  The Gaussian is integrated over each level's bin, the outer bins reaching to
  infinity (Ho, Jain and Abbeel, 2020, equation 13), so that bounds are probabilities.

  Args:
    process: the diffusion; its `reverse_variance` at t = 1 is used.
    x0: images [B, H, W, C] on the levels 2 k / (levels - 1) - 1.
    mean: `reverse_mean` at t = 1, [B, H, W, C].
    levels: number of grey levels, at least 2.

  Returns:
    [B], nats of a probability.
  """
  scale = jnp.sqrt(process.reverse_variance[1])
  half = 1. / (levels - 1)
  # Far from the mean both edges of a bin lie in one tail. By symmetry it can always be
  # the lower one, where log_ndtr keeps its relative accuracy.
  distance = jnp.abs(x0 - mean)
  upper, lower = (half - distance) / scale, (-half - distance) / scale
  at_end = jnp.abs(x0) > 1 - half
  beyond_end = jnp.where(x0 > 0, mean > x0, mean < x0)
  # "Infinity" is 30 standard deviations away: finite, so that gradients stay finite.
  upper = jnp.where(at_end & beyond_end, jnp.maximum(upper, 30.), upper)
  lower = jnp.where(at_end & ~beyond_end, jnp.minimum(upper, 0.) - 30., lower)
  log_upper = log_ndtr(upper)
  log_mass = log_upper + jnp.log1p(-jnp.exp(log_ndtr(lower) - log_upper))
  return jnp.sum(log_mass, axis=tuple(range(1, x0.ndim)))
