"""The method 'cddpm': the mixture of conditional DDPMs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from jdiffclust.clustering.amortised import Posterior
from jdiffclust.clustering.assign import make_e_step, make_pilot
from jdiffclust.clustering.density import make_density
from jdiffclust.clustering.generate import make_draw
from jdiffclust.clustering.m_step import (
    TrainState, init_state, make_m_step, make_optimizer, set_mixture)
from jdiffclust.clustering.mixture import Mixture, Parameters, Trunk
from jdiffclust.diffusion.process import Process, process_from_config
from jdiffclust.evaluation.features import trained_encoder
from jdiffclust.networks.inference import InferenceNetwork
from jdiffclust.networks.unet import SharedTrunkUNet, unet_from_config
from jdiffclust.sharding import replicate, to_host
from jdiffclust.streams import stream
from jdiffclust.training.machinery import Machinery, decoder_levels, estimators
from jdiffclust.training.passes import weighted_means


def build(config, image_shape, levels: int | None, mesh: Mesh,
          network=None) -> Machinery:
  """Prepares (without compiling yet) everything that a config asks for.

  Args:
    config: a checked config.
    image_shape: (H, W, C), divisible as the U-Net's levels need.
    levels: grey levels of the images, or None.
    mesh: the devices.
    network: a Flax module of eta_theta(x_t, t, mu); None: by `config.network`.

  Returns:
    The `Machinery`, of `mixture.Parameters` and a `Mixture`.

  Raises:
    UserError: an invalid schedule or pull, or a discretized decoder without levels.
  """
  process = process_from_config(config.diffusion)
  if network is None:
    network = unet_from_config(config.network)
  denoise, trunk = two_stages(network, process)
  mixture = Mixture(denoise, decoder_levels(config, levels), trunk)
  posterior, init_posterior, learned = None, lambda key: None, lambda params: {}
  if config.em.posterior == 'amortised':
    inference = InferenceNetwork(config.num_clusters, config.posterior.channels)
    posterior = Posterior(inference.apply, config.posterior, config.views)
    init_posterior = lambda key: inference.init(key, jnp.zeros((1, *image_shape)))
    learned = lambda params: {
        'inference network': trained_encoder(inference, params.posterior)}

  def new_state():
    """Random weights, zero means, equal proportions."""
    q, x = config.num_clusters, jnp.zeros((1, *image_shape))
    params = Parameters(
        network=network.init(stream(config.seed, 'network'), x,
                             jnp.ones((1,), jnp.int32), x),
        means=jnp.zeros((q, *image_shape)),
        log_proportions=jnp.full((q,), -np.log(q), jnp.float32),
        posterior=init_posterior(stream(config.seed, 'posterior')))
    return init_state(params, make_optimizer(config.m_step))

  e_options = ml_collections.ConfigDict(config.e_step)
  if e_options.proposal == 'auto':  # draws decide a table of tau, and score any other
    e_options.proposal = 'spread' if posterior is None else 'weight'
  e_estimator, m_estimator = estimators(process, e_options, config.m_step, mesh)
  return Machinery(
      config=config, image_shape=tuple(image_shape), mesh=mesh, model=mixture,
      levels=mixture.levels, process=process, e_estimator=e_estimator,
      m_estimator=m_estimator, new_state=new_state,
      m_step=make_m_step(mixture, config.m_step, mesh, posterior,
                         config.em.schedule == 'stepwise'),
      e_step=make_e_step(mixture, e_options, mesh, posterior),
      pilot=make_pilot(mixture, e_options, mesh),
      before_m_step=update_mixture, before_e_step=None,
      conditions=conditions,
      draw=make_draw(mixture, mesh), means=lambda params: params.means, features=learned,
      density=make_density(mixture, mesh))


def two_stages(network, process: Process) -> tuple[Callable, Trunk | None]:
  """A network's `Mixture.denoise`, and its `Trunk` if it has one.

  Args:
    network: a Flax module.
    process: the diffusion.
  """
  if not isinstance(network, SharedTrunkUNet):
    return network.apply, None
  pull = jnp.asarray(process.m * np.sqrt(process.alphas_cumprod), jnp.float32)
  steps = jnp.arange(len(pull), dtype=jnp.float32)

  def denoise(variables, x_t, t, mu, dropout_keys=None):
    # Samplers may ask for times between the steps.
    pull_t = jnp.interp(t.astype(jnp.float32), steps, pull)
    centred = x_t - pull_t[:, None, None, None] * mu
    return network.apply(variables, centred, t, mu, dropout_keys)

  return denoise, Trunk(functools.partial(network.apply, method='features'),
                        functools.partial(network.apply, method='from_features'))


def conditions(params: Parameters, cluster: int, count: int, seed: int) -> np.ndarray:
  """The mean of a cluster, so many times: [count, H, W, C]."""
  del seed
  mean = to_host(params.means)[cluster]
  return np.broadcast_to(mean, (count, *mean.shape))


def update_mixture(machinery: Machinery, state: TrainState, pipeline, indices,
                   responsibilities) -> TrainState:
  """The closed-form part of the M-step: pi = N_q / N, and mu unless by gradient.

  Means learned by gradient start from the weighted means too.

  Args:
    machinery: the model.
    state: the state.
    pipeline: of the images.
    indices: of the images whose tau is known, [n].
    responsibilities: their tau, [n, Q].

  Returns:
    The new state.
  """
  config = machinery.config
  tiny = np.finfo(np.float32).tiny
  shares = jnp.mean(responsibilities, axis=0)
  means = None
  if config.m_step.means == 'weighted' or int(state.step) == 0:
    means = weighted_means(pipeline, indices, responsibilities,
                           config.e_step.batch_size)
  return replicate(to_host(
      set_mixture(state, jnp.log(jnp.maximum(shares, tiny)), means)), machinery.mesh)
