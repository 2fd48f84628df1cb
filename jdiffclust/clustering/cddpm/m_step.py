"""The M-step of CDDPM: gradient steps on the expected bound, closed forms for pi and mu.

One gradient step (Algorithm 1 of the paper, for a minibatch instead of one image)
descends the loss of `jdiffclust.clustering.bound.losses` over the network and, by option,
the cluster means. Its weights come from tau: a table of all images, or else that of an
inference network, which takes its own step on the objective of
`jdiffclust.clustering.cddpm.amortised` at the same time.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jdiffclust.clustering.bound.draws import image_keys, key_apart
from jdiffclust.clustering.bound.losses import (
    Noise, cluster_errors, draw_noise, example_losses)
from jdiffclust.clustering.bound.pooling import pooled
from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters
from jdiffclust.clustering.cddpm.amortised import (
    Posterior, SCALE_DECAY, centred, log_prior, objective)
from jdiffclust.clustering.table import responsibilities_of
from jdiffclust.data.views import random_views
from jdiffclust.sharding import DATA_AXIS, SPLIT, WHOLE
from jdiffclust.state import TrainState, descend, make_optimizer


# The step sizes of stepwise EM: a power in (1/2, 1] converges; the offset keeps the
# first minibatches, whose q is a young network's, from sweeping away the start.
FOLLOW_POWER, FOLLOW_OFFSET = .7, 100.


class Sums(NamedTuple):
  """What a minibatch says of pi and mu: means over its images.

  Attributes:
    size: of q, [Q].
    image: of q x_0, [Q, H, W, C].
  """

  size: jax.Array
  image: jax.Array


def follow(params: Parameters, sums: Sums, step, learn_means: bool) -> Parameters:
  """Stepwise EM: pi and mu after one more minibatch (Cappe and Moulines, 2009).

  The statistics S = (pi, pi mu) move by S <- S + rho_k (S of the minibatch - S), with
  rho_k = (k + FOLLOW_OFFSET)^-FOLLOW_POWER.

  Args:
    params: the parameters.
    sums: of the minibatch.
    step: k = 0, 1, ..., [].
    learn_means: mu is left to the gradient.

  Returns:
    The new parameters.
  """
  rho = (step.astype(jnp.float32) + FOLLOW_OFFSET)**-FOLLOW_POWER
  tiny = jnp.finfo(jnp.float32).tiny
  pi = jnp.exp(params.log_proportions)
  new = jnp.maximum((1 - rho) * pi + rho * sums.size, tiny)
  params = params._replace(log_proportions=jnp.log(new))
  if learn_means:
    return params
  wide = lambda a: a[:, None, None, None]
  images = (1 - rho) * wide(pi) * params.means + rho * sums.image
  return params._replace(means=images / wide(new))


def posterior_losses(posterior: Posterior, model: ConditionalDDPM, process,
                     params: Parameters, x0, shared, noise: Noise, start, log_q,
                     mean_square, step):
  """The inference network's objective; theta is a constant to it.

  Args:
    posterior: its options.
    model: the static part of the model.
    process: the diffusion, float32.
    params: the parameters.
    x0: images [B, H, W, C], the second views.
    shared: of `model.shared`, of the same images and noise.
    noise: of `draw_noise`.
    start: responsibilities of the start, [B, Q].
    log_q: log q_phi of the first views, [B, Q].
    mean_square: running mean square of the errors' differences so far; 0: none yet.
    step: the gradient step, [].

  Returns:
    [B], and the new mean square.
  """
  options = posterior.options
  fixed = jax.lax.stop_gradient((params, shared))
  errors = cluster_errors(model, process, fixed[0], x0, fixed[1], noise)
  place = noise.t.astype(jnp.float32) / process.alphas_cumprod[1:].size
  low, high = options.noise_range
  counted = (low <= place) & (place <= high)
  differences = centred(errors, counted)
  mean = lambda a: jax.lax.pmean(jnp.mean(a, axis=0), DATA_AXIS)
  now = mean(jnp.mean(differences**2, axis=1)) / jnp.maximum(
      mean(counted.astype(jnp.float32)), 1e-6)
  decay = jnp.where(mean_square > 0, SCALE_DECAY, 0.)
  mean_square = decay * mean_square + (1 - decay) * now
  rise = jnp.minimum(1., (1. + jnp.float32(step)) / max(1, options.warmup))
  prior = log_prior(start, fixed[0].log_proportions, options.anchor)
  return objective(
      log_q, rise * differences / jnp.sqrt(jnp.maximum(mean_square, 1e-12)), prior,
      mean(jnp.exp(log_q)), options), mean_square


def conditions_of(log_q, start, weight: float) -> jax.Array:
  """The clusters by which the denoiser learns, as responsibilities [B, Q].

  Of images with a start, the likeliest cluster alone. The start's shares are those of its
  cuts, and more modest than it is right: clusters drawn by them would teach the denoiser
  that mu may be another cluster's.

  Args:
    log_q: log q_phi, [B, Q].
    start: responsibilities of the start, [B, Q].
    weight: of the start in the posterior, see `bound.pooling`; 0: it knows nothing, and
      clusters follow q_phi.
  """
  tau = jax.lax.stop_gradient(jnp.exp(pooled(log_q, start, weight)))
  if not weight:
    return tau
  return jax.nn.one_hot(jnp.argmax(tau, axis=1), tau.shape[1])


def make_m_step(model: ConditionalDDPM, options, mesh: Mesh,
                posterior: Posterior | None = None, stepwise: bool = False):
  """Compiles one gradient step for a mesh of devices.

  Args:
    model: the static part of the model.
    options: the `m_step` section of the config.
    mesh: one-dimensional; the minibatch is spread over it.
    posterior: the amortised posterior; None: tau is a table.
    stepwise: pi and mu follow the amortised posterior from step to step.

  Returns:
    A jitted function (state, estimator, batch of B images, table, key) -> (state,
    `MStepInfo`), pure but for the donation of `state`'s buffers; B a multiple
    of the device count. The table has the responsibilities; with an amortised
    posterior, those of the start. The key is the stream's; the step's own is folded in.
  """
  optimizer = make_optimizer(options)
  learn_means = options.means == 'gradient'

  def mean_loss(params, estimator, batch, tau, key, mean_square, step):
    if not learn_means:
      params = params._replace(means=jax.lax.stop_gradient(params.means))
    process, x0 = estimator.process, batch.images
    if posterior is not None:
      keys = image_keys(key_apart(key, 1), batch.numbers)
      keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
      log_q = jax.nn.log_softmax(posterior.infer(
          params.posterior, random_views(x0, keys, posterior.views)))
      # The denoiser learns what the E-step says: an inference network that has not
      # learned yet, or whose view misleads it, would teach it to ignore mu.
      start, q = tau, jax.lax.stop_gradient(jnp.exp(log_q))
      tau = conditions_of(log_q, start, posterior.options.pool * posterior.options.anchor)
    noise = draw_noise(estimator, batch, key)
    shared = model.shared(process, params.network, x0, noise.t, noise.eps,
                          noise.dropout_keys)
    losses = example_losses(model, estimator, params, x0, shared, noise, tau, step,
                            assignment=options.assignment, weighting=options.weighting)
    # The mean over all devices *before* differentiating: shard_map then sums the
    # gradients by itself, and a second mean would shrink them.
    mean = lambda a: jax.lax.pmean(jnp.mean(a, axis=0), DATA_AXIS)
    total, sums = mean(losses), None
    if stepwise:
      sums = Sums(mean(q), mean(q[:, :, None, None, None] * batch.images[:, None]))
    if posterior is not None:
      # The errors of all clusters are dear. Every k-th row of a device's share is every
      # k-th of the minibatch, if k divides the share.
      every = posterior.options.every
      if len(x0) % every == 0:
        x0, shared, noise, start, log_q = jax.tree.map(
            lambda a: a[::every], (x0, shared, noise, start, log_q))
      further, mean_square = posterior_losses(
          posterior, model, process, params, x0, shared, noise, start, log_q,
          mean_square, step)
      total += mean(further)
    return total, (mean(losses), mean_square, sums)

  loss_and_gradient = jax.shard_map(
      jax.value_and_grad(mean_loss, has_aux=True), mesh=mesh,
      in_specs=(WHOLE, WHOLE, SPLIT, SPLIT, WHOLE, WHOLE, WHOLE), out_specs=WHOLE)

  def m_step(state, estimator, batch, table, key):
    tau = responsibilities_of(table, batch.indices)
    (_, (loss, error_scale, sums)), gradient = loss_and_gradient(
        state.params, estimator, batch, tau, jax.random.fold_in(key, state.step),
        state.error_scale, state.step)
    state, info = descend(optimizer, state, loss, gradient, options.ema_decay)
    state = state._replace(error_scale=error_scale)
    if stepwise:
      params, ema = (follow(p, sums, state.step - 1, learn_means)
                     for p in (state.params, state.ema))
      state = state._replace(params=params, ema=ema)
    return state, info

  return jax.jit(m_step, donate_argnums=0)


def set_mixture(state: TrainState, log_proportions=None, means=None) -> TrainState:
  """Puts closed-form updates into the parameters and their average.

  Args:
    state: the state.
    log_proportions: log(N_q / N), [Q]; None: as they are.
    means: responsibility-weighted means, [Q, H, W, C]; None: as they are.

  Returns:
    The new state; the average gets buffers of its own, since states are donated.
  """
  new = {}
  if log_proportions is not None:
    new['log_proportions'] = log_proportions
  if means is not None:
    new['means'] = means
  return state._replace(params=state.params._replace(**new),
                        ema=state.ema._replace(**jax.tree.map(jnp.copy, new)))
