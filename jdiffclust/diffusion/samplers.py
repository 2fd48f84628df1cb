"""Samplers: from noise back to images.

A sampler is three pure functions over the rows of a table: `init` makes a state of noise,
`step` takes it through a row, `finish` makes images of it. `run` is one `jax.lax.scan`
over them, or drives the same step from the host. A further sampler is a file of its own
and a line of the registry, which names a function from its options to a `Sampler`, or one
that makes rows of a table.

`TableSampler` is whatever `jdiffclust.diffusion.tables` can say: tables of the same
length share its compiled program. `Integrator` follows the probability-flow ODE, in one
row, with steps chosen for each image.
"""

from __future__ import annotations

import abc
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.diffusion import ode, tables
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.grids import make_grid
from jdiffclust.diffusion.paths import Path
from jdiffclust.diffusion.tables import Rows, Table
from jdiffclust.errors import UserError
from jdiffclust.registry import SAMPLERS


class Generated(NamedTuple):
  """What a sampler returns.

  Attributes:
    images: x_0, [B, ...].
    evaluations: network evaluations of each image, int [B].
    states: None, or x_t before evenly spaced rows, from pure noise on, and `images` at
      last, [k, B, ...].
  """

  images: jax.Array
  evaluations: jax.Array
  states: jax.Array | None = None


class Sampler(abc.ABC):
  """Three pure functions over rows of a table; instances are static to `jax.jit`.

  Arguments of all of them: denoiser, a `Denoiser`; keys, typed keys [B], one an image, so
  that no image depends on its neighbours; condition, a tree of rows [B, ...].
  """

  # Whether `jax.shard_map` can check its loops; diffrax's fail.
  checks_vma = True

  def table(self, path: Path, num_steps: int, grid: str) -> Table:
    """The rows it goes through; by default those of ddim at the times of a grid."""
    return tables.make_table(path, make_grid(grid, path, num_steps), tables.ddim)

  @abc.abstractmethod
  def init(self, table: Table, denoiser: Denoiser, keys, condition) -> Any:
    """The state before the first row, a tree of arrays [B, ...]."""

  @abc.abstractmethod
  def step(self, state, row: Rows, denoiser: Denoiser, keys, condition) -> Any:
    """The state after a row, whose fields are scalars."""

  @abc.abstractmethod
  def finish(self, state, table: Table) -> Generated:
    """The images of the state after the last row, and what they took."""

  def noisy_images(self, state, row: Rows, mu) -> jax.Array:
    """x_t [B, ...] of a state before a row, to be kept.

    Raises:
      UserError: the sampler has none.
    """
    del state, row, mu
    raise UserError(f'{type(self).__name__} keeps no states: set num_states '
                    '(config.sample.trajectory) to 0, or take another sampler.')


def run(sampler: Sampler, table: Table, denoiser: Denoiser, keys, condition,
        num_states: int = 0, scan: bool = True) -> Generated:
  """Draws images.

  Args:
    sampler: of `make_sampler`, as the table.
    table: its rows.
    denoiser: the model.
    keys: typed keys [B].
    condition: a tree of rows [B, ...].
    num_states: k >= 2 states to keep, 0 for none.
    scan: all rows in one `jax.lax.scan`, to be compiled as a whole. False: each row is
      a call of one compiled step from the host, with the same results (those of an
      `Integrator` up to rounding, since XLA unrolls a scan of its one row).

  Returns:
    `Generated`.

  Raises:
    UserError: more states than the sampler has, or any of one that keeps none.
  """
  table = jax.tree.map(jnp.asarray, table)
  num_rows = len(table.rows.t)
  given = denoiser, keys, condition
  # Compiled alike on both ways: else the last bits would differ.
  begin, advance = (_begin, _advance) if scan else (_compiled_begin, _compiled_advance)
  carry = begin(sampler, num_states, table, *given)
  kept = np.rint(np.linspace(0, num_rows, num_states)).astype(int)[:-1]
  slots = np.full(num_rows, num_states)  # one beyond the last: not kept
  slots[kept] = np.arange(len(kept))
  places = table.rows, jnp.asarray(slots)
  if scan:
    step = lambda carry, now: (advance(sampler, carry, now, *given), None)
    carry, _ = jax.lax.scan(step, carry, places)
  else:
    for i in range(num_rows):
      carry = advance(sampler, carry, jax.tree.map(lambda a: a[i], places), *given)
  state, states = carry
  found = sampler.finish(state, table)
  if num_states:
    states = states.at[-1].set(found.images)
  return found._replace(states=states)


