"""The E-step: tau by Monte Carlo.

For image i and cluster q the bound's sum over noise levels is estimated from S draws
(t_s, eps_s), as two independent halves h of S / 2 draws each:

  cost_h(i, q) = sum_{s in h} cost(i, q, t_s, eps_s) / (S / 2 * p(t_s)),
  l(i, q) = log pi_q - KL_T(i, q) - D sum_t v_t - mean_h cost_h(i, q),
  tau_i   = softmax_q(l(i, q) / temperature).

t is drawn from p, by strata within a half, which leaves the estimate unbiased for any
positive p; all clusters of an image share the draws, so that their differences have
little noise. The halves give the estimate's standard error, and an honest bound:
tau from one half is scored by the other (scoring a tau with the very draws that
chose it would be too high by the noise it has adapted to).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jdiffclust.batch import Batch
from jdiffclust.clustering.amortised import Posterior, log_posterior
from jdiffclust.clustering.mixture import (
    DrawTerms, Mixture, Parameters, noise_bands, step_costs, step_weights, variance_kl)
from jdiffclust.diffusion import forward
from jdiffclust.diffusion.process import Process, as_float32
from jdiffclust.sharding import DATA_AXIS


NUM_BANDS = 8  # of noise levels, by which the bound is reported


class EStepInfo(NamedTuple):
  """Diagnostics per image, in nats, all [B] but `levels`.

  Attributes:
    bound: the variational bound on log p(x_0), exact weighting, in expectation.
    entropy: of tau.
    prior: its part -KL_T under tau.
    diffusion: its part from the levels t > 1.
    levels: that part by the bands of `mixture.noise_bands`, [B, K].
    decoder: its part from t = 1.
    margin: best minus second best log-joint of the clusters (inf if Q is 1).
    margin_error: standard error of that margin.
  """

  bound: jax.Array
  entropy: jax.Array
  prior: jax.Array
  diffusion: jax.Array
  levels: jax.Array
  decoder: jax.Array
  margin: jax.Array
  margin_error: jax.Array


class Estimator(NamedTuple):
  """The arrays that the estimator needs, float32, over t = 0..T.

  Attributes:
    process: the diffusion.
    elbo_weights: `step_weights` of the exact bound.
    weights: those of the chosen weighting.
    proposal: p(t), 0 at t = 0.
    variance_kl: sum_t v_t, nats per dimension, [].
    bands: `mixture.noise_bands`, int32.
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
    weighting: 'elbo' or 'uniform', see `mixture.step_weights`.
    proposal: 'weight', p proportional to the weight, or 'uniform'.

  Returns:
    An `Estimator`, on the device.
  """
  elbo, weights = step_weights(process, 'elbo'), step_weights(process, weighting)
  p = weights if proposal == 'weight' else step_weights(process, 'uniform')
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


def image_keys(key, indices) -> jax.Array:
  """A typed key per image, [B], that depends on its index alone."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


class Draws(NamedTuple):
  """The terms of all draws: t [S, Q, B], and `DrawTerms` of [S, Q, B]."""

  t: jax.Array
  terms: DrawTerms


