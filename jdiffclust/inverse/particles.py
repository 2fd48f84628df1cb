"""Particles: weighted draws, resampled.

N particles of each of P problems, row n P + p; weights are [N, P]. The mean of the
weights that were divided away estimates the evidence p(y), and does so without bias
(Del Moral, 2004), whatever the number of particles.

Particles of a problem may be parted into G groups that do not compete (islands; Verge,
Dubarry, Del Moral and Moulines, 2015): the cloud is then one of G P problems, group g of
problem p being g P + p. The estimate stays without bias, each draw comes from a group in
turn, and draws of different groups are independent, though their groups be small.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jdiffclust.errors import UserError
from jdiffclust.inverse import restorer

RESAMPLING = ('systematic', 'multinomial')
LAST = 2**31 - 2  # the number of the last resampling, beyond those of rows


class Cloud(NamedTuple):
  """Particles; a group of a problem is a problem of its own here.

  Attributes:
    rows: whatever they carry, a tree of rows [N P, ...].
    log_weights: normalised, [N, P].
    log_evidence: so far, [P].
    least_ess: the least effective sample size so far, [P].
  """

  rows: Any
  log_weights: jax.Array
  log_evidence: jax.Array
  least_ess: jax.Array


class Carried(NamedTuple):
  """What particles carry, rows [N P, ...].

  Attributes:
    u: noisy images, [N P, H, W, C].
    condition: of the denoiser.
    pending: log factors of the weights that are known in the next row only, [N P].
  """

  u: jax.Array
  condition: Any
  pending: jax.Array


class State(NamedTuple):
  """Between two rows of the table.

  Attributes:
    cloud: the particles; their rows are `Carried`.
    last: where the last resampling looks, [D, P].
    first: the first noise level, [].
  """

  cloud: Cloud
  last: jax.Array
  first: jax.Array


def new_cloud(rows, num_problems: int) -> Cloud:
  """Particles of equal weight."""
  number = len(jax.tree.leaves(rows)[0]) // num_problems
  zero = jnp.zeros(num_problems)
  return Cloud(rows, jnp.full((number, num_problems), -jnp.log(number)), zero,
               zero + number)


def effective_sample_size(log_weights) -> jax.Array:
  """1 / the sum of squared weights (Kong, Liu and Wong, 1994), [P]."""
  return jnp.exp(-jax.nn.logsumexp(2 * log_weights, axis=0))


def reweighted(cloud: Cloud, log_factors) -> Cloud:
  """Particles whose weights have been multiplied.

  Args:
    cloud: the particles.
    log_factors: [N P]; those that are not numbers kill their particle.
  """
  factors = log_factors.reshape(cloud.log_weights.shape)
  factors = jnp.where(jnp.isnan(factors), -jnp.inf, factors)
  weights = cloud.log_weights + factors
  total = jax.nn.logsumexp(weights, axis=0)
  # Where all have died the evidence stays -inf; the weights go on as numbers.
  alive = jnp.isfinite(total)
  weights = jnp.where(alive[None], weights - jnp.where(alive, total, 0.)[None],
                      -jnp.log(len(weights)))
  ess = jnp.where(alive, effective_sample_size(weights), 0.)
  return Cloud(cloud.rows, weights, cloud.log_evidence + total,
               jnp.minimum(cloud.least_ess, ess))


def ancestors(log_weights, positions) -> jax.Array:
  """Which particles go on.

  Args:
    log_weights: normalised, [N, P].
    positions: in [0, 1), [M, P].

  Returns:
    The first particle whose cumulated weight exceeds the position, int [M, P]; none of
    weight 0.
  """
  weights = jnp.exp(log_weights)
  # Sums made in parallel may fall by rounding, or rise where the weight is 0.
  sums = jnp.where(weights > 0, jnp.cumsum(weights, axis=0), 0.)
  shares = jax.lax.cummax(sums, axis=0)
  # Divided by their last, they end at 1 exactly, which no position reaches.
  shares = shares / shares[-1:]
  find = lambda shares, at: jnp.searchsorted(shares, at, side='right')
  return jax.vmap(find, 1, 1)(shares, positions)


def positions(kind: str, keys, number: int) -> jax.Array:
  """Where resampling looks, [number, P] in [0, 1).

  Args:
    kind: 'systematic': evenly spaced from one random number; 'multinomial': independent.
    keys: typed keys [P].
    number: M.
  """
  below = 1 - jnp.finfo(jnp.float32).epsneg
  if kind == 'systematic':
    first = jax.vmap(jax.random.uniform)(keys)
    found = (jnp.arange(number, dtype=float)[:, None] + first[None]) / number
  else:
    found = jax.vmap(lambda key: jax.random.uniform(key, (number,)), 0, 1)(keys)
  return jnp.minimum(found, below)


def chosen(rows, which) -> Any:
  """The rows of some particles.

  Args:
    rows: a tree of rows [N P, ...].
    which: particles, int [M, P].

  Returns:
    Rows [M P, ...].
  """
  num_problems = which.shape[1]
  index = (which * num_problems + jnp.arange(num_problems)[None]).reshape(-1)
  return jax.tree.map(lambda a: a[index], rows)


@dataclasses.dataclass(frozen=True)
class Particles(restorer.Restorer):
  """What methods with particles share.

  Attributes:
    particles: N of each problem.
    num_draws: of the particles that are drawn at last, of each problem; 0: as many as
      particles.
    resampling: 'systematic' or 'multinomial'.
    threshold: resampled is when the effective sample size falls below this share of N.
    groups: G, of the particles of a problem, that do not compete; 0: one for each draw,
      or as many of these as leave none with fewer particles than another.
  """

  particles: int = 128
  num_draws: int = 0
  resampling: str = 'systematic'
  threshold: float = .5
  groups: int = 1

  def __post_init__(self):
    """Checks the options.

    Raises:
      UserError: one of them is out of its range.
    """
    if self.resampling not in RESAMPLING:
      raise UserError(f'Unknown resampling {self.resampling!r}: set one of '
                      f'{", ".join(RESAMPLING)}.')
    if not (self.particles >= 1 and self.num_draws >= 0 and 0 <= self.threshold <= 1):
      raise UserError(f'{self} is not allowed: particles must be 1 or more, num_draws 0 '
                      'or more, threshold from 0 to 1.')
    if self.groups < 0 or self.particles % max(self.groups, 1):
      raise UserError(f'{self.particles} particles cannot be parted into {self.groups} '
                      'equal groups: set groups to a divisor of particles, or to 0: '
                      'one for each draw, about.')

  @property
  def num_drawn(self) -> int:
    """D."""
    return self.num_draws or self.particles

  @property
  def num_groups(self) -> int:
    """G."""
    if self.groups:
      return self.groups
    most = min(self.num_drawn, self.particles)
    return max(g for g in range(1, most + 1) if self.particles % g == 0)

  def num_rows(self, num_draws):
    """Particles of an image."""
    del num_draws
    return self.particles

  def resampled(self, cloud: Cloud, row, keys) -> Cloud:
    """Particles after resampling, of the problems that need it.

    Args:
      cloud: the particles.
      row: of the table.
      keys: of the rows.
    """
    number, num_problems = cloud.log_weights.shape
    ess = effective_sample_size(cloud.log_weights)
    needed = (ess < self.threshold * number) | (self.threshold == 1)
    found = ancestors(cloud.log_weights, positions(
        self.resampling, problem_keys(keys, num_problems, row.left), number))
    which = jnp.where(needed[None], found, jnp.arange(number)[:, None])
    return cloud._replace(
        rows=chosen(cloud.rows, which),
        log_weights=jnp.where(needed[None], -jnp.log(number), cloud.log_weights))

  def begun(self, u, given: restorer.Given, keys, sigma) -> State:
    """The state of particles u [N P, ...] at the first level sigma."""
    num_problems = len(given.problem.observation) * self.num_groups
    rows = Carried(u, given.condition, jnp.zeros(len(u)))
    number = -(-self.num_drawn // self.num_groups)
    last = positions(self.resampling, problem_keys(keys, num_problems, LAST), number)
    cloud = reweighted(new_cloud(rows, num_problems), given.log_weights)
    return State(cloud, last, sigma)

  def finish(self, state, table):
    """Draws of equal weight, by a last resampling."""
    cloud, groups = state.cloud, self.num_groups
    num_problems = cloud.log_weights.shape[1] // groups
    drawn = chosen(cloud.rows, ancestors(cloud.log_weights, state.last))
    # Of groups in turn, the last of which may give one less.
    number = self.num_drawn * num_problems
    drawn = jax.tree.map(lambda a: a[:number], drawn)
    evaluations = jnp.full(number, len(table.rows.t) * self.particles)
    by_group = lambda a: a.reshape(*a.shape[:-1], groups, num_problems)
    evidence = jax.nn.logsumexp(by_group(cloud.log_evidence), axis=0) - jnp.log(groups)
    ess = effective_sample_size(cloud.log_weights)
    return restorer.Restored(
        drawn.u, drawn.condition, evaluations, evidence, by_group(ess).sum(axis=0),
        by_group(cloud.least_ess).sum(axis=0),
        cloud.log_weights.reshape(-1, num_problems) - jnp.log(groups))


def problem_keys(keys, num_problems: int, number) -> jax.Array:
  """Keys of problems, typed [P], for resampling in a row of the table."""
  of = lambda key: jax.random.fold_in(jax.random.fold_in(key, number), 2**31 - 1)
  return jax.vmap(of)(keys[:num_problems])