def _begin(sampler, num_states, table, denoiser, keys, condition):
  """The state before the first row, and room for noisy images if some are kept."""
  state = sampler.init(table, denoiser, keys, condition)
  if not num_states:
    return state, None
  first, num_rows = jax.tree.map(lambda a: a[0], table.rows), len(table.rows.t)
  start = sampler.noisy_images(state, first, denoiser.centre(condition))
  if not 2 <= num_states <= num_rows + 1:
    raise UserError(f'{num_states} states of a sampler of {num_rows} network '
                    'evaluations: set num_states (config.sample.trajectory) to '
                    f'2..{num_rows + 1}, or 0 for none.')
  return state, jnp.broadcast_to(start, (num_states, *start.shape))


def _advance(sampler, carry, now, denoiser, keys, condition):
  """The state after a row; the noisy images before it go to the row's slot."""
  (state, states), (row, slot) = carry, now
  if states is not None:
    x = sampler.noisy_images(state, row, denoiser.centre(condition))
    states = states.at[slot].set(x, mode='drop')
  return sampler.step(state, row, denoiser, keys, condition), states


_compiled_begin = jax.jit(_begin, static_argnums=(0, 1))
_compiled_advance = jax.jit(_advance, static_argnums=0)


def _normal(keys, number, shape, dtype):
  one = lambda k: jax.random.normal(jax.random.fold_in(k, number), shape, dtype)
  return jax.vmap(one)(keys)


class Walk(NamedTuple):
  """The state of a `TableSampler`; every field [B, ...].

  Attributes:
    y: of the row to come.
    y_before: of the row before.
    x0_before: the network's x_0 in the row before.
  """

  y: jax.Array
  y_before: jax.Array
  x0_before: jax.Array


@dataclasses.dataclass(frozen=True)
class TableSampler(Sampler):
  """The samplers of `jdiffclust.diffusion.tables`."""

  def init(self, table, denoiser, keys, condition):
    """Noise of the first row's level."""
    mu = denoiser.centre(condition)
    noise = _normal(keys, len(table.rows.t), mu.shape[1:], mu.dtype)
    y = table.start_noise * noise + table.start_mu * mu
    return Walk(y, y, y)

  def step(self, state, row, denoiser, keys, condition):
    """The row's weighted sum, and its Langevin step if it has one."""
    y, y_before, x0_before = state
    x = self.noisy_images(state, row, denoiser.centre(condition))
    x0 = denoiser.estimate(x, jnp.full(len(x), row.t), condition)
    z = _normal(keys, row.left, y.shape[1:], y.dtype)
    new = (row.c_y * y + row.c_0 * x0 + row.c_y_before * y_before
           + row.c_0_before * x0_before + row.c_z * z)
    kappa = _langevin_step(row.snr, row.sigma, y - x0)
    new += kappa * (x0 - y) + jnp.sqrt(2 * kappa) * row.sigma * z
    return Walk(new, y, x0)

  def finish(self, state, table):
    """The last row's y is the image."""
    return Generated(state.y, jnp.full(len(state.y), len(table.rows.t)))

  def noisy_images(self, state, row, mu):
    """x = a y + b mu."""
    return row.scale * state.y + row.pull * mu


def _langevin_step(snr, sigma, removed):
  """kappa of y + kappa sigma^2 score + sqrt(2 kappa) sigma z, score = -removed / sigma^2.

  Song et al.'s (2021) step 2 (snr norm(z) / norm(score))^2 in units of sigma^2, with
  the expected norm(z)^2 = D. It is cut at 1, where Langevin's steps are still stable
  for any data: an image that happens to need no denoising would jump far.
  """
  axes = tuple(range(1, removed.ndim))
  norm2 = jnp.sum(removed**2, axes, keepdims=True)
  step = 2 * (snr * sigma)**2 * removed[0].size
  return step / jnp.maximum(norm2, jnp.maximum(step, jnp.finfo(norm2.dtype).tiny))


