"""Restoring images: draws of p(x | y) under any denoiser.

A method is three pure functions over the rows of a table, as a sampler is
(`jdiffclust.diffusion.samplers`): its condition is `Given`, that of the denoiser together
with the problem, and `run` is that of samplers. A further method is a file of its own and
a line of `registry.RESTORERS`.

All is done in u = x_0 + sigma eps, so that every noising path serves. Row r of a batch is
draw (or particle) r // P of problem r % P. What is drawn for a row depends on its key
alone; methods with particles compare those of a problem, and no row knows of another
problem.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jdiffclust.diffusion import samplers, tables
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.grids import karras_levels
from jdiffclust.diffusion.paths import Path, on_host
from jdiffclust.diffusion.tables import Table
from jdiffclust.errors import UserError
from jdiffclust.inverse.moments import Moments
from jdiffclust.inverse.problem import Problem, check_problem, is_spectral
from jdiffclust.registry import RESTORERS
from jdiffclust.sharding import SPLIT


MOST_NOISE = 100.  # the first noise level, at most, in units of the images' spread


class Given(NamedTuple):
  """What rows are drawn by.

  Attributes:
    problem: of P observations.
    condition: of the denoiser, a tree of rows [R, ...].
    moments: of the denoiser.
    log_weights: of particles at the start, beside those that follow from y, [R]: where
      conditions were not drawn from their prior, its logarithm less that of what they
      were drawn from.
  """

  problem: Problem
  condition: Any
  moments: Moments
  log_weights: jax.Array


class Restored(NamedTuple):
  """What a method returns, of R = D P rows: D draws of P images, row d P + p.

  Attributes:
    images: [R, H, W, C].
    condition: by which each was drawn, a tree of rows.
    evaluations: network evaluations a draw took, with those of its particles.
    log_evidence: log p(y) of the seen coordinates U^T y, nats, [P]; NaN of methods that
      have no estimate; -inf: all particles have died.
    ess: effective sample size of the last weights, [P]; NaN as above. That of groups of
      particles is the sum of theirs.
    least_ess: the least on the way, [P].
    log_weights: of the particles before the last resampling, normalised, [N, P]; None of
      methods without.
    states: None.
  """

  images: jax.Array
  condition: Any
  evaluations: jax.Array
  log_evidence: jax.Array
  ess: jax.Array
  least_ess: jax.Array
  log_weights: jax.Array | None = None
  states: None = None


class Restorer(samplers.Sampler):
  """A method; instances are static to `jax.jit`.

  Attributes:
    needs_spectrum: whether the operator's singular value decomposition must be known.
    needs_noise: whether sigma_y must be above 0 where that decomposition is not known.
    allows_noise: whether it may be.
  """

  needs_spectrum: ClassVar[bool] = True
  needs_noise: ClassVar[bool] = False
  allows_noise: ClassVar[bool] = True

  def table(  # type: ignore[override]  # restorers know no grids, samplers no spread
      self, path: Path, num_steps: int, spread: float) -> Table:
    """The rows it goes through.

    Args:
      path: the noising path, float64 on the host.
      num_steps: N.
      spread: of the model's images.
    """
    return table_of(path, num_steps, spread)

  def num_rows(self, num_draws: int) -> int:
    """Draws, or particles, of an image of which `num_draws` are asked for."""
    return num_draws

  def check(self, problem: Problem, name: str) -> None:
    """Checks that it can restore a problem.

    Args:
      problem: the problem.
      name: of the method, for messages.

    Raises:
      UserError: it cannot.
    """
    known = is_spectral(problem.operator)
    if self.needs_spectrum and not known:
      others = [other for other in RESTORERS if not RESTORERS[other].needs_spectrum]
      raise UserError(
          f'The method {name} needs the singular value decomposition of the operator, '
          f'which {type(problem.operator).__name__} has not: give its matrix, or take '
          f"{' or '.join(others)}.")
    if self.needs_noise and not known and not float(problem.noise) > 0:
      raise UserError(
          f'The method {name} needs noise where the singular value decomposition of the '
          f'operator is not known, but sigma = {float(problem.noise)}: set a standard '
          "deviation above 0, or give the operator's matrix.")
    if not self.allows_noise and float(problem.noise) > 0:
      raise UserError(f'The method {name} takes what is seen for exact, but sigma = '
                      f'{float(problem.noise)}: set it to 0, or take another method.')


def table_of(path: Path, num_steps: int, spread: float) -> Table:
  """Rows of ddim at the noise levels of Karras et al. (2022), but for the noisiest.

  Beyond `MOST_NOISE` times the spread u tells nothing of x_0, and a network's errors grow
  with sigma: the way begins there, with N(mu, sigma^2 + spread^2).

  Args:
    path: the noising path, float64 on the host.
    num_steps: N, at least 1.
    spread: standard deviation of the images' pixels.

  Returns:
    The `Table`.

  Raises:
    UserError: N is below 1.
  """
  if num_steps < 1:
    raise UserError(f'{num_steps} steps of a restoration: set at least 1.')
  low, high = np.exp(on_host(path.log_sigma, [path.t_min, path.t_max]))
  first = max(min(high, MOST_NOISE * spread), 2 * low)
  sigma = karras_levels(first, low, num_steps)
  times = np.clip(on_host(path.time, np.log(sigma)), path.t_min, path.t_max)
  table = tables.make_table(path, times, tables.ddim)
  if first >= high:
    return table
  return table._replace(start_noise=np.hypot(first, spread), start_mu=np.ones(()))


def bridge(u, x0, sigma, after, variance):
  """u at a lower noise level, given u and that x_0 ~ N(x0, variance).

  Between u and x_0 u walks as a Brownian bridge: with variance 0 this is ddpm's
  'posterior' step, with that of x_0 ~ N(0, 1) it is its 'step' (Ho et al., 2020).

  Args:
    u: at noise level sigma.
    x0: E[x_0 | u].
    sigma: noise level now.
    after: noise level then, lower.
    variance: of x_0 given u.

  Returns:
    Mean and variance of u then.
  """
  w2 = (after / sigma)**2
  # Fused multiply-adds may give a difference of equal squares below zero.
  left = jnp.maximum(sigma**2 - after**2, 0.)
  return x0 + w2 * (u - x0), w2 * left + (1 - w2)**2 * variance


def ddpm_step(u, x0, row, moments: Moments, keys) -> jax.Array:
  """A step of ddpm, its variance the model's own; in the last row x_0.

  Args:
    u: [R, H, W, C].
    x0: E[x_0 | u].
    row: of the table.
    moments: of the model.
    keys: of the rows.
  """
  m, v = bridge(u, x0, row.sigma, row.sigma_next, moments.variance(row.sigma))
  return m + jnp.where(row.left == 0, 0., jnp.sqrt(v)) * noise(keys, row, 1, u)


def noise(keys, row, number: int, like) -> jax.Array:
  """Standard normal noise of a row of the table, by the keys [R] of rows.

  Args:
    keys: typed keys.
    row: whose own number `left` tells the draw.
    number: of the draw within the row.
    like: an array [R, ...] of the shape and type.
  """
  def one(key):
    key = jax.random.fold_in(jax.random.fold_in(key, row.left), number)
    return jax.random.normal(key, like.shape[1:], like.dtype)
  return jax.vmap(one)(keys)


def start(table, denoiser, keys, condition) -> jax.Array:
  """u of the first row, pure noise, [R, H, W, C]."""
  mu = denoiser.centre(condition)
  mu = jnp.broadcast_to(mu, (len(keys), *mu.shape[1:]))
  row = jax.tree.map(lambda a: a[0], table.rows)
  z = noise(keys, row._replace(left=len(table.rows.t)), 0, mu)
  return table.start_noise * z + table.start_mu * mu


def start_noise(keys, like) -> jax.Array:
  """Noise of its own for what is known at the start, [R, ...]."""
  keys = jax.vmap(lambda key: jax.random.fold_in(key, 2**31 - 1))(keys)
  one = lambda key: jax.random.normal(key, like.shape[1:], like.dtype)
  return jax.vmap(one)(keys)


def estimate(denoiser: Denoiser, u, row, condition) -> jax.Array:
  """E[x_0 | u] of a row of the table, [R, H, W, C]."""
  x = row.scale * u + row.pull * denoiser.centre(condition)
  return denoiser.estimate(x, jnp.full(len(x), row.t), condition)


def estimate_and_pullback(denoiser: Denoiser, u, row, condition):
  """E[x_0 | u], and the function from gradients by x_0 to gradients by u."""
  x0, pullback = jax.vjp(lambda u: estimate(denoiser, u, row, condition), u)
  return x0, lambda gradient: pullback(gradient)[0]


class Draws(NamedTuple):
  """The state of a method whose rows know nothing of each other.

  Attributes:
    u: [R, H, W, C].
    condition: of the rows.
    unknown: NaN [P], for what these methods do not estimate.
  """

  u: jax.Array
  condition: Any
  unknown: jax.Array


class Independent(Restorer):
  """A method whose rows know nothing of each other: u from row to row."""

  def init(self, table, denoiser, keys, given):
    """Pure noise."""
    return Draws(start(table, denoiser, keys, given.condition), given.condition,
                 jnp.full(len(given.problem.observation), jnp.nan))

  def step(self, state, row, denoiser, keys, given):
    """u of the next row."""
    return state._replace(
        u=self.advance(state.u, row, denoiser, keys, given))

  @abc.abstractmethod
  def advance(self, u, row, denoiser: Denoiser, keys, given: Given) -> jax.Array:
    """u after a row, of u [R, H, W, C] before it."""

  def finish(self, state, table):
    """The last u is the image."""
    evaluations = jnp.full(len(state.u), len(table.rows.t))
    return Restored(state.u, state.condition, evaluations, *3 * [state.unknown])


def restorer_options(name: str) -> list[str]:
  """The names of a method's own options."""
  return [field.name for field in dataclasses.fields(RESTORERS[name])]


