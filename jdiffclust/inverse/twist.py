"""How well an estimate of an image explains what was seen: N(y; A x_0^, ...).

  p(y | u) ~ N(y; A x_0^(u), r^2 A A^T + sigma_y^2 I),        r^2 = Var(x_0 | u),

the approximation of PiGDM (Song et al., 2023), by which twisted diffusion looks ahead
(Wu et al., 2023); exact where x_0 is Gaussian of variance spread^2. Without a singular
value decomposition A A^T is taken for the identity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jdiffclust.inverse.problem import (
    Problem, coordinates, is_spectral, residuals, row_sums)


def log_normal(value, mean, variance) -> jax.Array:
  """log N(value; mean, variance), number by number."""
  return -.5 * ((value - mean)**2 / variance + jnp.log(2 * jnp.pi * variance))


def log_twist(problem: Problem, x0, variance) -> tuple[jax.Array, jax.Array]:
  """log N(y; A x0, variance A A^T + sigma_y^2 I), and its gradient by x0.

  Args:
    problem: P observations.
    x0: images [R, H, W, C].
    variance: r^2, above 0.

  Returns:
    [R], of the seen coordinates U^T y; and [R, H, W, C].
  """
  operator = problem.operator
  if not is_spectral(operator):
    residual = residuals(problem, x0)
    total = variance + problem.noise**2
    return (row_sums(log_normal(residual, 0., total)),
            operator.adjoint(residual / total))
  known = coordinates(problem, len(x0))
  tau = jnp.where(known.seen, known.tau, 1.)
  total = variance + tau**2
  c = operator.into(x0)
  logs = row_sums(jnp.where(known.seen, log_normal(known.value, c, total), 0.))
  gradient = jnp.where(known.seen, (known.value - c) / total, 0.)
  return logs - known.log_scale, operator.back(gradient)
