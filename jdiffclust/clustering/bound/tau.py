"""What the draws say: tau by Monte Carlo, the bound, and how sure both are.

From the draws (t_gk, eps_gk) of `jdiffclust.clustering.bound.draws`, g = 1..G, k = 1..n,

  y_gk(i, q) = cost(i, q, t_gk, eps_gk) / (n p(t_gk)),
  l(i, q)    = log pi_q - KL_T(i, q) - D sum_t v_t - mean_g sum_k y_gk(i, q),
  tau_i      = softmax_q(l(i, q) / temperature).

The replicates give the standard error of a difference d of two clusters: draw k has the
same distribution in each of them, so that

  var(mean_g sum_k d_gk) = sum_k var_g(d_gk) / G

is estimated without bias, strata or not, with up to n (G - 1) degrees of freedom (an
antithetic pair counts as one draw). And they give an honest bound: tau from one is
scored by another (scoring a tau with the very draws that chose it would be too high by
the noise it has adapted to).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdiffclust.clustering.bound.draws import Draws, Estimator
from jdiffclust.clustering.bound.terms import NUM_BANDS, DrawTerms, Parameters, step_costs
from jdiffclust.diffusion import forward


@dataclasses.dataclass(frozen=True)
class Scoring:
  """How draws become tau.

  Attributes:
    weighting: 'elbo' or 'uniform': which sum over t decides tau.
    temperature: of tau.
    antithetic: draws are pairs of opposite noise; a pair counts as one draw.
  """

  weighting: str = 'elbo'
  temperature: float = 1.
  antithetic: bool = False


def scoring_of(options) -> Scoring:
  """The `Scoring` that the `e_step` section of a config asks for."""
  return Scoring(options.weighting, options.temperature, options.noise == 'antithetic')


class EStepInfo(NamedTuple):
  """Diagnostics per image, in nats, all [B] but `levels`.

  Attributes:
    bound: the variational bound on log p(x_0), exact weighting, in expectation.
    entropy: of tau.
    prior: its part -KL_T under tau.
    diffusion: its part from the levels t > 1.
    levels: that part by the bands of `terms.noise_bands`, [B, K].
    decoder: its part from t = 1.
    margin: log-joint of the image's cluster minus that of the best other one (inf if Q
      is 1); negative where tau is amortised and the draws prefer another cluster.
    margin_error: standard error of that margin.
    evaluations: of the network (of its second stage, if it has two).
  """

  bound: jax.Array
  entropy: jax.Array
  prior: jax.Array
  diffusion: jax.Array
  levels: jax.Array
  decoder: jax.Array
  margin: jax.Array
  margin_error: jax.Array
  evaluations: jax.Array


def posterior(log_joint, temperature: float = 1.):
  """tau and log tau, the softmax of log_joint / temperature over the last axis."""
  log_tau = jax.nn.log_softmax(log_joint / temperature, axis=-1)
  return jnp.exp(log_tau), log_tau


def scored_bound(chosen, exact, temperature: float = 1.) -> jax.Array:
  """The bound of each image, tau from one estimate, its score from another.

  Args:
    chosen: estimates of the log-joints that decide tau, -inf where it is 0, [B, Q].
    exact: independent, unbiased estimates of those of the exact weighting, [B, Q].
    temperature: of tau.

  Returns:
    [B]: sum_q tau_q (l_q - log tau_q).
  """
  tau, log_tau = posterior(chosen, temperature)
  return jnp.sum(jnp.where(tau > 0, tau * (exact - log_tau), 0), axis=-1)


def cross_bound(chosen, exact, temperature: float = 1.) -> jax.Array:
  """The mean of `scored_bound` over both ways to use two replicates.

  Args:
    chosen: two independent estimates of the log-joints that decide tau, [2, B, Q].
    exact: of the log-joints of the exact weighting, from the same draws, [2, B, Q].
    temperature: of tau.

  Returns:
    [B].
  """
  return jnp.mean(scored_bound(chosen, exact[::-1], temperature), axis=0)


def replicates_used(costs, counts) -> jax.Array:
  """Whether a replicate is among a cluster's first `counts`, [G, Q, B]."""
  return jnp.arange(costs.shape[0])[:, None, None] < counts[None]


