"""What is to be restored: y = A x + sigma_y n, and what is known of x by it.

In the coordinates c = V^T x of the operator's singular value decomposition A = U S V^T
every coordinate is seen by itself, y~ = (U^T y) / s = c + tau n with tau = sigma_y / s:
just as noisy as u = x_0 + sigma eps at sigma = tau, which `mcgdiff`, `ddrm` and `repaint`
make use of.
"""

from __future__ import annotations

from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.errors import UserError
from jdiffclust.inverse.operators import Operator, Spectral


class Problem(NamedTuple):
  """Observations of P images by the same operator.

  Attributes:
    operator: A.
    observation: y, [P, ...].
    noise: sigma_y, the standard deviation of its noise, []; 0: none.
  """

  operator: Operator
  observation: jax.Array | np.ndarray
  noise: jax.Array | np.ndarray | np.floating

  def rows(self, number: int) -> jax.Array:
    """y of rows of which each P-th is of the same problem, [number, ...]."""
    return of_rows(self.observation, number)


class Coordinates(NamedTuple):
  """A problem in the coordinates of its operator.

  Attributes:
    seen: whether a coordinate is seen, [1, H, W, C].
    value: y~ of rows, [R, H, W, C]; 0 where nothing is seen.
    tau: standard deviation of its noise, [1, H, W, C]; infinite where nothing is seen.
    log_scale: the logarithm of the product of the singular values, []: the density of
      U^T y is that of y~ over this product.
  """

  seen: jax.Array
  value: jax.Array
  tau: jax.Array
  log_scale: jax.Array


def of_rows(values, number: int) -> jax.Array:
  """Values of P problems for rows: row r is of problem r % P.

  Args:
    values: [P, ...].
    number: of rows, a multiple of P.

  Returns:
    [number, ...].
  """
  copies = number // len(values)
  return jnp.broadcast_to(values[None], (copies, *values.shape)).reshape(
      number, *values.shape[1:])


def spectral(problem: Problem) -> Spectral:
  """The operator, of a problem that is asked for its coordinates."""
  assert isinstance(problem.operator, Spectral)
  return problem.operator


def coordinates(problem: Problem, number: int) -> Coordinates:
  """A problem with a `Spectral` operator, coordinate by coordinate.

  Args:
    problem: the problem.
    number: of rows, a multiple of P.
  """
  operator = spectral(problem)
  values = jnp.broadcast_to(operator.singular_values, operator.shape)[None]
  seen = values > 0
  safe = jnp.where(seen, values, 1.)
  value = jnp.where(seen, operator.observed(problem.observation) / safe, 0.)
  tau = jnp.where(seen, problem.noise / safe, jnp.inf)
  return Coordinates(seen, of_rows(value, number), tau, jnp.sum(jnp.log(safe)))


def with_known(u, sigma, z, problem: Problem) -> jax.Array:
  """u whose seen coordinates are y~, made as noisy as u, where they are less so.

  Args:
    u: x_0 + sigma eps of rows, [R, H, W, C].
    sigma: its noise level.
    z: standard normal noise, [R, H, W, C].
    problem: with a `Spectral` operator.

  Returns:
    u with y~ + sqrt(sigma^2 - tau^2) z in the coordinates with tau <= sigma.
  """
  operator, known = spectral(problem), coordinates(problem, len(u))
  put = known.tau <= sigma
  tau = jnp.where(put, known.tau, 0.)
  seen = known.value + jnp.sqrt(jnp.maximum(sigma**2 - tau**2, 0.)) * z
  return operator.back(jnp.where(put, seen, operator.into(u)))


def residuals(problem: Problem, x) -> jax.Array:
  """y - A x of images [R, H, W, C], [R, ...]; 0 where A shows nothing."""
  return problem.operator.told(problem.rows(len(x)) - problem.operator.apply(x))


def residual_size(problem: Problem, x) -> jax.Array:
  """Root mean square of y - A x over the numbers that are seen, [R]; about sigma_y."""
  found = residuals(problem, x)
  number = jnp.sum(problem.operator.told(jnp.ones_like(found[:1])))
  return jnp.sqrt(row_sums(found**2) / number)


def row_sums(values) -> jax.Array:
  """The sum of all numbers of each row, [R]."""
  return jnp.sum(values.reshape(len(values), -1), axis=1)


def check_problem(problem: Problem) -> None:
  """Checks that observations are of the operator, on the host.

  Raises:
    UserError: another shape, numbers that are not finite, or a negative noise level.
  """
  operator, observation = problem.operator, problem.observation
  shape = np.shape(observation)
  one = jax.ShapeDtypeStruct((1, *operator.shape), jnp.float32)
  expected = jax.eval_shape(operator.apply, one).shape[1:]
  if shape[1:] != expected or not shape[0]:
    raise UserError(f'Observations of shape {shape}, but the operator makes '
                    f'{expected} of an image of {operator.shape}: give [n, '
                    f"{', '.join(map(str, expected))}], n at least 1.")
  finite = np.isfinite(np.asarray(observation)).reshape(shape[0], -1).all(axis=1)
  if not finite.all():
    raise UserError(f'Observation {int(np.argmin(finite))} has numbers that are not '
                    'finite: hide such pixels by the mask, and set them to any number.')
  noise = float(problem.noise)
  if not 0 <= noise < np.inf:
    raise UserError(f'The noise of the observations has a standard deviation of {noise}: '
                    'it must be 0 (none) or more.')


def is_spectral(operator: Operator) -> TypeGuard[Spectral]:
  """Whether the operator's singular value decomposition is known."""
  return isinstance(operator, Spectral)
