"""The loss of a gradient step, from one draw (t, eps) of each image of a minibatch.

For image i it is, over the clusters q that `choose_clusters` takes with weights v,

  sum_q v_iq [norm2(n_t - eta_theta(x_t, t, mu_q)) + abar_T / 2 norm2(mu_q)] / D

with t uniform ('uniform' weighting); the same with the error of the network's F, and t
drawn by sigma_t ('residual', see `jdiffclust.diffusion.preconditioning`); or an unbiased
estimate of the negative bound per dimension ('elbo').
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import Estimator, draw_steps, image_keys
from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters, step_costs
from jdiffclust.diffusion import forward


def choose_clusters(assignment: str, tau, keys, step):
  """Which clusters an image is trained with, and with what weights v.

  Args:
    assignment: 'sampled': one cluster q ~ tau_i of weight 1; 'summed': all clusters,
      weighted by tau_i; 'per_cluster': the one cluster `step` mod Q for all images,
      weighted by tau_i (Algorithm 1's loop over q).
    tau: responsibilities, [B, Q].
    keys: typed keys, [B].
    step: the gradient step, [].

  Returns:
    clusters int32 [B, K] and weights float32 [B, K], with K = Q if summed, else 1.
  """
  size, num_clusters = tau.shape
  if assignment == 'summed':
    return jnp.broadcast_to(jnp.arange(num_clusters), tau.shape), tau
  if assignment == 'sampled':
    clusters = jax.vmap(jax.random.categorical)(keys, jnp.log(tau))[:, None]
    return clusters, jnp.ones((size, 1), tau.dtype)
  clusters = jnp.full((size, 1), step % num_clusters)
  return clusters, jnp.take_along_axis(tau, clusters, axis=1)


class Noise(NamedTuple):
  """One draw of each image of a minibatch, and the dropout's keys.

  Attributes:
    t: [B].
    eps: [B, H, W, C].
    cluster_keys: typed keys [B], by which a cluster is sampled.
    dropout_keys: typed keys [B].
  """

  t: jax.Array
  eps: jax.Array
  cluster_keys: jax.Array
  dropout_keys: jax.Array


def draw_noise(estimator: Estimator, batch: Batch, key) -> Noise:
  """The draws of a gradient step, each image's from its number."""
  keys = jax.vmap(lambda k: jax.random.split(k, 4))(image_keys(key, batch.numbers))
  t = jax.vmap(lambda k: draw_steps(k, estimator.proposal, 1, False)[0])(keys[:, 1])
  eps = jax.vmap(lambda k: jax.random.normal(k, batch.images.shape[1:]))(keys[:, 2])
  return Noise(t, eps, keys[:, 0], keys[:, 3])


def example_losses(model: ConditionalDDPM, estimator: Estimator, params: Parameters, x0,
                   shared, noise: Noise, tau, step, *, assignment: str,
                   weighting: str) -> jax.Array:
  """The loss of each image of a minibatch, from one draw (t, eps) of each.

  Args:
    model: the static part of the model.
    estimator: its weights are of `weighting`, its proposal is how t was drawn.
    params: the parameters to differentiate by.
    x0: images [B, H, W, C].
    shared: of `model.shared`, of the same images and noise.
    noise: of `draw_noise`.
    tau: their responsibilities, [B, Q].
    step: the gradient step, [].
    assignment: see `choose_clusters`.
    weighting: 'uniform', 'residual' or 'elbo'.

  Returns:
    [B], per dimension.
  """
  process, t = estimator.process, noise.t
  clusters, weights = choose_clusters(assignment, tau, noise.cluster_keys, step)
  dimension = x0[0].size

  def of_cluster(q):  # [B] -> [B]
    mu = params.means[q]
    terms = model.draw_terms(process, params.network, shared, x0, t, mu, noise.eps,
                               noise.dropout_keys)
    if weighting != 'elbo':
      pull = process.alphas_cumprod[-1] / 2 * jnp.sum(mu**2, axis=(1, 2, 3))
      return estimator.weights[t] / estimator.proposal[t] * terms.error + pull
    cost = step_costs(terms, t, estimator.weights, 'elbo') / estimator.proposal[t]
    return (cost + forward.prior_kl(process, x0, mu)
            + dimension * estimator.variance_kl)

  losses = jax.vmap(of_cluster, in_axes=1, out_axes=1)(clusters)
  return jnp.sum(weights * losses, axis=1) / dimension


def cluster_errors(model: ConditionalDDPM, process, params: Parameters, x0, shared,
                   noise: Noise) -> jax.Array:
  """norm2(n_t - eta_theta) / D of each image under each cluster, [B, Q], no dropout."""
  def of_cluster(mu):
    return model.draw_terms(process, params.network, shared, x0, noise.t, mu[None],
                              noise.eps).error
  return jax.lax.map(of_cluster, params.means).T / x0[0].size