def mean_costs(costs, counts) -> jax.Array:
  """The estimate of the drawn part of the log-joints, with the sign of a cost.

  Args:
    costs: y, [G, n, Q, B].
    counts: how many replicates to use, the first ones, of each cluster, [Q, B].

  Returns:
    [Q, B].
  """
  used = replicates_used(costs, counts)
  total = jnp.sum(jnp.where(used, costs.sum(axis=1), 0), axis=0)
  return total / counts.astype(total.dtype)


class Leads(NamedTuple):
  """How far the best cluster of an image leads the others, [Q, B].

  Attributes:
    best: that cluster, [B].
    lead: its log-joint minus each one's, over the draws that both have; 0 for itself.
    error: the standard error of `lead`.
    freedom: its degrees of freedom (Satterthwaite: strata differ in variance).
  """

  best: jax.Array
  lead: jax.Array
  error: jax.Array
  freedom: jax.Array


def leads(fixed, costs, counts, finalists) -> Leads:
  """How far the best cluster leads the others, and how sure that is.

  Args:
    fixed: the part of the log-joints that is not drawn, [Q, B].
    costs: y, [G, n, Q, B].
    counts: replicates that each cluster has got, all >= 2, [Q, B].
    finalists: the clusters with the most replicates, [Q, B]; the best is one of them.

  Returns:
    `Leads`.
  """
  joint = jnp.where(finalists, fixed - mean_costs(costs, counts), -jnp.inf)
  best = jnp.argmax(joint, axis=0)
  used = replicates_used(costs, counts)[:, None]
  excess = costs - jnp.take_along_axis(costs, best[None, None, None], axis=2)
  number = counts.astype(costs.dtype)
  mean = jnp.sum(jnp.where(used, excess, 0), axis=0) / number[None]
  squares = jnp.sum(jnp.where(used, (excess - mean[None])**2, 0), axis=0)
  total = jnp.sum(squares, axis=0)
  fourth = jnp.sum(squares**2, axis=0)
  freedom = (number - 1) * jnp.where(fourth > 0, total**2 / fourth, costs.shape[1])
  return Leads(
      best, jnp.take_along_axis(fixed, best[None], axis=0) - fixed + mean.sum(axis=0),
      jnp.sqrt(total / ((number - 1) * number)), freedom)


def margins(of: Leads, own):
  """How far an image's own cluster leads the best other one.

  Args:
    of: leads over the clusters of Q.
    own: the image's cluster, [B]: the best one by the draws, unless tau is not by them.

  Returns:
    The lead, negative if the draws prefer another cluster, and its standard error, [B].
  """
  num_clusters, size = of.lead.shape
  if num_clusters == 1:
    return jnp.full(size, jnp.inf), jnp.zeros(size)
  pick = lambda a, row: jnp.take_along_axis(a, row[None], axis=0)[0]
  is_best = jnp.arange(num_clusters)[:, None] == of.best[None]
  second = jnp.argmin(jnp.where(is_best, jnp.inf, of.lead), axis=0)
  leading = own == of.best
  return (jnp.where(leading, pick(of.lead, second), -pick(of.lead, own)),
          jnp.where(leading, pick(of.error, second), pick(of.error, own)))


def fixed_parts(estimator: Estimator, params: Parameters, images):
  """What of the log-joints is not drawn.

  Args:
    estimator: the estimator.
    params: Q clusters.
    images: [B, H, W, C].

  Returns:
    log pi_q - KL_T(i, q) - D sum_t v_t, and KL_T, both [Q, B].
  """
  prior = jax.vmap(
      lambda mu: forward.prior_kl(estimator.process, images,
                                  jnp.broadcast_to(mu, images.shape)))(params.means)
  constant = images[0].size * estimator.variance_kl
  return params.log_proportions[:, None] - prior - constant, prior


