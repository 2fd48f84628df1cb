"""The draws (t, eps) by which the bound's sum over noise levels is estimated.

For image i and cluster q there are independent replicates g = 1..G of n draws
(t_gk, eps_gk) each. t is drawn from p, by strata k within a replicate, which leaves the
estimate unbiased for any positive p. All clusters of an image share the draws, so that
their differences have little noise. What the draws say:
`jdiffclust.clustering.bound.tau`.

G is 2, unless clusters race (`jdiffclust.clustering.cddpm.racing`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.terms import (
    NUM_BANDS, ConditionalDDPM, DrawTerms, Parameters, noise_bands, step_weights,
    variance_kl)
from jdiffclust.diffusion.preconditioning import level_density
from jdiffclust.diffusion.process import Process, as_float32


@dataclasses.dataclass(frozen=True)
class Drawing:
  """How an image's draws are made, and how many of them at once.

  Attributes:
    num_draws: S, the draws of each cluster, even: two replicates of n = S / 2.
    stratify: see `draw_steps`.
    antithetic: see `noise_draw`; n must be even.
    shared: all clusters of an image see the same (t, eps).
    clusters_per_chunk: clusters evaluated at once.
    draws_per_chunk: draws evaluated at once. Memory grows with both chunks.
    max_draws: the draws that a cluster gets at most if clusters race; 0: no race.
    race_error: the error rate of a race, see `jdiffclust.clustering.cddpm.racing`.
  """

  num_draws: int
  stratify: bool = True
  antithetic: bool = False
  shared: bool = True
  clusters_per_chunk: int = 1
  draws_per_chunk: int = 1
  max_draws: int = 0
  race_error: float = 0.


def drawing_of(options) -> Drawing:
  """The `Drawing` that the `e_step` section of a config asks for."""
  return Drawing(options.num_draws, options.stratify, options.noise == 'antithetic',
                 options.share_draws, options.clusters_per_chunk,
                 options.draws_per_chunk, options.max_draws, options.race_error)


class Estimator(NamedTuple):
  """The arrays that the estimator needs, float32, over t = 0..T.

  Attributes:
    process: the diffusion.
    elbo_weights: `step_weights` of the exact bound.
    weights: those of the chosen weighting.
    proposal: p(t), 0 at t = 0.
    variance_kl: sum_t v_t, nats per dimension, [].
    bands: `terms.noise_bands`, int32.
    variance_kl_bands: sum of v_t over each of the K bands, [K].
  """

  process: Process
  elbo_weights: jax.Array
  weights: jax.Array
  proposal: jax.Array
  variance_kl: jax.Array
  bands: jax.Array
  variance_kl_bands: jax.Array


def make_estimator(process: Process, weighting: str, proposal: str) -> Estimator:
  """Prepares the estimator.

  Args:
    process: the diffusion, float64 on the host.
    weighting: 'elbo', 'uniform' or 'residual', see `terms.step_weights`.
    proposal: 'weight', p proportional to the weight; 'spread', the same until a pilot
      has measured (`jdiffclust.clustering.cddpm.proposals`); 'uniform'; or 'density',
      `diffusion.preconditioning.level_density`.

  Returns:
    An `Estimator`, on the device.
  """
  elbo, weights = step_weights(process, 'elbo'), step_weights(process, weighting)
  p = {'uniform': step_weights(process, 'uniform'),
       'density': level_density(process)}.get(proposal, weights)
  variance, bands = variance_kl(process), noise_bands(process, NUM_BANDS)
  by_band = np.bincount(bands[2:], weights=variance[2:], minlength=NUM_BANDS)
  cast = functools.partial(jnp.asarray, dtype=jnp.float32)
  return Estimator(as_float32(process), cast(elbo), cast(weights), cast(p / p.sum()),
                   cast(variance.sum()), jnp.asarray(bands, jnp.int32), cast(by_band))


def draw_steps(key, proposal, num: int, stratify: bool) -> jax.Array:
  """Draws noise levels from a distribution over t.

  Args:
    key: a typed key.
    proposal: p(t), [T + 1], 0 at t = 0.
    num: number of draws n.
    stratify: one draw from each n-th of the distribution instead of n independent ones.

  Returns:
    int32 [n] in 1..T, each of marginal distribution p averaged over the n.
  """
  u = jax.random.uniform(key, (num,))
  if stratify:
    u = (jnp.arange(num, dtype=u.dtype) + u) / num
  cdf = jnp.cumsum(proposal)
  # Rounding may leave the last cdf below u: such a draw belongs to the last step.
  t = jnp.searchsorted(cdf, u * cdf[-1], side='right')
  return jnp.clip(t, 1, proposal.shape[0] - 1).astype(jnp.int32)


def image_keys(key, numbers) -> jax.Array:
  """A typed key per image, [B], that depends on its number alone."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def key_apart(key, number: int) -> jax.Array:
  """A key of the same stream that is no image's, for a purpose of its own.

  `fold_in(key, 1)` would be image 1's key, from which its draws follow.

  Args:
    key: that of `image_keys`.
    number: of the purpose, 0, 1, ...; indices of images never come near 2^32.

  Returns:
    A typed key [].
  """
  return jax.random.fold_in(key, np.uint32(2**32 - 1 - number))


