"""How far a model's images spread, and how sure its estimates are, by noise level.

Steps back from noise need the variance r^2 of x_0 given u: with it a step of any length
is right for Gaussian images, and the best of all round ones for others (Bao, Li, Zhu and
Zhang, 2022, Analytic-DPM). A model tells it itself: of images that it draws, made noisy,
r^2 is the mean squared error of its estimates. What looks ahead to y takes that of the
least sure pixel instead: to be too sure would push too far, again and again.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.diffusion import samplers
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.paths import Path

NUM_STEPS = 32  # of the draws, and levels at which errors are measured


class Moments(NamedTuple):
  """Of a model's images.

  Attributes:
    spread: standard deviation of pixels about the condition's centre, [].
    log_sigmas: falling, [L].
    log_variances: log r^2 at these levels, the mean over pixels, [L].
    log_widest: that of the least sure pixel, [L].
  """

  spread: jax.Array
  log_sigmas: jax.Array
  log_variances: jax.Array
  log_widest: jax.Array

  def variance(self, sigma) -> jax.Array:
    """r^2, the mean over pixels, at noise levels of any shape."""
    return self._at(sigma, self.log_variances)

  def widest(self, sigma) -> jax.Array:
    """r^2 of the least sure pixel at noise levels of any shape."""
    return self._at(sigma, self.log_widest)

  def _at(self, sigma, logs):
    """Interpolated in logarithms."""
    # Beyond the ends: sigma^2 where there is little noise, constant where there is much.
    at = jnp.log(sigma)
    inside = jnp.interp(at, self.log_sigmas[::-1], logs[::-1])
    return jnp.exp(inside + 2 * jnp.minimum(at - self.log_sigmas[-1], 0.))


def of_gaussian(spread: float) -> Moments:
  """The moments of Gaussian images of independent pixels.

  Args:
    spread: standard deviation, above 0.
  """
  log_sigmas = np.linspace(12., -12., 481)
  sigma2 = np.exp(2 * log_sigmas)
  logs = np.log(sigma2 * spread**2 / (sigma2 + spread**2))
  return Moments(*(jnp.asarray(a, float) for a in (spread, log_sigmas, logs, logs)))


def measure(denoiser: Denoiser, path: Path, keys, condition,
            num_steps: int = NUM_STEPS) -> Moments:
  """The moments of a model, by images that it draws.

  Args:
    denoiser: the model.
    path: its noising path, float64 on the host.
    keys: typed keys [K], one an image.
    condition: of the images, a tree of rows [K, ...].
    num_steps: L, of the sampler dpm_solver_pp_2m.

  Returns:
    `Moments`.
  """
  if path.num_steps:
    num_steps = min(num_steps, path.num_steps)
  sampler, table = samplers.make_sampler('dpm_solver_pp_2m', path, num_steps, 'karras')
  return _measure(sampler, jax.tree.map(jnp.asarray, table), denoiser, keys, condition)


@functools.partial(jax.jit, static_argnums=0)
def _measure(sampler, table, denoiser, keys, condition):
  x0 = samplers.run(sampler, table, denoiser, keys, condition).images
  mu = denoiser.centre(condition)

  def error(row):
    noise = jax.vmap(lambda key: jax.random.normal(
        jax.random.fold_in(jax.random.fold_in(key, row.left), 1), x0.shape[1:]))(keys)
    x = row.scale * (x0 + row.sigma * noise) + row.pull * mu
    found = denoiser.estimate(x, jnp.full(len(x), row.t), condition)
    squares = jnp.mean((found - x0)**2, axis=0)
    return jnp.mean(squares), jnp.max(squares)

  mean, widest = jax.lax.map(error, table.rows)
  spread2 = jnp.mean((x0 - mu)**2)
  # No estimate is worse than u itself, nor worse where there is less noise.
  least = jnp.finfo(mean.dtype).tiny**.5
  log = lambda errors: jnp.log(
      jnp.clip(jax.lax.cummin(errors), least, table.rows.sigma**2))
  return Moments(jnp.sqrt(jnp.maximum(spread2, least)), jnp.log(table.rows.sigma),
                 log(mean), log(widest))
