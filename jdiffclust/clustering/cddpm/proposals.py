"""How the E-step draws noise levels: by what they say of the clusters.

Whatever p(t), the estimate of a difference of two clusters is unbiased; a single draw
of it has the least variance with

  p(t) proportional to sqrt(E d_t^2),

d_t being the difference of their costs at level t. A pilot measures d_t, of the mean of
an antithetic pair where the noise is antithetic, at a few levels for a few images, as
the costs' deviations from their mean over the clusters. A share of the proposal by
weight is mixed in: no importance weight is then larger than 1 / SAFETY times what it is
with that proposal, however wrong the pilot.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import Estimator, image_keys, noise_draw
from jdiffclust.clustering.bound.tau import Scoring, cluster_costs
from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters

NUM_LEVELS = 16
NUM_IMAGES = 32
SAFETY = .2


def pilot_levels(num_steps: int) -> np.ndarray:
  """Up to `NUM_LEVELS` steps of 1..T, dense where t is small."""
  return np.unique(np.geomspace(1, num_steps, NUM_LEVELS).round().astype(np.int32))


def cost_spread(model: ConditionalDDPM, estimator: Estimator, params: Parameters,
                batch: Batch, key, levels, scoring: Scoring) -> jax.Array:
  """The root mean square, over images and clusters, of costs less their cluster mean.

  Args:
    model: the static part of the model.
    estimator: its estimator.
    params: Q clusters.
    batch: the pilot's images, [B].
    key: a typed key.
    levels: int32 [L] in 1..T.
    scoring: weights the costs; if antithetic, two draws of opposite noise a level are
      averaged, instead of one draw.

  Returns:
    [L], nats.
  """
  shape, process, network = batch.images.shape, estimator.process, params.network
  keys = image_keys(key, batch.numbers)

  def one_level(level):
    t = jnp.full(shape[0], level)

    def one_draw(within):
      eps = jax.vmap(lambda key: noise_draw(
          jax.random.fold_in(key, level), shape[1:], within,
          scoring.antithetic))(keys)
      shared = model.shared(process, network, batch.images, t, eps)
      of_cluster = lambda mu: model.draw_terms(
          process, network, shared, batch.images, t, mu[None], eps)
      terms = jax.lax.map(of_cluster, params.means)
      return cluster_costs(estimator, terms, jnp.broadcast_to(t, terms.error.shape),
                           scoring.weighting)

    pair = jnp.arange(1 + scoring.antithetic)
    costs = jnp.mean(jax.lax.map(one_draw, pair), axis=0)
    return jnp.sqrt(jnp.mean((costs - costs.mean(axis=0, keepdims=True))**2))

  return jax.lax.map(one_level, levels)


def spread_proposal(spread, levels, weight_proposal) -> jax.Array:
  """p(t) from the measured spread of the costs.

  Args:
    spread: of `cost_spread`, [L].
    levels: its levels, rising from 1 to T, [L].
    weight_proposal: p by the weights, [T + 1], 0 at t = 0.

  Returns:
    float32 [T + 1], 0 at t = 0; by the weights where the spread is 0 throughout.
  """
  t = np.maximum(np.arange(len(weight_proposal)), 1)
  tiny = np.float32(1e-20)
  logs = jnp.interp(jnp.asarray(np.log(t), jnp.float32),
                    jnp.asarray(np.log(levels), jnp.float32), jnp.log(spread + tiny))
  measured = jnp.where(weight_proposal > 0, jnp.exp(logs) - tiny, 0)
  measured = jnp.maximum(measured, 0) + tiny * weight_proposal
  return (1 - SAFETY) * measured / measured.sum() + SAFETY * weight_proposal


def measured_estimator(model: ConditionalDDPM, estimator: Estimator, params: Parameters,
                       batch: Batch, key, scoring: Scoring) -> Estimator:
  """The estimator with the proposal that a pilot measures.

  Args:
    model: the static part of the model.
    estimator: its proposal is by weight.
    params: Q clusters.
    batch: the pilot's images.
    key: a typed key, of no other use.
    scoring: see `cost_spread`.

  Returns:
    The new estimator.
  """
  levels = pilot_levels(estimator.proposal.shape[0] - 1)
  spread = cost_spread(model, estimator, params, batch, key, jnp.asarray(levels),
                       scoring)
  return estimator._replace(
      proposal=spread_proposal(spread, levels, estimator.proposal))