class Draws(NamedTuple):
  """The terms of all draws: t [G, n, Q, B], and `DrawTerms` of [G, n, Q, B]."""

  t: jax.Array
  terms: DrawTerms


def noise_draw(key, shape, within, antithetic: bool) -> jax.Array:
  """Standard normal noise [H, W, C] of draw `within`.

  Args:
    key: a typed key, one for all draws.
    shape: (H, W, C).
    within: the number of the draw, [].
    antithetic: draws 2j + 1 are -1 times draws 2j, instead of independent.
  """
  if not antithetic:
    return jax.random.normal(jax.random.fold_in(key, within), shape)
  eps = jax.random.normal(jax.random.fold_in(key, within - within % 2), shape)
  return jnp.where(within % 2 == 0, eps, -eps)


def image_draw(key, estimator: Estimator, drawing: Drawing, shape, replicate, within):
  """One draw of an image.

  Args:
    key: the image's typed key.
    estimator: its proposal is how t is drawn.
    drawing: how, n draws a replicate.
    shape: (H, W, C).
    replicate: g, [].
    within: k in 0..n - 1, [].

  Returns:
    t int32 [] and eps [H, W, C].
  """
  key_t, key_eps = jax.random.split(key)
  num = drawing.num_draws // 2
  steps = draw_steps(jax.random.fold_in(key_t, replicate), estimator.proposal, num,
                     drawing.stratify)
  eps = noise_draw(key_eps, shape, replicate * num + within, drawing.antithetic)
  return steps[within], eps


def evaluate_draws(model: ConditionalDDPM, estimator: Estimator, params: Parameters,
                   batch: Batch, key, drawing: Drawing) -> Draws:
  """Evaluates the network for every image, cluster and draw: B Q S evaluations.

  Args:
    model: the static part of the model.
    estimator: its estimator.
    params: the fitted parameters, Q clusters.
    batch: B images.
    key: a typed key.
    drawing: S draws of each cluster; memory grows with B times both chunks.

  Returns:
    `Draws` of G = 2, n = S / 2.
  """
  num_clusters = params.means.shape[0]
  keys = image_keys(key, batch.numbers)
  half = drawing.num_draws // 2
  draw = functools.partial(image_draw, estimator=estimator, drawing=drawing,
                           shape=batch.images.shape[1:])

  def evaluate(t, eps, shared, q):
    return Draws(t, model.draw_terms(estimator.process, params.network, shared,
                                     batch.images, t, params.means[q][None], eps))

  def draw_with_shared(keys, s):
    t, eps = jax.vmap(lambda key: draw(key, replicate=s // half, within=s % half))(keys)
    return t, eps, model.shared(estimator.process, params.network, batch.images, t, eps)

  def one_draw(s):
    if drawing.shared:
      one_cluster = functools.partial(evaluate, *draw_with_shared(keys, s))
    else:
      one_cluster = lambda q: evaluate(*draw_with_shared(  # type: ignore[call-arg]
          jax.vmap(jax.random.fold_in, (0, None))(keys, q), s), q)
    return jax.lax.map(one_cluster, jnp.arange(num_clusters),
                       batch_size=min(drawing.clusters_per_chunk, num_clusters))

  draws = jax.lax.map(one_draw, jnp.arange(drawing.num_draws),
                      batch_size=min(drawing.draws_per_chunk, drawing.num_draws))
  return jax.tree.map(lambda a: a.reshape(2, half, *a.shape[1:]), draws)
