"""What a method owes the loop and the commands, and what it gets for nothing.

A method is a folder (or a file) with a class of `Method`, and a line of
`jdiffclust.registry`. The loop, checkpoints, samplers, metrics and the report ask for no
more than stands here.
"""

from __future__ import annotations

import abc
import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import Estimator, make_estimator
from jdiffclust.clustering.bound.tau import EStepInfo
from jdiffclust.clustering.bound.terms import NUM_BANDS
from jdiffclust.data.passes import over_images
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.paths import Tabulated, from_process
from jdiffclust.diffusion.process import Process
from jdiffclust.errors import NonFiniteError, UserError
from jdiffclust.networks.conditional import clusterddpm_networks
from jdiffclust.networks.inference import InferenceNetwork
from jdiffclust.networks.unet import unet_from_config
from jdiffclust.registry import METHODS
from jdiffclust.sharding import replicate, to_host
from jdiffclust.state import MStepInfo, TrainState


# How the M-step draws noise levels, by the weighting of its loss.
PROPOSALS = {'uniform': 'uniform', 'residual': 'density', 'elbo': 'weight'}


class Networks(NamedTuple):
  """What a method's Flax modules are made by; others may be handed in.

  Attributes:
    denoiser: the `network` section -> eta_theta(x_t, t, mu) of CDDPM.
    latent: a config -> the encoder and the denoiser of ClusterDDPM.
    inference: (Q, channels) -> the inference network of CDDPM.
  """

  denoiser: Callable = unet_from_config
  latent: Callable = clusterddpm_networks
  inference: Callable = InferenceNetwork


class Proposal(NamedTuple):
  """Conditions that images might have, [N, P, ...] of P images.

  Attributes:
    condition: of the denoiser.
    log_ratio: log density a priori less that of the proposal, [N, P].
  """

  condition: jax.Array
  log_ratio: jax.Array


