"""From a config to the compiled steps: what fit, predict, sample and evaluate share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdiffclust.clustering import m_step as m_step_lib
from jdiffclust.clustering.amortised import Posterior
from jdiffclust.clustering.assign import make_e_step, make_pilot
from jdiffclust.clustering.density import make_density
from jdiffclust.clustering.e_step import NUM_BANDS, Estimator, make_estimator
from jdiffclust.clustering.generate import make_draw
from jdiffclust.clustering.m_step import TrainState, make_m_step, make_optimizer
from jdiffclust.clustering.mixture import Mixture, Parameters, Trunk
from jdiffclust.diffusion.process import Process, process_from_config
from jdiffclust.errors import UserError
from jdiffclust.networks.inference import InferenceNetwork
from jdiffclust.networks.unet import SharedTrunkUNet, unet_from_config
from jdiffclust.sharding import replicate, to_host
from jdiffclust.streams import stream


@dataclasses.dataclass(frozen=True)
class Machinery:
  """The model of a config for images of one shape, on a mesh of devices.

  Attributes:
    config: the config.
    image_shape: (H, W, C).
    mesh: the devices.
    mixture: the static model.
    process: the diffusion, float64 on the host.
    e_estimator: what the E-step draws from, on the devices.
    m_estimator: what the M-step draws from, on the devices.
    e_step: the compiled E-step, see `assign.make_e_step`.
    pilot: what an E-step begins with, see `assign.make_pilot`; None: nothing.
    m_step: the compiled gradient step, see `m_step.make_m_step`.
    draw: the compiled generation of images, see `generate.make_draw`.
    density: the compiled densities, see `density.make_density`.
    init_network: from a key to the network's variables.
    init_posterior: from a key to the inference network's, or to None.
  """

  config: Any
  image_shape: tuple[int, int, int]
  mesh: Mesh
  mixture: Mixture
  process: Process
  e_estimator: Estimator
  m_estimator: Estimator
  e_step: Callable
  pilot: Callable | None
  m_step: Callable
  draw: Callable
  density: Callable
  init_network: Callable
  init_posterior: Callable

  def noise_bands(self) -> list[list[int] | None]:
    """[first, last] step of each band of `EStepInfo.levels`; None: an empty band."""
    of_step = np.asarray(self.e_estimator.bands)
    bands = (np.flatnonzero(of_step == band) for band in range(NUM_BANDS))
    return [[int(t[0]), int(t[-1])] if t.size else None for t in bands]

  def init_state(self) -> TrainState:
    """The state before the first step: random weights, zero means, equal proportions."""
    # Run once: on a CPU, compiling it with care takes four times as long as without.
    options = ({'xla_backend_optimization_level': 0}
               if jax.default_backend() == 'cpu' else None)
    return replicate(to_host(jax.jit(self._new_state, compiler_options=options)()),
                     self.mesh)

  def _new_state(self):
    q = self.config.num_clusters
    params = Parameters(
        network=self.init_network(stream(self.config.seed, 'network')),
        means=jnp.zeros((q, *self.image_shape)),
        log_proportions=jnp.full((q,), -np.log(q), jnp.float32),
        posterior=self.init_posterior(stream(self.config.seed, 'posterior')))
    return m_step_lib.init_state(params, make_optimizer(self.config.m_step))

  def abstract_state(self) -> TrainState:
    """The shapes, types and places of the state, without computing it."""
    sharding = NamedSharding(self.mesh, PartitionSpec())
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        jax.eval_shape(self._new_state))


def build(config, image_shape, levels: int | None, mesh: Mesh) -> Machinery:
  """Prepares (without compiling yet) everything that a config asks for.

  Args:
    config: a checked config.
    image_shape: (H, W, C), divisible as the U-Net's levels need.
    levels: grey levels of the images, or None.
    mesh: the devices.

  Returns:
    The `Machinery`.

  Raises:
    UserError: an invalid schedule or pull, or a discretized decoder without levels.
  """
  process = process_from_config(config.diffusion)
  decoder = config.diffusion.decoder
  if decoder == 'discretized' and levels is None:
    raise UserError(
        "config.diffusion.decoder = 'discretized', but the images are real-valued: "
        'set it to gaussian (or auto), or give 8-bit images.')
  network = unet_from_config(config.network)
  denoise, trunk = two_stages(network, process)

  def init_network(key):
    x = jnp.zeros((1, *image_shape))
    return network.init(key, x, jnp.ones((1,), jnp.int32), x)

  mixture = Mixture(denoise, None if decoder == 'gaussian' else levels, trunk)
  posterior, init_posterior = None, lambda key: None
  if config.em.posterior == 'amortised':
    inference = InferenceNetwork(config.num_clusters, config.posterior.channels)
    posterior = Posterior(inference.apply, config.posterior, config.views)
    init_posterior = lambda key: inference.init(key, jnp.zeros((1, *image_shape)))
  e_options = ml_collections.ConfigDict(config.e_step)
  if e_options.proposal == 'auto':  # draws decide a table of tau, and score any other
    e_options.proposal = 'spread' if posterior is None else 'weight'
  m_weighting = config.m_step.weighting
  estimators = (
      make_estimator(process, e_options.weighting, e_options.proposal),
      make_estimator(process, m_weighting,
                     'weight' if m_weighting == 'elbo' else 'uniform'))
  e_estimator, m_estimator = replicate(to_host(estimators), mesh)
  return Machinery(
      config=config, image_shape=tuple(image_shape), mesh=mesh, mixture=mixture,
      process=process, e_estimator=e_estimator, m_estimator=m_estimator,
      e_step=make_e_step(mixture, e_options, mesh, posterior),
      pilot=make_pilot(mixture, e_options, mesh),
      m_step=make_m_step(mixture, config.m_step, mesh, posterior,
                         config.em.schedule == 'stepwise'),
      draw=make_draw(mixture, mesh), density=make_density(mixture, mesh),
      init_network=init_network, init_posterior=init_posterior)


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