def make_restorer(name: str, **options) -> Restorer:
  """The method of that name.

  Args:
    name: one of `registry.RESTORERS`.
    **options: its own.

  Raises:
    UserError: an unknown name, option or value.
  """
  known = restorer_options(name)
  for option in options:
    if option not in known:
      raise UserError(f'Unknown option of {name} {option!r}: '
                      + (f'set one of {", ".join(known)}.' if known else 'it has none.'))
  return RESTORERS[name](**options)


def restore(restorer: Restorer, path, denoiser: Denoiser, problem: Problem, keys,
            condition, moments: Moments, num_draws: int, num_steps: int,
            log_weights=None, mesh: Mesh | None = None) -> Restored:
  """Draws images given what was seen of them.

  Args:
    restorer: of `make_restorer`.
    path: the noising path, float64 on the host.
    denoiser: the model.
    problem: P observations.
    keys: typed keys [P], one a problem.
    condition: of the denoiser, a tree of rows [N, P, ...], N = `num_rows(num_draws)`: of
      each draw, or each particle, of each problem.
    num_draws: D of each problem.
    moments: of the model, see `moments.measure`.
    num_steps: network evaluations of a draw; of repaint more.
    log_weights: of the particles at the start, [N, P], see `Given`; None: all 0.
    mesh: devices over which the N P rows are spread, which must divide them; None: the
      one that the keys are on.

  Returns:
    `Restored`, of D P rows.

  Raises:
    UserError: the problem is none of the operator or of the method.
  """
  check_problem(problem)
  restorer.check(problem, type(restorer).__name__.lower())
  table = restorer.table(path, num_steps, float(moments.spread))
  table = jax.tree.map(jnp.asarray, table)
  if log_weights is None:
    log_weights = jnp.zeros((restorer.num_rows(num_draws), len(keys)))
  return _restore(restorer, num_draws, mesh, table, denoiser, problem, keys, condition,
                  moments, log_weights)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _restore(restorer, num_draws, mesh, table, denoiser, problem, keys, condition,
             moments, log_weights):
  count = restorer.num_rows(num_draws)
  of = lambda n, key: jax.random.fold_in(key, n)
  row_keys = jax.vmap(jax.vmap(of, (None, 0)), (0, None))(jnp.arange(count), keys)

  def flat(rows):
    rows = rows.reshape(-1, *rows.shape[2:])
    if mesh is None:
      return rows
    return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, SPLIT))

  given = Given(problem, jax.tree.map(flat, condition), moments, flat(log_weights))
  return samplers.run(restorer, table, denoiser, flat(row_keys), given)
