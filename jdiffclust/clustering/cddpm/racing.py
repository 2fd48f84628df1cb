"""Racing: further draws go only to the clusters that may still matter to an image.

First, all clusters get two replicates of n draws (`bound.draws.evaluate_draws`). Then a
cluster is dropped from an image's race when the best one's lead over it is surely large:
when Student's one-sided test rejects 'lead <= temperature log(Q / NEGLIGIBLE)', that is
'its tau is not below NEGLIGIBLE / Q'. The lead is paired, draw by draw; its standard
error has Satterthwaite's degrees of freedom. The level is the error rate divided by the
Q - 1 opponents and by the number of tests (Bonferroni): over all tests, the probability
that an image loses the cluster that leads in truth is at most the error rate, as far as
the differences are normal. Clusters left get another replicate, and so on; a single one
gets one more, by which it is scored.

Which clusters are left was decided before their last replicate. So tau from those
before it, 0 for the clusters dropped, is scored by the last one without bias, and the
bound stays a lower bound: it holds for any tau. The mean over all replicates that tau
itself is made of has a slight bias, as has every estimate that stops by its own data.

The saving is real: the pairs of image and cluster that are left are packed into
chunks, as many as needed, of one compiled program.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import (
    Drawing, Draws, Estimator, image_draw, image_keys)
from jdiffclust.clustering.bound.tau import (
    Scoring, fixed_parts, independent, leads, weighted_costs)
from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters
from jdiffclust.sharding import DATA_AXIS

# What of tau the clusters dropped may have together. Measured: less costs evaluations,
# more makes tau too sharp (docs/benchmarks.md).
NEGLIGIBLE = .1


class Race(NamedTuple):
  """Where the races of B images stand.

  Attributes:
    draws: of up to G replicates, [G, n, Q, B]; 0 where there was none.
    counts: replicates that each cluster has got, [Q, B].
    left: clusters still racing, [Q, B].
    running: images whose race goes on, [B].
    taken: replicates so far, [].
  """

  draws: Draws
  counts: jax.Array
  left: jax.Array
  running: jax.Array
  taken: jax.Array


def critical_values(level: float, freedom) -> jax.Array:
  """Student's one-sided quantiles, as a function that JAX has not.

  Args:
    level: of the test, below 1/2; 0: never rejects.
    freedom: degrees of freedom, >= 1, of any shape.

  Returns:
    Interpolated, within 1%: of the shape of `freedom`.
  """
  inverse = np.linspace(0, 1, 65)
  logs = np.log(scipy.stats.t.isf(max(level, 1e-30), 1 / np.maximum(inverse, 1e-6)))
  if level == 0:
    logs[:] = 80.  # e^80: near the largest float32
  return jnp.exp(jnp.interp(1 / freedom, jnp.asarray(inverse, jnp.float32),
                            jnp.asarray(logs, jnp.float32)))


def map_where(function, wanted, chunk: int):
  """Evaluates a function of indices where it is wanted, and nowhere else.

  Args:
    function: from indices int32 [chunk] to a tree of arrays [chunk, ...].
    wanted: bool [M].
    chunk: indices at once; the last chunk is filled up.

  Returns:
    A tree of arrays [M, ...]; 0 where not wanted.
  """
  size = wanted.shape[0]
  indices = jnp.nonzero(wanted, size=-(-size // chunk) * chunk, fill_value=size)[0]

  def body(i, result):
    rows = jax.lax.dynamic_slice_in_dim(indices, i * chunk, chunk)
    values = function(jnp.minimum(rows, size - 1))
    return jax.tree.map(lambda a, v: a.at[rows].set(v, mode='drop'), result, values)

  shapes = jax.eval_shape(function, indices[:chunk])
  zeros = jax.tree.map(
      lambda s: jax.lax.pcast(jnp.zeros((size, *s.shape[1:]), s.dtype), DATA_AXIS,
                              to='varying'), shapes)
  return jax.lax.fori_loop(0, -(-jnp.sum(wanted) // chunk), body, zeros)


def evaluate_replicate(model: ConditionalDDPM, estimator: Estimator, params: Parameters,
                       batch: Batch, keys, replicate, wanted,
                       drawing: Drawing, chunk: int) -> Draws:
  """One replicate of some pairs of image and cluster.

  Args:
    model: the static part of the model.
    estimator: its estimator.
    params: Q clusters.
    batch: B images.
    keys: the images' typed keys, [B].
    replicate: g, [].
    wanted: the pairs, bool [Q, B].
    drawing: n draws a replicate.
    chunk: rows evaluated at once.

  Returns:
    `Draws` of [n, Q, B]; 0 where not wanted.
  """
  size = batch.images.shape[0]
  process, network, x0 = estimator.process, params.network, batch.images

  def one_draw(k):
    t, eps = jax.vmap(lambda key: image_draw(
        key, estimator, drawing, x0.shape[1:], replicate, k))(keys)
    shared = map_where(
        lambda i: model.shared(process, network, x0[i], t[i], eps[i]),
        wanted.any(axis=0), chunk)

    def of_pairs(pairs):
      q, i = jnp.divmod(pairs, size)
      return model.draw_terms(process, network, jax.tree.map(lambda a: a[i], shared),
                              x0[i], t[i], params.means[q], eps[i])

    terms = map_where(of_pairs, wanted.ravel(), chunk)
    return Draws(jnp.broadcast_to(t, wanted.shape),
                 jax.tree.map(lambda a: a.reshape(wanted.shape), terms))

  return jax.lax.map(one_draw, jnp.arange(drawing.num_draws // 2))


def drop_losers(race: Race, fixed, costs, least, level) -> Race:
  """Drops the clusters that have lost, and ends the races that are over.

  Args:
    race: after a replicate.
    fixed: see `bound.tau.fixed_parts`, [Q, B].
    costs: y of the weighting that decides tau, or its sums over what depends on each
      other, [G, n, Q, B].
    least: the lead below which nobody has lost, nats.
    level: of the test of a pair of clusters after one replicate.

  Returns:
    The race with `left` and `running` brought up to date.
  """
  # A single cluster left has just been scored by a replicate that did not choose it.
  running = race.running & (race.left.sum(axis=0) > 1)
  lead = leads(fixed, costs, race.counts, race.left)
  lost = lead.lead > least + critical_values(level, lead.freedom) * lead.error
  return race._replace(left=race.left & ~(running[None] & lost), running=running)


def run_race(model: ConditionalDDPM, estimator: Estimator, params: Parameters,
             batch: Batch, key, first: Draws, drawing: Drawing,
             scoring: Scoring) -> tuple[Draws, jax.Array]:
  """Goes on from the first two replicates until each image's race is over.

  To be called within `shard_map`: devices race on their own.

  Args:
    model: the static part of the model.
    estimator: its estimator.
    params: Q clusters.
    batch: B images.
    key: that of `first`.
    first: of `bound.draws.evaluate_draws`, draws shared by the clusters.
    drawing: how they were made, max_draws = G n, and the error rate.
    scoring: how they become tau.

  Returns:
    `Draws` of [G, n, Q, B], and how many replicates each cluster has got, [Q, B].
  """
  _, num_draws, num_clusters, size = first.t.shape
  replicates = drawing.max_draws // num_draws
  least = scoring.temperature * np.log(num_clusters / NEGLIGIBLE)
  # The last of G - 1 tests would come after the last replicate: it is left out.
  level = drawing.race_error / (max(1, num_clusters - 1) * (replicates - 2))
  fixed, _ = fixed_parts(estimator, params, batch.images)
  keys = image_keys(key, batch.numbers)

  def tested(race):
    costs = weighted_costs(estimator, race.draws, scoring.weighting)
    return drop_losers(race, fixed, independent(costs, scoring.antithetic), least, level)

  def body(race):
    wanted = race.left & race.running[None]
    new = evaluate_replicate(model, estimator, params, batch, keys, race.taken, wanted,
                             drawing, chunk=-(-size // 4))
    draws = jax.tree.map(lambda all_, one: all_.at[race.taken].set(one), race.draws, new)
    return tested(race._replace(draws=draws, taken=race.taken + 1,
                                counts=race.counts + wanted.astype(jnp.int32)))

  # t = 1 for the draws to come keeps their (unused) weights finite.
  room = lambda a, value: jnp.concatenate(
      [a, jnp.full_like(a, value, shape=(replicates - 2, *a.shape[1:]))])
  draws = Draws(room(first.t, 1), jax.tree.map(lambda a: room(a, 0), first.terms))
  everyone = first.t[0, 0] > 0
  race = tested(Race(draws, jnp.where(everyone, 2, 0), everyone, everyone[0],
                     jnp.int32(2)))
  race = jax.lax.while_loop(
      lambda race: (race.taken < replicates) & race.running.any(), body, race)
  return race.draws, race.counts
