"""DPS, diffusion posterior sampling (Chung et al., 2023).

After each step of ddpm, x moves down the gradient of norm(y - A x_0^(x)), by `scale`.
The gradient is that of the norm, not of its square, and of one norm an image: the norm of
a whole batch would make results depend on the batch. x is that of a variance-preserving
path, as in the paper, x = u / sqrt(1 + sigma^2), whatever the model's path. Not exact,
not even for Gaussians: `scale` has no right value.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jdiffclust.inverse import restorer
from jdiffclust.inverse.problem import residuals, row_sums


@dataclasses.dataclass(frozen=True)
class DPS(restorer.Independent):
  """The method dps.

  Attributes:
    scale: zeta, the length of a step down the gradient, in units of pixels in [-1, 1].
  """

  scale: float = 1.
  needs_spectrum = False

  def advance(self, u, row, denoiser, keys, given):
    """A step of ddpm, then one down the gradient."""
    x0, pullback = restorer.estimate_and_pullback(denoiser, u, row, given.condition)
    residual = residuals(given.problem, x0)
    norm = jnp.sqrt(row_sums(residual**2)).reshape(-1, *[1] * (residual.ndim - 1))
    unit = residual / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
    gradient = -pullback(given.problem.operator.adjoint(unit))
    # By x, the gradient has the factor 1 / a; and u moves by 1 / a of what x does.
    factor = jnp.sqrt((1 + row.sigma**2) * (1 + row.sigma_next**2))
    u = restorer.ddpm_step(u, x0, row, given.moments, keys)
    return u - self.scale * factor * gradient
