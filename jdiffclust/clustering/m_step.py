"""The M-step: gradient steps on the expected bound, and closed forms for pi and mu.

One gradient step (Algorithm 1 of the paper, for a minibatch instead of one image)
descends, over the network and, by option, the cluster means,

  mean_i sum_q v_iq [norm2(n_t - eta_theta(x_t, t, mu_q)) + abar_T / 2 norm2(mu_q)] / D

with t uniform ('uniform' weighting), or an unbiased estimate of the negative bound
per dimension ('elbo' weighting). The weights v come from tau by `choose_clusters`; tau
is a table of all images, or else that of an inference network, which takes its own
step on the objective of `jdiffclust.clustering.amortised` at the same time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from jdiffclust.batch import Batch
from jdiffclust.clustering import amortised
from jdiffclust.clustering.amortised import Posterior
from jdiffclust.clustering.e_step import Estimator, draw_steps, image_keys
from jdiffclust.clustering.mixture import Mixture, Parameters, step_costs
from jdiffclust.diffusion import forward
from jdiffclust.sharding import DATA_AXIS


# The step sizes of stepwise EM: a power in (1/2, 1] converges; the offset keeps the
# first minibatches, whose q is a young network's, from sweeping away the start.
FOLLOW_POWER, FOLLOW_OFFSET = .7, 100.


class TrainState(NamedTuple):
  """What the M-step carries along, across EM iterations too.

  Attributes:
    step: gradient steps taken, int32 [].
    params: the parameters.
    ema: their running average, which the E-step and the sampler use.
    optimizer: optax's state.
    error_scale: running mean square of the errors' differences between clusters, by
      which an amortised posterior measures them; 0 without one. float32 [].
    nonfinite_step: the first step whose loss was not finite; -1: none. int32 [].
  """

  step: jax.Array
  params: Parameters
  ema: Parameters
  optimizer: Any
  error_scale: jax.Array
  nonfinite_step: jax.Array


class SampleTable(NamedTuple):
  """Responsibilities of some images.

  Attributes:
    images: their indices, rising, int32 [n].
    values: [n, Q].
  """

  images: jax.Array
  values: jax.Array


def look_up(table, indices) -> jax.Array:
  """Responsibilities [B, Q] of images; 1 / Q where a `SampleTable` has not got them.

  Args:
    table: of all images [N, Q], or a `SampleTable`.
    indices: int32 [B].
  """
  if not isinstance(table, SampleTable):
    return table[indices]
  rows = jnp.searchsorted(table.images, indices)
  rows = jnp.minimum(rows, len(table.images) - 1)
  known = (table.images[rows] == indices)[:, None]
  return jnp.where(known, table.values[rows], 1 / table.values.shape[1])


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


class MStepInfo(NamedTuple):
  """Diagnostics of one gradient step, float32 [].

  Attributes:
    loss: the minibatch's loss, per dimension.
    gradient_norm: before clipping.
  """

  loss: jax.Array
  gradient_norm: jax.Array


def make_optimizer(options) -> optax.GradientTransformation:
  """Adam with a linear warm-up and clipped gradients, by the `m_step` options."""
  rate = optax.linear_schedule(
      options.learning_rate / (options.learning_rate_warmup + 1),
      options.learning_rate, options.learning_rate_warmup)
  clip = (optax.clip_by_global_norm(options.gradient_clip)
          if options.gradient_clip else optax.identity())
  return optax.chain(clip, optax.adam(rate))


def init_state(params: Parameters, optimizer) -> TrainState:
  """The state before the first gradient step."""
  return TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      ema=jax.tree.map(jnp.copy, params), optimizer=optimizer.init(params),
      error_scale=jnp.zeros(()), nonfinite_step=jnp.full((), -1, jnp.int32))


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
  """The draws of a gradient step, each image's from its index."""
  keys = jax.vmap(lambda k: jax.random.split(k, 4))(image_keys(key, batch.indices))
  t = jax.vmap(lambda k: draw_steps(k, estimator.proposal, 1, False)[0])(keys[:, 1])
  eps = jax.vmap(lambda k: jax.random.normal(k, batch.images.shape[1:]))(keys[:, 2])
  return Noise(t, eps, keys[:, 0], keys[:, 3])