def evaluate_draws(mixture: Mixture, estimator: Estimator, params: Parameters,
                   batch: Batch, key, *, num_draws: int, stratify: bool,
                   share_draws: bool, clusters_per_chunk: int,
                   draws_per_chunk: int) -> Draws:
  """Evaluates the network for every image, cluster and draw: B Q S evaluations.

  Args:
    mixture: the model.
    estimator: its estimator.
    params: the fitted parameters, Q clusters.
    batch: B images.
    key: a typed key.
    num_draws: S, even.
    stratify: see `draw_steps`.
    share_draws: all clusters of an image see the same (t, eps).
    clusters_per_chunk: clusters evaluated at once.
    draws_per_chunk: draws evaluated at once; memory grows with B times both chunks.

  Returns:
    `Draws`; draws 0..S/2 - 1 are the first half, the others the second.
  """
  num_clusters = params.means.shape[0]
  keys = image_keys(key, batch.indices)

  def image_draw(key, s):
    key_t, key_eps = jax.random.split(key)
    half, within = s // (num_draws // 2), s % (num_draws // 2)
    steps = draw_steps(jax.random.fold_in(key_t, half), estimator.proposal,
                       num_draws // 2, stratify)
    eps = jax.random.normal(jax.random.fold_in(key_eps, s), batch.images.shape[1:])
    return steps[within], eps

  def evaluate(t, eps, features, q):
    mu = jnp.broadcast_to(params.means[q], batch.images.shape)
    return Draws(t, mixture.draw_terms(estimator.process, params.network, features,
                                       batch.images, t, mu, eps))

  def draw_with_features(keys, s):
    t, eps = jax.vmap(image_draw, (0, None))(keys, s)
    return t, eps, mixture.features(estimator.process, params.network, batch.images, t,
                                    eps)

  def one_draw(s):
    if share_draws:
      one_cluster = functools.partial(evaluate, *draw_with_features(keys, s))
    else:
      one_cluster = lambda q: evaluate(*draw_with_features(
          jax.vmap(jax.random.fold_in, (0, None))(keys, q), s), q)
    return jax.lax.map(one_cluster, jnp.arange(num_clusters),
                       batch_size=min(clusters_per_chunk, num_clusters))

  return jax.lax.map(one_draw, jnp.arange(num_draws),
                     batch_size=min(draws_per_chunk, num_draws))


def posterior(log_joint, temperature: float = 1.):
  """tau and log tau, the softmax of log_joint / temperature over the last axis."""
  log_tau = jax.nn.log_softmax(log_joint / temperature, axis=-1)
  return jnp.exp(log_tau), log_tau


def cross_bound(chosen, exact, temperature: float = 1.) -> jax.Array:
  """The bound of each image, tau from one half of the draws, its score from the other.

  Args:
    chosen: two independent estimates of the log-joints that decide tau, [2, B, Q].
    exact: of the log-joints of the exact weighting, from the same halves, [2, B, Q].
    temperature: of tau.

  Returns:
    [B]: mean over both ways of sum_q tau_q (l_q - log tau_q).
  """
  tau, log_tau = posterior(chosen, temperature)
  return jnp.mean(jnp.sum(tau * (exact[::-1] - log_tau), axis=-1), axis=0)


def summarise(estimator: Estimator, params: Parameters, images, draws: Draws, *,
              weighting: str, temperature: float, log_q=None):
  """From the draws to tau and its diagnostics.

  Args:
    estimator: the estimator that made the draws.
    params: the parameters they were made with.
    images: [B, H, W, C].
    draws: of `evaluate_draws`.
    weighting: 'elbo' or 'uniform': which sum over t decides tau.
    temperature: of tau.
    log_q: log of a tau that the draws did not choose, [B, Q], which is then scored;
      None: tau is the posterior by the draws.

  Returns:
    tau [B, Q], and `EStepInfo`, whose bound is of the exact weighting always.
  """
  num_draws = draws.t.shape[0]
  importance = 1 / (num_draws / 2 * estimator.proposal[draws.t])
  prior = jax.vmap(
      lambda mu: forward.prior_kl(estimator.process, images,
                                  jnp.broadcast_to(mu, images.shape)))(params.means)

  constant = images[0].size * estimator.variance_kl

  def half_sums(values):  # [S, Q, B] -> [2, B, Q]
    halves = values.reshape(2, num_draws // 2, *values.shape[1:])
    return jnp.swapaxes(halves.sum(axis=1), 1, 2)

  def log_joint(costs):
    return (params.log_proportions[None, None] - prior.T[None] - constant
            - half_sums(importance * costs))

  exact_costs = step_costs(draws.terms, draws.t, estimator.elbo_weights, 'elbo')
  exact = log_joint(exact_costs)
  chosen = exact if weighting == 'elbo' else log_joint(
      step_costs(draws.terms, draws.t, estimator.weights, weighting))

  if log_q is None:
    tau, log_tau = posterior(chosen.mean(axis=0), temperature)
    bound = cross_bound(chosen, exact, temperature)
  else:
    tau, log_tau = jnp.exp(log_q), log_q
    bound = jnp.sum(tau * (exact.mean(axis=0) - log_tau), axis=-1)
  decoder = half_sums(importance * jnp.where(draws.t == 1, exact_costs, 0)).mean(axis=0)
  levels = -band_sums(estimator, draws.t, importance / 2 * exact_costs * tau.T[None],
                      images[0].size)
  margin, margin_error = margins(chosen)
  info = EStepInfo(
      bound=bound,
      entropy=-jnp.sum(tau * log_tau, axis=-1),
      prior=-jnp.sum(tau * prior.T, axis=-1),
      diffusion=jnp.sum(levels, axis=-1), levels=levels,
      decoder=-jnp.sum(tau * decoder, axis=-1),
      margin=margin, margin_error=margin_error)
  return tau, info


def band_sums(estimator: Estimator, t, costs, size: int) -> jax.Array:
  """What each band of noise levels costs the bound of an image.

  Args:
    estimator: the estimator that made the draws.
    t: their steps, [S, Q, B].
    costs: their costs weighted by importance and tau, nats, [S, Q, B].
    size: dimension of an image.

  Returns:
    nats, [B, K], the cost of the reverse variances included; t = 1 is left out.
  """
  bands = estimator.bands[t]
  sums = jax.lax.map(
      lambda band: jnp.sum(jnp.where(bands == band, costs, 0), axis=(0, 1)),
      jnp.arange(NUM_BANDS))
  return sums.T + size * estimator.variance_kl_bands[None]


def margins(halves):
  """How far the best cluster leads, and how sure that is.

  Args:
    halves: two independent estimates of the log-joints, [2, B, Q].

  Returns:
    Lead of the best over the second best cluster of their mean [B], and the standard
    error of that difference [B] (half the difference between the halves: one degree
    of freedom).
  """
  if halves.shape[-1] == 1:
    return jnp.full(halves.shape[1], jnp.inf), jnp.zeros(halves.shape[1])
  mean = halves.mean(axis=0)
  values, order = jax.lax.top_k(mean, 2)
  picked = jnp.take_along_axis(halves, jnp.broadcast_to(order, (2, *order.shape)),
                               axis=-1)
  lead = picked[..., 0] - picked[..., 1]
  return values[:, 0] - values[:, 1], jnp.abs(lead[0] - lead[1]) / 2


def make_e_step(mixture: Mixture, options, mesh: Mesh,
                amortised: Posterior | None = None):
  """Compiles the E-step for a mesh of devices.

  Args:
    mixture: the model.
    options: the `e_step` section of the config.
    mesh: one-dimensional; images are spread over it.
    amortised: gives tau, which the draws then only score; None: the draws give it.

  Returns:
    A jitted function (estimator, params, batch of B images, key) ->
    (tau float32 [B, Q], `EStepInfo`), pure; B a multiple of the device count.
  """
  def e_step(estimator, params, batch, key):
    draws = evaluate_draws(
        mixture, estimator, params, batch, key, num_draws=options.num_draws,
        stratify=options.stratify, share_draws=options.share_draws,
        clusters_per_chunk=options.clusters_per_chunk,
        draws_per_chunk=options.draws_per_chunk)
    log_q = None
    if amortised is not None:
      keys = image_keys(jax.random.fold_in(key, 1), batch.indices)
      log_q = log_posterior(amortised, params.posterior, batch.images, keys)
    return summarise(estimator, params, batch.images, draws, log_q=log_q,
                     weighting=options.weighting, temperature=options.temperature)

  replicated, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
  return jax.jit(jax.shard_map(
      e_step, mesh=mesh, in_specs=(replicated, replicated, split, replicated),
      out_specs=split))

