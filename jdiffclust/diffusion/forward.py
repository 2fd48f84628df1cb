"""The forward process q: noising images towards a cluster's mean.

Coefficients and corrections to the paper stand in `jdiffclust.diffusion.process`.
Images are [B, H, W, C] in [-1, 1] and steps t are integers [B] in 1..T; `mu` is
[B, H, W, C], the cluster mean of each image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jdiffclust.diffusion.process import Process, at


def marginal_mean(process: Process, x0, t, mu) -> jax.Array:
  """Mean of q(x_t | x_0, mu), equation 15; its variance is `process.delta[t]`."""
  root = jnp.sqrt(at(process.alphas_cumprod, t, x0.ndim))
  m = at(process.m, t, x0.ndim)
  return (1 - m) * root * x0 + m * root * mu


def posterior_mean(process: Process, x_t, x0, t, mu) -> jax.Array:
  """mu~, the mean of q(x_{t-1} | x_t, x_0, mu), equation 19.

  Its variance is `process.delta_posterior[t]`.
  """
  n = x_t.ndim
  return (at(process.a_x, t, n) * x_t + at(process.a_0, t, n) * x0
          + at(process.a_mu, t, n) * mu)


def noised(process: Process, x0, t, mu, eps) -> jax.Array:
  """x_t of q(x_t | x_0, mu) by the standard normal `eps` [B, H, W, C]."""
  delta = at(process.delta, t, x0.ndim)
  return marginal_mean(process, x0, t, mu) + jnp.sqrt(delta) * eps


def noise_target(process: Process, x0, t, mu, eps) -> jax.Array:
  """n_t, what the network shall predict from `noised(process, x0, t, mu, eps)`.

  n_t = (m_t sqrt(abar_t) (mu - x_0) + sqrt(delta_t) eps) / sqrt(1 - abar_t)
      = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t).
  """
  n = x0.ndim
  abar = at(process.alphas_cumprod, t, n)
  pulled = at(process.m, t, n) * jnp.sqrt(abar) * (mu - x0)
  return (pulled + jnp.sqrt(at(process.delta, t, n)) * eps) / jnp.sqrt(1 - abar)


def prior_kl(process: Process, x0, mu) -> jax.Array:
  """KL_T = KL(q(x_T | x_0, mu) || N(0, I)), in nats.

  1/2 [norm2((1 - m_T) sqrt(abar_T) x_0 + m_T sqrt(abar_T) mu)
       + D (delta_T - 1 - log delta_T)]; the paper keeps its limit m_T = delta_T = 1.

  Args:
    process: the diffusion.
    x0: images [B, H, W, C].
    mu: cluster means [B, H, W, C].

  Returns:
    [B].
  """
  last = jnp.full(x0.shape[:1], process.num_steps)
  mean = marginal_mean(process, x0, last, mu)
  delta = process.delta[-1]
  size = x0[0].size
  norm2 = jnp.sum(mean**2, axis=tuple(range(1, x0.ndim)))
  return .5 * (norm2 + size * (delta - 1 - jnp.log(delta)))