def example_losses(mixture: Mixture, estimator: Estimator, params: Parameters, x0,
                   features, noise: Noise, tau, step, *, assignment: str,
                   weighting: str) -> jax.Array:
  """The loss of each image of a minibatch, from one draw (t, eps) of each.

  Args:
    mixture: the model.
    estimator: its weights are of `weighting`, its proposal is how t was drawn.
    params: the parameters to differentiate by.
    x0: images [B, H, W, C].
    features: of `mixture.features`, of the same images and noise.
    noise: of `draw_noise`.
    tau: their responsibilities, [B, Q].
    step: the gradient step, [].
    assignment: see `choose_clusters`.
    weighting: 'uniform' or 'elbo'.

  Returns:
    [B], per dimension.
  """
  process, t = estimator.process, noise.t
  clusters, weights = choose_clusters(assignment, tau, noise.cluster_keys, step)
  dimension = x0[0].size

  def of_cluster(q):  # [B] -> [B]
    mu = params.means[q]
    terms = mixture.draw_terms(process, params.network, features, x0, t, mu, noise.eps,
                               noise.dropout_keys)
    if weighting == 'uniform':
      pull = process.alphas_cumprod[-1] / 2 * jnp.sum(mu**2, axis=(1, 2, 3))
      return terms.error + pull
    cost = step_costs(terms, t, estimator.weights, 'elbo') / estimator.proposal[t]
    return (cost + forward.prior_kl(process, x0, mu)
            + dimension * estimator.variance_kl)

  losses = jax.vmap(of_cluster, in_axes=1, out_axes=1)(clusters)
  return jnp.sum(weights * losses, axis=1) / dimension


def cluster_errors(mixture: Mixture, process, params: Parameters, x0, features,
                   noise: Noise) -> jax.Array:
  """norm2(n_t - eta_theta) / D of each image under each cluster, [B, Q], no dropout."""
  def of_cluster(mu):
    return mixture.draw_terms(process, params.network, features, x0, noise.t, mu[None],
                              noise.eps).error
  return jax.lax.map(of_cluster, params.means).T / x0[0].size


def posterior_losses(posterior: Posterior, mixture: Mixture, process,
                     params: Parameters, x0, features, noise: Noise, start, log_q,
                     mean_square, step):
  """The inference network's objective; theta is a constant to it.

  Args:
    posterior: its options.
    mixture: the model.
    process: the diffusion, float32.
    params: the parameters.
    x0: images [B, H, W, C], the second views.
    features: of `mixture.features`, of the same images and noise.
    noise: of `draw_noise`.
    start: responsibilities of the start, [B, Q].
    log_q: log q_phi of the first views, [B, Q].
    mean_square: running mean square of the errors' differences so far; 0: none yet.
    step: the gradient step, [].

  Returns:
    [B], and the new mean square.
  """
  options = posterior.options
  fixed = jax.lax.stop_gradient((params, features))
  errors = jax.lax.stop_gradient(
      cluster_errors(mixture, process, fixed[0], x0, fixed[1], noise))
  place = noise.t.astype(jnp.float32) / process.alphas_cumprod[1:].size
  counted = (options.noise_low <= place) & (place <= options.noise_high)
  differences = amortised.centred(errors, counted)
  mean = lambda a: jax.lax.pmean(jnp.mean(a, axis=0), DATA_AXIS)
  now = mean(jnp.mean(differences**2, axis=1)) / jnp.maximum(
      mean(counted.astype(jnp.float32)), 1e-6)
  decay = jnp.where(mean_square > 0, amortised.SCALE_DECAY, 0.)
  mean_square = decay * mean_square + (1 - decay) * now
  rise = jnp.minimum(1., (1. + jnp.float32(step)) / max(1, options.warmup))
  prior = amortised.log_prior(start, fixed[0].log_proportions, options.anchor)
  return amortised.objective(
      log_q, rise * differences / jnp.sqrt(jnp.maximum(mean_square, 1e-12)), prior,
      mean(jnp.exp(log_q)), options), mean_square


