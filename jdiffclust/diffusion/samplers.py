"""Samplers: from noise back to images."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdiffclust.diffusion.process import Process
from jdiffclust.diffusion.reverse import reverse_mean


def ancestral(process: Process, eta: Callable, keys, mu) -> jax.Array:
  """Draws images by ancestral sampling of the reverse chain.

  x_T ~ N(0, I); x_{t-1} ~ N(mu_theta(x_t, t, mu), sigma_t^2 I) for t = T..2; at t = 1
  the decoder's mean is returned.

  Args:
    process: the diffusion, float32.
    eta: the denoiser (x_t [B, H, W, C], t [B], mu [B, H, W, C]) -> [B, H, W, C].
    keys: typed keys [B], one an image: an image does not depend on its neighbours.
    mu: cluster means [B, H, W, C].

  Returns:
    x_0, [B, H, W, C].
  """
  shape = mu.shape[1:]

  def normal(t):
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, t), shape))(keys)

  def step(x_t, t):
    steps = jnp.full(x_t.shape[:1], t)
    mean = reverse_mean(process, x_t, steps, mu, eta(x_t, steps, mu))
    deviation = jnp.where(t > 1, jnp.sqrt(process.reverse_variance[t]), 0.)
    # Key t drew x_t; T draws x_T, so t - 1 is the next one not yet used.
    return mean + deviation * normal(t - 1), None

  start = normal(process.num_steps)
  x_0, _ = jax.lax.scan(step, start, jnp.arange(process.num_steps, 0, -1))
  return x_0
