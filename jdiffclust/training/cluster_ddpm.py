"""The method 'cluster_ddpm': a DDPM conditioned on latents of a Gaussian mixture."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from jdiffclust.clustering import latent_fit, latent_mixture
from jdiffclust.clustering.cluster_ddpm import (
    Model, Parameters, make_draw, make_e_step, make_encode, make_m_step, sampled_latents)
from jdiffclust.clustering.e_step import image_keys
from jdiffclust.clustering.m_step import TrainState, init_state, make_optimizer
from jdiffclust.config import LATENTS
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.evaluation.features import in_batches
from jdiffclust.networks.conditional import clusterddpm_networks
from jdiffclust.sharding import replicate, to_host
from jdiffclust.streams import integer_seed, stream
from jdiffclust.training.machinery import Machinery, decoder_levels, estimators
from jdiffclust.training.passes import latents_of
from jdiffclust.training.sampling import image_draws


def build(config, image_shape, levels: int | None, mesh: Mesh) -> Machinery:
  """Prepares (without compiling yet) everything that a config asks for.

  Args:
    config: a checked config. Of the diffusion the pull is none, whatever it says.
    image_shape: (H, W, C), divisible as the U-Net's levels need.
    levels: grey levels of the images, or None.
    mesh: the devices.

  Returns:
    The `Machinery`, of `cluster_ddpm.Parameters` and a `cluster_ddpm.Model`.

  Raises:
    UserError: an invalid schedule, or a discretized decoder without levels.
  """
  diffusion = ml_collections.ConfigDict(config.diffusion)
  diffusion.pull = 'zero'
  process = process_from_config(diffusion)
  encoder, denoiser = clusterddpm_networks(config)
  model = Model(encoder.apply, denoiser.apply, tuple(image_shape),
                decoder_levels(config, levels), config.latent, config.posterior.anchor,
                config.views, config.posterior.pool * config.posterior.anchor,
                config.posterior.num_views if config.latent.views else 0)
  e_options = draws_of(config)
  e_estimator, m_estimator = estimators(process, e_options, config.m_step, mesh)

  def new_state():
    """Random weights; every cluster is N(0, I), or apart where there is a start."""
    x, size = jnp.zeros((1, *image_shape)), config.latent.size
    sizes = config.num_clusters, size, config.latent.covariance
    params = Parameters(
        encoder=encoder.init(stream(config.seed, 'encoder'), x),
        denoiser=denoiser.init(stream(config.seed, 'network'), x,
                               jnp.ones((1,), jnp.int32), jnp.zeros((1, size))),
        mixture=(latent_mixture.separated(*sizes, stream(config.seed, 'mixture'))
                 if config.posterior.anchor else latent_mixture.standard_normal(*sizes)))
    return init_state(params, make_optimizer(config.m_step))

  return Machinery(
      config=config, image_shape=tuple(image_shape), mesh=mesh, model=model,
      levels=model.levels, process=process, e_estimator=e_estimator,
      m_estimator=m_estimator, new_state=new_state,
      m_step=make_m_step(model, config.m_step, mesh),
      e_step=make_e_step(model, e_options, mesh), pilot=None, before_m_step=None,
      before_e_step=fit_mixture, conditions=conditions, draw=make_draw(model, mesh),
      encode=make_encode(model, mesh),
      features=lambda params: {'latents': in_batches(
          lambda images: model.encode(params.encoder, images, None)[0])})


def draws_of(config):
  """The `e_step` section: draws only score here, and clusters share all of them."""
  options = ml_collections.ConfigDict(config.e_step)
  if options.proposal in ('auto', 'spread'):
    options.proposal = 'weight'
  return options


def fit_mixture(machinery: Machinery, state: TrainState, pipeline, indices, tau,
                iteration: int, reporter) -> tuple[TrainState, dict]:
  """The E-step's mixture: pi, mu_c and Sigma_c of one sampled z of every image.

  It goes on from tau of the E-step before, which no drift of the latents confuses; at
  first from the start, or from K-means of the latents.

  Args:
    machinery: the method.
    state: the state; the latents are those of the averaged encoder.
    pipeline: of the images.
    indices: of the images, [n].
    tau: responsibilities so far, [n, Q].
    iteration: of EM, from 1.
    reporter: shows progress.

  Returns:
    The state with the new mixture, and figures for the history.
  """
  config, mesh = machinery.config, machinery.mesh
  mean, log_variance = latents_of(machinery, state.ema, pipeline, reporter, indices)
  key = jax.random.fold_in(stream(config.seed, 'latents'), iteration)
  z = np.asarray(jax.jit(sampled_latents)(
      mean, log_variance, image_keys(key, np.asarray(indices, np.int32))))
  first = iteration == 1 and config.em.init == LATENTS
  start = config.num_clusters if first else to_host(tau)
  with reporter.task('mixture of the latents', 1, 'fits') as task:
    mixture, found = latent_fit.fit(
        z, start, config.latent, mesh, integer_seed(config.seed, 'mixture'),
        config.em.init_restarts)
    task.advance(1)
  state = state._replace(  # twice: a state's buffers are donated
      params=state.params._replace(mixture=replicate(mixture, mesh)),
      ema=state.ema._replace(mixture=replicate(mixture, mesh)))
  collapse, matching = jax.jit(terms)(mixture, mean, log_variance)
  return state, {
      'latent_log_likelihood': float(found.log_likelihood),
      'latent_fit_iterations': int(found.iterations),
      'latent_fit_converged': bool(found.converged),
      'latent_categorical_kl': float(jnp.mean(matching.categorical)),
      'latent_gaussian_kl': float(jnp.mean(matching.gaussian)),
      'latent_active_dimensions': int(jnp.sum(collapse.active)),
      'latent_divergence': float(jnp.sum(collapse.divergence)),
      'latent_deviation': float(np.exp(np.mean(log_variance) / 2))}


def terms(mixture, mean, log_variance):
  """What the latents [n, J] of images tell, and what they cost."""
  w = latent_mixture.expected_responsibilities(mixture, mean, log_variance)
  return (latent_mixture.collapse(mixture, mean, log_variance),
          latent_mixture.prior_matching(mixture, mean, log_variance, w))


def conditions(params: Parameters, cluster: int, count: int, seed: int) -> np.ndarray:
  """So many latents z ~ p(z | c) of a cluster, [count, J]."""
  keys = image_draws(stream(seed, 'condition'), [cluster], count)[0]
  return to_host(jax.jit(latent_mixture.draw_latents)(
      to_host(params.mixture), np.full(count, cluster, np.int32), keys))
