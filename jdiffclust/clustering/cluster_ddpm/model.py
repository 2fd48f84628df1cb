"""ClusterDDPM: a DDPM conditioned on latents, which a Gaussian mixture describes.

  p(x_0, z, c)   = pi_c N(z; mu_c, Sigma_c) p_theta(x_0 | z)                (9) to (15)
  q(z, c | x_0)  = N(z; m_phi, diag s_phi^2) w_c                             (17), (18)

An encoder gives m_phi and log s_phi^2, a U-Net that sees z the noise. One gradient step
descends, over both,

  E norm2(eps - eps_theta(x_t, t, z))
      + lambda [KL(w || pi) + sum_c w_c KL(q(z | x_0) || p(z | c))]          (24)

per dimension, with one draw (t, eps, z) of each image and w recomputed from it; before
the first E-step, which makes the mixture, its first term alone (anchor 0). With
'elbo' weighting and lambda = 1 that is the negative variational bound itself, which the
E-step reports. What (24) leaves out, and hides with the paper's lambda, is the weight of
the noise levels.

Beyond the paper, an image's start may have a share `anchor` in w, and in the prior of its
c in KL(w || p_i), which takes the place of pi:

  log w_ic = anchor log start_ic + (1 - anchor) log p(c | z) + constant,
  log p_ic = anchor log start_ic + (1 - anchor) log pi_c + constant.

The latents of a cluster gather, and the farther apart they are the surer is p(c | z): by
that alone, an image stays where it first fell. With anchor 1 only the start tells
training where z belongs, half to either cluster where it doubts, and the encoder, a
function of the image, decides at the E-step what it makes of it. Then there are clusters
before the first E-step, too, far apart (`latent_mixture.separated`), and w is p_i. tau is
the logarithmic pool of p(c | x_0) and the start, as in `amortised`. And z may be that of
a random view of the image that the denoiser restores, so that it tells what views share;
then the E-step's log p(c | x_0) is the mean over views.

A DDPM that sees z is `terms.ConditionalDDPM` with one cluster of mean zero: the same
draws and bound serve.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jdiffclust.clustering.bound.draws import (
    Estimator, drawing_of, evaluate_draws, image_keys, key_apart)
from jdiffclust.clustering.bound.losses import draw_noise, example_losses
from jdiffclust.clustering.bound.pooling import log_posterior, pooled
from jdiffclust.clustering.bound.tau import (
    EStepInfo, scoring_of, summarise)
from jdiffclust.clustering.bound import terms as bound_terms
from jdiffclust.clustering.bound.terms import ConditionalDDPM
from jdiffclust.clustering.cluster_ddpm import latent_mixture
from jdiffclust.clustering.cluster_ddpm.latent_mixture import LatentMixture
from jdiffclust.clustering.table import responsibilities_of
from jdiffclust.data.views import random_views
from jdiffclust.sharding import DATA_AXIS, SPLIT, WHOLE, over_rows
from jdiffclust.state import descend, make_optimizer, steps_until

class Parameters(NamedTuple):
  """What EM estimates.

  Attributes:
    encoder: phi, the encoder's variables.
    denoiser: theta, the U-Net's.
    mixture: pi, mu_c and Sigma_c.
  """

  encoder: Any
  denoiser: Any
  mixture: LatentMixture

  @property
  def log_proportions(self) -> jax.Array:
    """log pi, [Q]."""
    return self.mixture.log_proportions


@dataclasses.dataclass(frozen=True)
class Model:
  """The static part of the model.

  Attributes:
    encode: (encoder variables, images [B, H, W, C], dropout keys [B] or None) -> mean and
      log variance of z, [B, J].
    denoise: (U-Net variables, x_t [B, H, W, C], t [B], z [B, J], visible bool [B] or
      None: all, dropout keys [B] or None) -> eps [B, H, W, C].
    image_shape: (H, W, C).
    levels: grey levels of the discretized decoder; None: the Gaussian decoder.
    options: the `latent` section of the config.
    anchor: share of the start in the prior of c, in [0, 1].
    views: the `views` section of the config.
    pool: share of the start in tau, in [0, 1].
    num_views: over which the E-step averages; 0: the image itself.
  """

  encode: Callable[..., tuple[jax.Array, jax.Array]]
  denoise: Callable[..., jax.Array]
  image_shape: tuple[int, int, int]
  levels: int | None
  options: Any
  anchor: float
  views: Any = None
  pool: float = 0.
  num_views: int = 0

  def given(self, z, visible=None) -> ConditionalDDPM:
    """The DDPM of images with latents z [B, J]: a mixture of one cluster."""
    return ConditionalDDPM(
        lambda variables, x_t, t, mu, dropout_keys=None: self.denoise(
            variables, x_t, t, z, visible, dropout_keys), self.levels)

  def seeing(self, variables, x_t, t, z) -> jax.Array:
    """eps_theta(x_t, t, z), [B, H, W, C]."""
    return self.denoise(variables, x_t, t, z, None, None)

  def blind(self, variables, x_t, t, z) -> jax.Array:
    """eps_theta of a U-Net that does not see z, [B, H, W, C]."""
    return self.denoise(variables, x_t, t, z, jnp.zeros(len(z), bool), None)

  def one_cluster(self, params: Parameters) -> bound_terms.Parameters:
    """The parameters of `given`: one cluster, whose mean is zero."""
    return bound_terms.Parameters(params.denoiser, jnp.zeros((1, *self.image_shape)),
                              jnp.zeros(1))


def sampled_latents(mean, log_variance, keys) -> jax.Array:
  """z ~ q(z | x_0) of images [B, J], by their typed keys [B]."""
  eps = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
  return latent_mixture.reparametrise(mean, log_variance, eps)


def training_latents(model: Model, params: Parameters, x0, keys, dropout_keys=None):
  """q(z | x_0) and z of images as training sees them, which are views of them by option.

  Args:
    model: the model.
    params: the parameters.
    x0: images [B, H, W, C].
    keys: typed keys [B].
    dropout_keys: typed keys [B]; None: no dropout.

  Returns:
    Means, log variances and samples of z, [B, J].
  """
  z_keys, view_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, n) for n in (0, 2))
  seen = random_views(x0, view_keys, model.views) if model.options.views else x0
  mean, log_variance = model.encode(params.encoder, seen, dropout_keys)
  return mean, log_variance, sampled_latents(mean, log_variance, z_keys)


class Terms(NamedTuple):
  """The terms of (24) of each image, [B]; the latter two without lambda.

  Attributes:
    noise: the noise error, per dimension.
    categorical: KL(w || pi), nats.
    gaussian: sum_c w_c KL(q(z | x_0) || p(z | c)), nats.
  """

  noise: jax.Array
  categorical: jax.Array
  gaussian: jax.Array


def loss_terms(model: Model, estimator: Estimator, params: Parameters, batch, start, key,
               weighting: str, fitted=True) -> Terms:
  """The terms of (24), from one draw of each image.

  Args:
    model: the model.
    estimator: its weights are of `weighting`, its proposal is how t is drawn.
    params: the parameters to differentiate by; the mixture is a constant.
    batch: B images.
    start: their responsibilities by the start, [B, Q].
    key: a typed key, one for all images.
    weighting: of the noise levels, 'uniform' or 'elbo'.
    fitted: whether an E-step has made the mixture, bool []; else pi is p(c | z), too.
  """
  x0, noise = batch.images, draw_noise(estimator, batch, key)
  mean, log_variance, z = training_latents(model, params, x0, noise.cluster_keys,
                                           noise.dropout_keys)
  visible_keys = jax.vmap(jax.random.fold_in, (0, None))(noise.cluster_keys, 1)
  visible = (jax.vmap(jax.random.uniform)(visible_keys)
             >= model.options.context_dropout)
  errors = example_losses(
      model.given(z, visible), estimator, model.one_cluster(params), x0, None,
      noise, jnp.ones((len(x0), 1)), 0, assignment='summed', weighting=weighting)
  prior = jax.lax.stop_gradient(params.mixture)
  joint = (latent_mixture.log_joint(prior, z)
           if model.options.responsibilities == 'sampled' else
           latent_mixture.expected_log_joint(prior, mean, log_variance))
  own = jnp.where(fitted, joint, prior.log_proportions[None])
  log_w, log_p = (pooled(log_c, start, model.anchor)
                  for log_c in (own, prior.log_proportions[None]))
  w = jnp.exp(log_w)
  divergences = latent_mixture.gaussian_kl(prior, mean, log_variance)
  return Terms(errors, jnp.sum(w * (log_w - log_p), axis=1),
               jnp.sum(w * divergences, axis=1))


def make_m_step(model: Model, options, mesh: Mesh):
  """Compiles one gradient step for a mesh of devices.

  Args:
    model: the model.
    options: the `m_step` section of the config.
    mesh: one-dimensional; the minibatch is spread over it.

  Returns:
    A jitted function as that of `m_step.make_m_step`; the table is that of the start.
  """
  optimizer = make_optimizer(options)
  before_mixture = steps_until(options, 1)

  def mean_loss(params, estimator, batch, start, key, step):
    fitted = step >= before_mixture
    terms = loss_terms(model, estimator, params, batch, start, key, options.weighting,
                       fitted)
    matching = (terms.categorical + terms.gaussian) / batch.images[0].size
    # Without a start nor a mixture there is nothing that latents could match.
    weight = jnp.where(fitted | bool(model.anchor), model.options.weight, 0.)
    return jax.lax.pmean(jnp.mean(terms.noise + weight * matching), DATA_AXIS)

  loss_and_gradient = jax.shard_map(
      jax.value_and_grad(mean_loss), mesh=mesh,
      in_specs=(WHOLE, WHOLE, SPLIT, SPLIT, WHOLE, WHOLE), out_specs=WHOLE)

  def m_step(state, estimator, batch, table, key):
    loss, gradient = loss_and_gradient(
        state.params, estimator, batch, responsibilities_of(table, batch.indices),
        jax.random.fold_in(key, state.step), state.step)
    return descend(optimizer, state, loss, gradient, options.ema_decay)

  return jax.jit(m_step, donate_argnums=0)


class Reconstruction(NamedTuple):
  """What the draws say of images given their latents.

  Attributes:
    info: `EStepInfo` of one cluster; its bound is that on E_q(z) log p(x_0 | z).
    mean: of q(z | x_0), [B, J].
    log_variance: its log variance, [B, J].
    z: the latents that the draws have seen, [B, J].
  """

  info: EStepInfo
  mean: jax.Array
  log_variance: jax.Array
  z: jax.Array


def reconstruction(model: Model, options, estimator: Estimator, params: Parameters, batch,
                   key) -> Reconstruction:
  """Scores images given their latents, one z of each.

  Args:
    model: the model.
    options: the `e_step` section of the config: the draws.
    estimator: what they are drawn from.
    params: the parameters.
    batch: B images.
    key: a typed key.
  """
  mean, log_variance = model.encode(params.encoder, batch.images, None)
  keys = image_keys(key_apart(key, 1), batch.numbers)
  z = sampled_latents(mean, log_variance, keys)
  single = model.one_cluster(params)
  draws = evaluate_draws(model.given(z), estimator, single, batch, key,
                         dataclasses.replace(drawing_of(options), shared=True))
  _, info = summarise(estimator, single, batch.images, draws,
                      dataclasses.replace(scoring_of(options), temperature=1.))
  return Reconstruction(info, mean, log_variance, z)


def make_reconstruction(model: Model, options, mesh: Mesh):
  """Compiles `reconstruction`: (estimator, params, batch, key) -> `Reconstruction`."""
  return over_rows(lambda *args: reconstruction(model, options, *args), mesh,
                   (WHOLE, WHOLE, SPLIT, WHOLE))


def log_recognised(model: Model, temperature: float, params: Parameters, images, keys):
  """log tau [B, Q] of images without a start: the mean over views, normalised.

  Args:
    model: the model.
    temperature: of the E-step.
    params: the parameters.
    images: [B, H, W, C].
    keys: typed keys [B].
  """
  logits = lambda images: latent_mixture.expected_log_joint(
      params.mixture, *model.encode(params.encoder, images, None)) / temperature
  return log_posterior(logits, images, keys, model.views, model.num_views)


def log_encoded(mean, log_variance, z) -> jax.Array:
  """log q(z | x_0), nats, [B]; of m, log s^2 and z, [B, J]."""
  log_variance = latent_mixture.clamp(log_variance)
  square = (z - mean)**2 * jnp.exp(-log_variance)
  return -jnp.sum(square + log_variance + jnp.log(2 * jnp.pi), axis=1) / 2


def make_e_step(model: Model, options, mesh: Mesh):
  """Compiles the E-step, given the mixture, for a mesh of devices.

  Args:
    model: the model.
    options: the `e_step` section of the config: the draws that score the bound.
    mesh: one-dimensional; images are spread over it.

  Returns:
    A jitted function as that of `cddpm.e_step.make_e_step`. tau is the optimum of the
    bound, proportional to exp E_q(z) log p(z, c), or its normalised geometric mean over
    views; it is pooled with the start of the batch if there is one. A margin's error is
    the standard deviation, over z given the image, of the difference of the two
    log p(z, c). The bound is that of tau and of z given the image itself; its part
    `prior` has the divergences of z and c.
  """
  def e_step(estimator, params, batch, key):
    found = reconstruction(model, options, estimator, params, batch, key)
    posterior_of_z = params.mixture, found.mean, found.log_variance
    keys = image_keys(key_apart(key, 2), batch.numbers)
    log_tau = log_recognised(model, options.temperature, params, batch.images, keys)
    if batch.start is not None:
      log_tau = pooled(log_tau, batch.start, model.pool)
    tau = jnp.exp(log_tau)
    matching = latent_mixture.prior_matching(*posterior_of_z, tau)
    divergence = matching.categorical + matching.gaussian
    margins = latent_mixture.margins(*posterior_of_z)
    return tau, found.info._replace(
        bound=found.info.bound - divergence, prior=found.info.prior - divergence,
        entropy=-jnp.sum(jnp.where(tau > 0, tau * log_tau, 0), axis=1),
        margin=margins.lead, margin_error=margins.spread)

  return over_rows(e_step, mesh, (WHOLE, WHOLE, SPLIT, WHOLE))


def make_encode(model: Model, mesh: Mesh):
  """Compiles the latents: (params, images [B, H, W, C]) -> mean, log variance [B, J]."""
  return over_rows(lambda params, images: model.encode(params.encoder, images, None),
                   mesh, (WHOLE, SPLIT))


def make_training_latents(model: Model, mesh: Mesh):
  """Compiles `training_latents`' z: (params, images [B, H, W, C], keys [B]) -> [B, J]."""
  return over_rows(
      lambda params, images, keys: training_latents(model, params, images, keys)[2],
      mesh, (WHOLE, SPLIT, SPLIT))