class Method(abc.ABC):
  """A method for images of one shape, on a mesh of devices.

  Parameters are of the method's own type; all have `log_proportions`, log pi [Q].

  Attributes:
    config: the config.
    image_shape: (H, W, C).
    levels: grey levels of the decoder; None: a Gaussian one.
    mesh: the devices.
    process: the diffusion, float64 on the host.
    m_options: the `m_step` section of the config, its weighting known.
    e_estimator: what the E-step draws from, on the devices.
    m_estimator: what the M-step draws from, on the devices.
    propose_of_rows: `propose`, compiled, of K draws of P images in rows [K P, H, W, C]
      by keys [P].
    recognise_of_rows: `recognise`, likewise.
    has_latents: whether `encode` gives latents.
    draws_decide: whether tau follows from the draws; else they but score it.
  """

  has_latents = False
  draws_decide = False

  def __init__(self, config, image_shape, levels: int | None, mesh: Mesh,
               process: Process, e_options):
    """Prepares what every method has; nothing is compiled yet.

    Args:
      config: a checked config.
      image_shape: (H, W, C).
      levels: grey levels of the images, or None.
      mesh: the devices.
      process: the diffusion, float64 on the host.
      e_options: the `e_step` section, its proposal not 'auto'.

    Raises:
      UserError: a discretized decoder for images without levels.
    """
    self.config, self.image_shape, self.mesh = config, tuple(image_shape), mesh
    self.levels, self.process = decoder_levels(config, levels), process
    self.m_options = m_options_of(config)
    self.e_estimator, self.m_estimator = estimators(process, e_options, self.m_options,
                                                    mesh)
    # Run once: on a CPU, compiling it with care takes four times as long as without.
    careless = ({'xla_backend_optimization_level': 0}
                if jax.default_backend() == 'cpu' else None)
    self._new_state = jax.jit(self.new_state, compiler_options=careless)
    self.propose_of_rows = jax.jit(self._propose_of_rows, static_argnums=(3, 4))
    self.recognise_of_rows = jax.jit(self._recognise_of_rows)

  # Owed.

  @abc.abstractmethod
  def new_state(self) -> TrainState:
    """The state before the first step, by the config's seed; traceable."""

  @abc.abstractmethod
  def m_step(self, state: TrainState, batch: Batch, table,
             key) -> tuple[TrainState, MStepInfo]:
    """One gradient step, which donates the state's buffers.

    Args:
      state: the state.
      batch: of B images, spread over the devices.
      table: responsibilities, see `jdiffclust.clustering.table`.
      key: the typed key of the stream; the step's own is folded in.
    """

  @abc.abstractmethod
  def e_step(self, estimator: Estimator, params, batch: Batch,
             key) -> tuple[jax.Array, EStepInfo]:
    """tau [B, Q] of a batch, and what is known of it.

    Args:
      estimator: of `pilot`.
      params: the parameters (the averaged ones).
      batch: of B images, spread over the devices.
      key: the typed key of the E-step.
    """

  @abc.abstractmethod
  def conditions(self, params, cluster: int, count: int, seed: int) -> np.ndarray:
    """What images of a cluster are generated from, [count, ...]."""

  @abc.abstractmethod
  def denoiser(self, params) -> Denoiser:
    """E[x_0 | x_t, condition] of the fitted model."""

  @abc.abstractmethod
  def reference(self, params) -> Denoiser:
    """What guidance leads away from: the same without the cluster."""

  # With defaults.

  def before_m_step(self, state: TrainState, pipeline, indices, tau) -> TrainState:
    """Closed forms before the gradient steps of an EM iteration; by default none.

    Args:
      state: the state.
      pipeline: of the images.
      indices: of the images whose tau is known, [n].
      tau: theirs, on the devices, [n, Q].
    """
    del pipeline, indices, tau
    return state

  def before_e_step(self, state: TrainState, pipeline, indices, tau, iteration: int,
                    reporter) -> tuple[TrainState, dict]:
    """Closed forms after the gradient steps, and figures for the history.

    Args:
      state, pipeline, indices, tau: as of `before_m_step`.
      iteration: of EM, from 1.
      reporter: shows progress.
    """
    del pipeline, indices, tau, iteration, reporter
    return state, {}

  def pilot(self, params, pipeline, indices, key) -> Estimator:
    """The estimator of an E-step over some images; by default that of all E-steps."""
    del params, pipeline, indices, key
    return self.e_estimator

  def feature_maps(self, params) -> dict:
    """What the model has learned to see, by name: each a `features.FeatureMap`.

    Args:
      params: on the host.
    """
    del params
    return {}

  def encode(self, params, images) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance of the latents of images, [B, J] each.

    Raises:
      UserError: the method has none.
    """
    del params, images
    raise UserError(f'config.method = {self.config.method!r} has no latents: take '
                    'cluster_ddpm or latent_cddpm.')

  def recognise(self, params, images, keys) -> jax.Array:
    """Responsibilities [B, Q] of new images, without a bound; traceable.

    By default those of an E-step.

    Args:
      params: the parameters.
      images: [B, H, W, C].
      keys: typed keys [B].
    """
    numbers = jnp.arange(len(images), dtype=jnp.int32)
    return self.e_step(self.e_estimator, params, Batch(images, numbers), keys[0])[0]

  def propose(self, params, images, keys, num: int, prior_share: float) -> Proposal:
    """Conditions of images that are known only by some draws of each; traceable.

    Args:
      params: the parameters.
      images: K draws of P images, [K, P, H, W, C].
      keys: typed keys [K, P].
      num: N conditions of each image.
      prior_share: the share of conditions that follow their prior, whatever the draws
        say, in [0, 1).

    Raises:
      UserError: images of the method have no condition that could be found.
    """
    raise UserError(f'config.method = {self.config.method!r} cannot restore images.')

  def _propose_of_rows(self, params, images, keys, num, prior_share):
    images = images.reshape(-1, len(keys), *images.shape[1:])
    return self.propose(params, images, _row_keys(keys, len(images)), num, prior_share)

  def _recognise_of_rows(self, params, images, keys):
    number = len(images) // len(keys)
    return self.recognise(params, images, _row_keys(keys, number).reshape(-1))

  def direct_conditions(self, params, problem) -> np.ndarray | None:
    """Conditions under which the model draws from p(x | y) itself, [n, ...], or None.

    Args:
      params: the parameters.
      problem: an `inverse.problem.Problem` of n observations.

    Raises:
      UserError: it does so, but for other problems.
    """
    del params, problem
    return None

  def densities(self, params, images, keys, num_steps: int, num_probes: int):
    """`cddpm.density.Densities` of images [B, H, W, C], by the probability-flow ODE.

    Args:
      params: the parameters.
      images: [B, H, W, C], spread over the devices.
      keys: typed keys [B].
      num_steps: Runge-Kutta steps.
      num_probes: of the trace; 0: the exact one.

    Raises:
      UserError: the method has none.
    """
    del params, images, keys, num_steps, num_probes
    raise UserError(f'config.predict.likelihood = True, but config.method = '
                    f'{self.config.method!r} has no densities by the '
                    'probability-flow ODE: leave it at False; the bound is given.')

  # What follows from these.

  @functools.cached_property
  def tell(self) -> Callable:
    """As `e_step`, but tau [B, Q] alone: what only scores it is not computed."""
    return jax.jit(lambda *given: self.e_step(*given)[0])

  @functools.cached_property
  def path(self) -> Tabulated:
    """The noising path of the images, on the devices."""
    return replicate(from_process(self.process), self.mesh)

  def noise_bands(self) -> list[list[int] | None]:
    """[first, last] step of each band of `EStepInfo.levels`; None: an empty band."""
    of_step = np.asarray(self.e_estimator.bands)
    bands = (np.flatnonzero(of_step == band) for band in range(NUM_BANDS))
    return [[int(t[0]), int(t[-1])] if t.size else None for t in bands]

  def init_state(self) -> TrainState:
    """The state before the first step, on the devices."""
    return replicate(to_host(self._new_state()), self.mesh)

  def abstract_state(self) -> TrainState:
    """The shapes, types and places of the state, without computing it."""
    sharding = NamedSharding(self.mesh, PartitionSpec())
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        jax.eval_shape(self.new_state))


def _row_keys(keys, number):
  """Keys of draws, [number, P], by those of their images [P]."""
  of = lambda n, key: jax.random.fold_in(key, n)
  return jax.vmap(jax.vmap(of, (None, 0)), (0, None))(jnp.arange(number), keys)


def build(config, image_shape, levels: int | None, mesh: Mesh,
          networks: Networks = Networks()) -> Method:
  """The method that a config asks for; nothing is compiled yet.

  Args:
    config: a checked config.
    image_shape: (H, W, C), divisible as the U-Net's levels need.
    levels: grey levels of the images, or None.
    mesh: the devices.
    networks: what its networks are made by.

  Raises:
    UserError: an invalid schedule or pull, or a discretized decoder without levels.
  """
  return METHODS[config.method](config, image_shape, levels, mesh, networks)


def decoder_levels(config, levels: int | None) -> int | None:
  """Grey levels of the decoder that a config asks for; None: the Gaussian one.

  Raises:
    UserError: a discretized decoder for images without levels.
  """
  decoder = config.diffusion.decoder
  if decoder == 'discretized' and levels is None:
    raise UserError(
        "config.diffusion.decoder = 'discretized', but the images are real-valued: "
        'set it to gaussian (or auto), or give 8-bit images.')
  return None if decoder == 'gaussian' else levels


def m_options_of(config):
  """The `m_step` section of a config, of its own, its weighting not 'auto'."""
  options = copy.deepcopy(config.m_step)
  if options.weighting == 'auto':
    residual = config.method == 'cddpm' and config.network.prediction == 'residual'
    options.weighting = 'residual' if residual else 'uniform'
  return options


def estimators(process: Process, e_options, m_options,
               mesh: Mesh) -> tuple[Estimator, Estimator]:
  """The estimators of the E-step and of the M-step, on the devices.

  Args:
    process: the diffusion.
    e_options: the `e_step` section of the config, its proposal not 'auto'.
    m_options: the `m_step` section, see `m_options_of`.
    mesh: the devices.
  """
  weighting = m_options.weighting
  made = (make_estimator(process, e_options.weighting, e_options.proposal),
          make_estimator(process, weighting, PROPOSALS[weighting]))
  return replicate(to_host(made), mesh)


def latents_of(method: Method, params, pipeline, reporter,
               indices=None) -> tuple[np.ndarray, np.ndarray]:
  """The latents of images.

  Args:
    method: one that has latents.
    params: its parameters.
    pipeline: of the images.
    reporter: shows progress.
    indices: of the images, [n]; None: all.

  Returns:
    Mean and log variance of z, float32 [n, J] each.

  Raises:
    NonFiniteError: one of them is not finite; the image is named.
  """
  indices = np.arange(pipeline.num_images) if indices is None else indices
  with reporter.task('latents', len(indices), 'images') as task:
    mean, log_variance = over_images(
        lambda batch: method.encode(params, batch.images), pipeline, indices,
        method.config.e_step.batch_size, lambda parts: task.advance(len(parts[-1][0])))
  finite = np.isfinite(mean).all(axis=1) & np.isfinite(log_variance).all(axis=1)
  if not finite.all():
    image = int(indices[np.argmin(finite)])
    raise NonFiniteError(f'E-step: the latent of image {image} is not finite')
  return mean, log_variance