def make_m_step(mixture: Mixture, options, mesh: Mesh,
                posterior: Posterior | None = None, stepwise: bool = False):
  """Compiles one gradient step for a mesh of devices.

  Args:
    mixture: the model.
    options: the `m_step` section of the config.
    mesh: one-dimensional; the minibatch is spread over it.
    posterior: the amortised posterior; None: tau is a table.
    stepwise: pi and mu follow the amortised posterior from step to step.

  Returns:
    A jitted function (state, estimator, batch of B images, table (see `look_up`), key)
    -> (state, `MStepInfo`), pure but for the donation of `state`'s buffers; B a multiple
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
      keys = image_keys(jax.random.fold_in(key, 1), batch.indices)
      first, second = (jax.vmap(jax.random.fold_in, (0, None))(keys, n) for n in (0, 1))
      log_q = jax.nn.log_softmax(posterior.infer(
          params.posterior, amortised.random_views(x0, first, posterior.views)))
      if posterior.options.transform_denoised:
        x0 = amortised.random_views(x0, second, posterior.views)
      start, tau = tau, jax.lax.stop_gradient(jnp.exp(log_q))
    noise = draw_noise(estimator, batch, key)
    features = mixture.features(process, params.network, x0, noise.t, noise.eps,
                                noise.dropout_keys)
    losses = example_losses(mixture, estimator, params, x0, features, noise, tau, step,
                            assignment=options.assignment, weighting=options.weighting)
    # The mean over all devices *before* differentiating: shard_map then sums the
    # gradients by itself, and a second mean would shrink them.
    mean = lambda a: jax.lax.pmean(jnp.mean(a, axis=0), DATA_AXIS)
    total, sums = losses, None
    if stepwise:
      sums = Sums(mean(tau), mean(tau[:, :, None, None, None] * batch.images[:, None]))
    if posterior is not None:
      further, mean_square = posterior_losses(
          posterior, mixture, process, params, x0, features, noise, start, log_q,
          mean_square, step)
      total = losses + further
    return mean(total), (mean(losses), mean_square, sums)

  whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
  loss_and_gradient = jax.shard_map(
      jax.value_and_grad(mean_loss, has_aux=True), mesh=mesh,
      in_specs=(whole, whole, split, split, whole, whole, whole),
      out_specs=((whole, (whole, whole, whole)), whole))

  def m_step(state, estimator, batch, table, key):
    tau = look_up(table, batch.indices)
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


def descend(optimizer, state: TrainState, loss, gradient, decay: float):
  """One step of the optimiser and of the running average.

  Args:
    optimizer: optax's.
    state: the state before.
    loss: of the minibatch, [].
    gradient: of the parameters.
    decay: see `average`.

  Returns:
    The new state and `MStepInfo`.
  """
  updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
  params = optax.apply_updates(state.params, updates)
  first_bad = (state.nonfinite_step < 0) & ~jnp.isfinite(loss)
  state = state._replace(
      step=state.step + 1, params=params, optimizer=optimizer_state,
      ema=average(state.ema, params, state.step, decay),
      nonfinite_step=jnp.where(first_bad, state.step, state.nonfinite_step))
  return state, MStepInfo(loss, optax.global_norm(gradient))


def average(ema: Parameters, params: Parameters, step, decay: float) -> Parameters:
  """The running average of the weights, of a decay that starts low.

  Args:
    ema: the average so far.
    params: the new parameters.
    step: gradient steps taken before, [].
    decay: the largest decay; at first it is (1 + step) / (10 + step).

  Returns:
    decay * ema + (1 - decay) * params.
  """
  step = step.astype(jnp.float32)
  rate = jnp.minimum(decay, (1. + step) / (10. + step))
  return jax.tree.map(lambda old, new: rate * old + (1 - rate) * new, ema, params)


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