def cluster_costs(estimator: Estimator, terms: DrawTerms, t, weighting: str):
  """`step_costs` of a weighting, 'elbo' or 'uniform'."""
  weights = estimator.elbo_weights if weighting == 'elbo' else estimator.weights
  return step_costs(terms, t, weights, weighting)


def weighted_costs(estimator: Estimator, draws: Draws, weighting: str):
  """y of a weighting, [G, n, Q, B]."""
  return (cluster_costs(estimator, draws.terms, draws.t, weighting)
          / (draws.t.shape[1] * estimator.proposal[draws.t]))


def independent(costs, antithetic: bool):
  """The sums of what depends on each other: pairs if antithetic, [G, n / 2, Q, B]."""
  if not antithetic:
    return costs
  return costs.reshape(costs.shape[0], -1, 2, *costs.shape[2:]).sum(axis=2)


def summarise(estimator: Estimator, params: Parameters, images, draws: Draws,
              scoring: Scoring, counts=None, log_q=None):
  """From the draws to tau and its diagnostics.

  Args:
    estimator: the estimator that made the draws.
    params: the parameters they were made with.
    images: [B, H, W, C].
    draws: of G replicates.
    scoring: how they become tau.
    counts: replicates that each cluster has got before it lost its race, [Q, B]; its
      tau is 0 unless these are the most, and the choice of those clusters has not seen
      the last of theirs. None: all have got all G = 2.
    log_q: log of a tau that the draws did not choose, [B, Q], which they then score;
      None: tau is the posterior by the draws.

  Returns:
    tau [B, Q], and `EStepInfo`, whose bound is of the exact weighting always.
  """
  fixed, prior = fixed_parts(estimator, params, images)
  exact = weighted_costs(estimator, draws, 'elbo')
  chosen = (exact if scoring.weighting == 'elbo' else
            weighted_costs(estimator, draws, scoring.weighting))
  if counts is None:
    first, second = (jnp.swapaxes(fixed[None] - costs.sum(axis=1), 1, 2)
                     for costs in (chosen, exact))
    bound = cross_bound(first, second, scoring.temperature)
    counts = jnp.full(fixed.shape, 2)
    finalists = counts > 0
  else:
    last = counts.max(axis=0) - 1
    finalists = counts > last[None]
    before = fixed - mean_costs(chosen, counts - 1)
    final = jnp.take_along_axis(exact.sum(axis=1), last[None, None], axis=0)[0]
    bound = scored_bound(jnp.where(finalists, before, -jnp.inf).T, (fixed - final).T,
                         scoring.temperature)

  means = fixed - mean_costs(exact, counts)
  joint = jnp.where(finalists, fixed - mean_costs(chosen, counts), -jnp.inf)
  tau, log_tau = posterior(joint.T, scoring.temperature)
  if log_q is not None:
    tau, log_tau = jnp.exp(log_q), log_q
    bound = jnp.sum(tau * (means.T - log_tau), axis=-1)
  expected = lambda costs: jnp.sum(tau * mean_costs(costs, counts).T, axis=-1)
  of_band = lambda band: expected(jnp.where(estimator.bands[draws.t] == band, exact, 0))
  levels = (-jax.lax.map(of_band, jnp.arange(NUM_BANDS)).T
            - images[0].size * estimator.variance_kl_bands[None])
  lead = leads(fixed, independent(chosen, scoring.antithetic), counts, finalists)
  own = lead.best if log_q is None else jnp.argmax(log_q, axis=1)
  margin, margin_error = margins(lead, own)
  info = EStepInfo(
      bound=bound,
      entropy=-jnp.sum(jnp.where(tau > 0, tau * log_tau, 0), axis=-1),
      prior=-jnp.sum(tau * prior.T, axis=-1),
      diffusion=jnp.sum(levels, axis=-1), levels=levels,
      decoder=-expected(jnp.where(draws.t == 1, exact, 0)),
      margin=margin, margin_error=margin_error,
      evaluations=jnp.sum(counts, axis=0) * draws.t.shape[1])
  return tau, info