class Flow(NamedTuple):
  """The state of an `Integrator`.

  Attributes:
    z: of `jdiffclust.diffusion.ode`; after the row the image, [B, ...].
    evaluations: of the network so far, int [B].
  """

  z: jax.Array
  evaluations: jax.Array


@dataclasses.dataclass(frozen=True)
class Integrator(Sampler):
  """The probability-flow ODE from t_max to t_min, in one row.

  Attributes:
    solver: of `jdiffclust.diffusion.ode`.
  """

  solver: ode.Adaptive | ode.Fixed
  checks_vma = False

  def table(self, path, num_steps, grid):
    """One row: the times are the solver's."""
    del num_steps, grid
    return tables.make_table(path, np.array([path.t_max]), tables.ddim)

  def _ends(self, denoiser, dtype):
    """The times, and log sigma at them."""
    t = jnp.asarray([denoiser.path.t_max, denoiser.path.t_min], dtype)
    return t, *denoiser.path.log_sigma(t)

  def init(self, table, denoiser, keys, condition):
    """Noise of t_max."""
    del table
    path, mu = denoiser.path, denoiser.centre(condition)
    t, start, _ = self._ends(denoiser, mu.dtype)
    x = path.prior_std(t[0]) * _normal(keys, 0, mu.shape[1:], mu.dtype)
    return Flow(ode.shrinkage(start) * path.centred(x, t[0], mu),
                jnp.zeros(len(x), jnp.int32))

  def step(self, state, row, denoiser, keys, condition):
    """The whole way, each image in steps of its own."""
    del row, keys
    _, start, end = self._ends(denoiser, state.z.dtype)

    def one(z, condition):
      field = lambda u, z: ode.flow(u, z, ode.estimate(denoiser, z, u, condition))
      z, evaluations = self.solver.solve(field, z, start, end)
      return Flow(ode.estimate(denoiser, z, end, condition),
                  (evaluations + 1).astype(jnp.int32))

    return jax.vmap(one)(state.z, condition)

  def finish(self, state, table):
    """The image that the row ends with."""
    del table
    return Generated(*state)


def adaptive(tolerance: float = 1e-3) -> Integrator:
  """The sampler `adaptive`, with a tolerance of a step's error in units of pixels."""
  return Integrator(ode.Adaptive(rtol=tolerance, atol=tolerance))


def makes_rows(make: Callable) -> bool:
  """Whether a registered sampler makes rows of levels, and not a `Sampler`."""
  return 'now' in inspect.signature(make).parameters


def sampler_options(name: str) -> list[str]:
  """The names of a sampler's own options."""
  parameters = list(inspect.signature(SAMPLERS[name]).parameters)
  return [option for option in parameters if option not in ('now', 'then')]


def make_sampler(name: str, path: Path, num_steps: int, grid: str = 'uniform',
                 **options) -> tuple[Sampler, Table]:
  """Prepares a sampler, on the host.

  Args:
    name: one of `registry.SAMPLERS`.
    path: the path.
    num_steps: N times of the grid; the network is evaluated N times, by heun 2 N - 1, by
      predictor_corrector N + corrections (N - 1). Not used by adaptive.
    grid: one of `registry.GRIDS`. Not used by adaptive.
    **options: the sampler's own, see its function in `jdiffclust.diffusion.tables`; of
      adaptive its tolerance.

  Returns:
    The sampler and its table, for `run`.

  Raises:
    UserError: an unknown name, option or value.
  """
  known, make = sampler_options(name), SAMPLERS[name]
  for option in options:
    if option not in known:
      raise UserError(f'Unknown option of {name} {option!r}: '
                      + (f'set one of {", ".join(known)}.' if known else 'it has none.'))
  if not makes_rows(make):
    sampler = make(**options)
    return sampler, sampler.table(path, num_steps, grid)
  times = make_grid(grid, path, num_steps)
  return TableSampler(), tables.make_table(
      path, times, lambda now, then: make(now, then, **options))
