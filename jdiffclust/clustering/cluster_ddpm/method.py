"""The method 'cluster_ddpm': a DDPM conditioned on latents of a Gaussian mixture."""

from __future__ import annotations

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdiffclust.clustering.bound.draws import image_keys
from jdiffclust.clustering.cluster_ddpm import latent_fit, latent_mixture
from jdiffclust.clustering.cluster_ddpm.model import (
    Model, Parameters, log_encoded, log_recognised, make_e_step, make_encode,
    make_m_step, sampled_latents)
from jdiffclust.clustering.method import Method, Networks, Proposal, latents_of
from jdiffclust.diffusion import predictions
from jdiffclust.diffusion.denoiser import Unpulled
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.evaluation.features import in_batches
from jdiffclust.registry import LATE_STARTS
from jdiffclust.sharding import replicate, to_host
from jdiffclust.state import init_state, make_optimizer
from jdiffclust.streams import integer_seed, sample_keys, stream


class ClusterDDPM(Method):
  """Of `model.Parameters`; images of a cluster are generated from z ~ p(z | c)."""

  has_latents = True

  def __init__(self, config, image_shape, levels: int | None, mesh: Mesh,
               networks: Networks = Networks()):
    """As `method.build`; of the diffusion the pull is none, whatever the config says."""
    diffusion = copy.deepcopy(config.diffusion)
    diffusion.pull = 'zero'
    self.e_options = draws_of(config)
    super().__init__(config, image_shape, levels, mesh, process_from_config(diffusion),
                     self.e_options)
    posterior = config.posterior
    self.encoder, self.unet = networks.latent(config)
    self.model = Model(self.encoder.apply, self.unet.apply, self.image_shape, self.levels,
                       config.latent, posterior.anchor, config.views,
                       posterior.pool * posterior.anchor,
                       posterior.num_views if config.latent.views else 0)
    self.centring = Unpulled(self.image_shape)
    self.gradient_step = make_m_step(self.model, self.m_options, mesh)
    self._e_step = make_e_step(self.model, self.e_options, mesh)
    self._encode = make_encode(self.model, mesh)
    self._mean = jax.jit(lambda encoder, images: self.model.encode(
        encoder, images, None)[0])

  def new_state(self):
    """Random weights; every cluster is N(0, I), or apart where there is a start."""
    config, seed = self.config, self.config.seed
    x, size = jnp.zeros((1, *self.image_shape)), config.latent.size
    sizes = config.num_clusters, size, config.latent.covariance
    params = Parameters(
        encoder=self.encoder.init(stream(seed, 'encoder'), x),
        denoiser=self.unet.init(stream(seed, 'network'), x, jnp.ones((1,), jnp.int32),
                                jnp.zeros((1, size))),
        mixture=(latent_mixture.separated(*sizes, stream(seed, 'mixture'))
                 if config.posterior.anchor else latent_mixture.standard_normal(*sizes)))
    return init_state(params, make_optimizer(config.m_step))

  def m_step(self, state, batch, table, key):
    """See `model.make_m_step`."""
    return self.gradient_step(state, self.m_estimator, batch, table, key)

  def e_step(self, estimator, params, batch, key):
    """See `model.make_e_step`."""
    return self._e_step(estimator, params, batch, key)

  def before_e_step(self, state, pipeline, indices, tau, iteration, reporter):
    """The E-step's mixture: pi, mu_c and Sigma_c of one sampled z of every image.

    It goes on from tau of the E-step before, which no drift of the latents confuses; at
    first from the start, or from K-means of the latents. The latents are those of the
    averaged encoder.
    """
    config, mesh = self.config, self.mesh
    mean, log_variance = latents_of(self, state.ema, pipeline, reporter, indices)
    key = jax.random.fold_in(stream(config.seed, 'latents'), iteration)
    z = np.asarray(jax.jit(sampled_latents)(
        mean, log_variance, image_keys(key, np.asarray(indices, np.int32))))
    first = iteration == 1 and config.start.kind in LATE_STARTS
    start = config.num_clusters if first else to_host(tau)
    with reporter.task('mixture of the latents', 1, 'fits') as task:
      mixture, found = latent_fit.fit(
          z, start, config.latent, mesh, integer_seed(config.seed, 'mixture'),
          config.start.restarts)
      task.advance(1)
    state = state._replace(  # twice: a state's buffers are donated
        params=state.params._replace(mixture=replicate(mixture, mesh)),
        ema=state.ema._replace(mixture=replicate(mixture, mesh)))
    collapse, matching = jax.jit(latent_terms)(mixture, mean, log_variance)
    return state, {
        'latent_log_likelihood': float(found.log_likelihood),
        'latent_fit_iterations': int(found.iterations),
        'latent_fit_converged': bool(found.converged),
        'latent_categorical_kl': float(jnp.mean(matching.categorical)),
        'latent_gaussian_kl': float(jnp.mean(matching.gaussian)),
        'latent_active_dimensions': int(jnp.sum(collapse.active)),
        'latent_divergence': float(jnp.sum(collapse.divergence)),
        'latent_deviation': float(np.exp(np.mean(log_variance) / 2))}

  def conditions(self, params, cluster, count, seed):
    """Latents z ~ p(z | c) of a cluster, [count, J]."""
    keys = sample_keys(stream(seed, 'condition'), [cluster], count)[0]
    return to_host(jax.jit(latent_mixture.draw_latents)(
        to_host(params.mixture), np.full(count, cluster, np.int32), keys))

  def denoiser(self, params):
    """Of conditions z, [B, J]."""
    return predictions.denoiser(self.path, params.denoiser, self.model.seeing, 'eta',
                                self.centring)

  def reference(self, params):
    """The same, without a sight of z."""
    return predictions.denoiser(self.path, params.denoiser, self.model.blind, 'eta',
                                self.centring)

  def recognise(self, params, images, keys):
    """By the encoder and the mixture of its latents."""
    return jnp.exp(log_recognised(self.model, self.e_options.temperature, params, images,
                                  keys))

  def propose(self, params, images, keys, num, prior_share):
    """Latents of an image's draws; the prior is the mixture of latents."""
    draws, number = images.shape[:2]
    rows = images.reshape(-1, *images.shape[2:])
    mean, log_variance = self.model.encode(params.encoder, rows, None)

    def own(key):  # of one image: its N keys, whether they are of the prior, clusters
      keys = jax.random.split(key, num)
      which = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1)))(keys)
      cluster = jax.vmap(lambda k: jax.random.categorical(
          jax.random.fold_in(k, 2), params.log_proportions))(keys)
      return keys, which < prior_share, cluster

    z_keys, free, clusters = (a.reshape(-1) for a in jax.vmap(own, out_axes=1)(keys[0]))
    # Draws in their order, not in turn: systematic resampling then takes of each.
    draw = np.arange(num) * draws // num
    row = (draw[:, None] * number + np.arange(number)).reshape(-1)
    z = jnp.where(
        free[:, None], latent_mixture.draw_latents(params.mixture, clusters, z_keys),
        sampled_latents(mean[row], log_variance[row], z_keys))
    log_p = jax.nn.logsumexp(latent_mixture.log_joint(params.mixture, z), axis=1)
    # log q(z | draw k of the same image), of all z
    of_draw = lambda encoded: log_encoded(  # type: ignore[call-arg]
        *(jnp.tile(part, (num, 1)) for part in encoded), z)
    encoded = [part.reshape(draws, number, -1) for part in (mean, log_variance)]
    log_q = jax.nn.logsumexp(jax.lax.map(of_draw, encoded), axis=0) - np.log(draws)
    log_g = log_q if not prior_share else jnp.logaddexp(
        log_q + np.log1p(-prior_share), log_p + np.log(prior_share))
    return Proposal(z.reshape(num, number, -1), (log_p - log_g).reshape(num, number))

  def feature_maps(self, params):
    """The means of the latents."""
    return {'latents': in_batches(functools.partial(self._mean, params.encoder))}

  def encode(self, params, images):
    """See `model.make_encode`."""
    return self._encode(params, images)


def draws_of(config):
  """The `e_step` section: draws only score here, and clusters share all of them."""
  options = copy.deepcopy(config.e_step)
  if options.proposal in ('auto', 'spread'):
    options.proposal = 'weight'
  return options


def latent_terms(mixture, mean, log_variance):
  """What the latents [n, J] of images tell, and what they cost."""
  w = latent_mixture.expected_responsibilities(mixture, mean, log_variance)
  return (latent_mixture.collapse(mixture, mean, log_variance),
          latent_mixture.prior_matching(mixture, mean, log_variance, w))
