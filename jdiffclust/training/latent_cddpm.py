"""The method 'latent_cddpm': CDDPM in the latent space of ClusterDDPM.

For `latent.iterations` EM iterations this is ClusterDDPM. Then its encoder and decoder
stay as they are, and the mixture of conditional DDPMs takes the Gaussian mixture's place
as prior of z (each number of z less its mean over the images, and over its deviation):

  log p(x_0) >= E_q(z) log p(x_0 | z) + H(q(z | x_0)) + E_q(z) log p(z),

of which CDDPM has a bound of the last term, so that the bounds of all methods compare. It
learns from samples of z, of views of the images by option, as ClusterDDPM's denoiser
does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from jdiffclust.batch import Batch
from jdiffclust.clustering import cluster_ddpm as first_model
from jdiffclust.clustering import latent_mixture, mixture
from jdiffclust.clustering.e_step import Estimator, image_keys
from jdiffclust.clustering.m_step import TrainState
from jdiffclust.networks.vector import VectorDenoiser
from jdiffclust.sharding import replicate, to_host
from jdiffclust.training import cddpm, cluster_ddpm
from jdiffclust.training.machinery import Machinery
from jdiffclust.training.passes import latents_of
from jdiffclust.training.progress import Reporter
from jdiffclust.training.sampling import draw_from


class Parameters(NamedTuple):
  """What EM estimates.

  Attributes:
    first: those of ClusterDDPM.
    second: those of CDDPM, of latents [Q, 1, 1, J].
    centre: of the latents, [J].
    scale: their standard deviations, [J].
    begun: whether CDDPM has begun, bool [].
  """

  first: first_model.Parameters
  second: mixture.Parameters
  centre: jax.Array
  scale: jax.Array
  begun: jax.Array

  @property
  def log_proportions(self) -> jax.Array:
    """log pi, [Q]."""
    return jnp.where(self.begun, self.second.log_proportions,
                     self.first.log_proportions)

  def standardised(self, z) -> jax.Array:
    """Latents [B, J] as images of CDDPM, [B, 1, 1, J]."""
    return ((z - self.centre[None]) / self.scale[None])[:, None, None]


class Estimators(NamedTuple):
  """What both draw from."""

  first: Estimator
  second: Estimator

  @property
  def bands(self) -> jax.Array:
    """The noise levels that are reported: those of images."""
    return self.first.bands


def part(state: TrainState, name: str, step) -> TrainState:
  """The state of `first` or `second`, which has taken so many steps."""
  of = lambda params: getattr(params, name)
  return state._replace(params=of(state.params), ema=of(state.ema),
                        optimizer=state.optimizer[name], step=step)


def joined(state: TrainState, name: str, own: TrainState, step) -> TrainState:
  """The whole state after a change of that of `first` or `second`."""
  return own._replace(
      params=state.params._replace(**{name: own.params}),
      ema=state.ema._replace(**{name: own.ema}),
      optimizer=state.optimizer | {name: own.optimizer}, step=step)


class LatentPipeline:
  """A pipeline's images as CDDPM sees their latents."""

  def __init__(self, pipeline, encode, params: Parameters):
    """Encodes by `encode` of a machinery, with fixed parameters."""
    self.num_images, self._pipeline = pipeline.num_images, pipeline
    self._encode, self._params = encode, params

  def ordered(self, indices, batch_size: int):
    """The latents of some images once, in their order."""
    for batch, valid in self._pipeline.ordered(indices, batch_size):
      mean, _ = self._encode(self._params, batch.images)
      yield batch._replace(images=self._params.standardised(mean)), valid


def settings_of_second(config):
  """The config of CDDPM: that of the run, without views, of which vectors have none."""
  config = config.copy_and_resolve_references()  # the sections too, unlike ConfigDict()
  with config.unlocked():
    for name in ('rotation', 'scale', 'shear', 'shift', 'flip'):
      config.views[name] = 0.
    config.posterior.num_views = 0
    config.diffusion.decoder = 'gaussian'
  return config


def build(config, image_shape, levels: int | None, mesh: Mesh) -> Machinery:
  """Prepares (without compiling yet) everything that a config asks for.

  Args:
    config: a checked config; the sections network and latent are of ClusterDDPM.
    image_shape: (H, W, C), divisible as the U-Net's levels need.
    levels: grey levels of the images, or None.
    mesh: the devices.

  Returns:
    The `Machinery`, of `Parameters`.

  Raises:
    UserError: as `cluster_ddpm.build`.
  """
  size = config.latent.size
  first = cluster_ddpm.build(config, image_shape, levels, mesh)
  second = cddpm.build(settings_of_second(config), (1, 1, size), None, mesh,
                       VectorDenoiser())
  options = config.m_step
  boundary = ((options.first_num_steps or options.num_steps)
              + (config.latent.iterations - 1) * options.num_steps)
  encode = lambda params, images: first.encode(params.first, images)
  sampled = first_model.make_training_latents(first.model, mesh)
  reconstruct = first_model.make_reconstruction(
      first.model, cluster_ddpm.draws_of(config), mesh)

  def new_state():
    one, two = first.new_state(), second.new_state()
    params = Parameters(one.params, two.params, jnp.zeros(size), jnp.ones(size),
                        jnp.zeros((), bool))
    return one._replace(params=params, ema=jax.tree.map(jnp.copy, params),
                        optimizer={'first': one.optimizer, 'second': two.optimizer})

  def of_first(state, estimators, batch, table, key):
    own, info = first.m_step(part(state, 'first', state.step), estimators.first, batch,
                             table, key)
    return joined(state, 'first', own, own.step), info

  def of_second(state, estimators, batch, table, key):
    keys = image_keys(jax.random.fold_in(jax.random.fold_in(key, 1), state.step),
                      batch.indices)
    z = sampled(state.ema.first, batch.images, keys)
    own, info = second.m_step(
        part(state, 'second', state.step - boundary), estimators.second,
        Batch(state.ema.standardised(z), batch.indices), table, key)
    return joined(state, 'second', own, own.step + boundary), info

  m_steps = [jax.jit(step, donate_argnums=0) for step in (of_first, of_second)]

  def m_step(state, estimators, batch, table, key):
    # Chosen here, since in a jax.lax.cond XLA for CPUs takes tens of times as long for
    # gradients of convolutions (jax 0.10.2; in loops too). `begun` stays out of the
    # compiled step: reading it waits for none.
    begun = state.params.begun
    own, info = m_steps[bool(begun)](
        state._replace(params=state.params._replace(begun=None)), estimators, batch,
        table, key)
    return own._replace(params=own.params._replace(begun=begun)), info

  def score_first(estimators, params, batch, key):
    return first.e_step(estimators.first, params.first, batch, key)

  def score_second(estimators, params, batch, key):
    found = reconstruct(estimators.first, params.first, batch, key)
    tau, info = second.e_step(
        estimators.second, params.second,
        Batch(params.standardised(found.z), batch.indices, batch.start), key)
    log_variance = latent_mixture.clamp(found.log_variance)
    entropy = jnp.sum(1 + np.log(2 * np.pi) + log_variance, axis=1) / 2
    gain = info.bound + entropy - jnp.sum(jnp.log(params.scale))
    return tau, info._replace(
        bound=found.info.bound + gain, prior=found.info.prior + gain,
        diffusion=found.info.diffusion, levels=found.info.levels,
        decoder=found.info.decoder,
        evaluations=found.info.evaluations + info.evaluations)

  e_steps = [jax.jit(score) for score in (score_first, score_second)]

  def e_step(estimators, params, batch, key):
    return e_steps[bool(params.begun)](estimators, params, batch, key)

  def before_m_step(machinery, state, pipeline, indices, tau):
    step = int(state.step)
    if step < boundary:
      return state
    if step == boundary:
      state = begin(machinery, state, pipeline, indices)
    latents = LatentPipeline(pipeline, jax.jit(encode), state.ema)
    own = second.before_m_step(second, part(state, 'second', np.int32(step - boundary)),
                               latents, indices, tau)
    return replicate(to_host(joined(state, 'second', own, np.int32(step))), mesh)

  def before_e_step(machinery, state, pipeline, indices, tau, iteration, reporter):
    if bool(state.params.begun):
      return state, {}
    own, figures = first.before_e_step(
        first, part(state, 'first', state.step), pipeline, indices, tau, iteration,
        reporter)
    return joined(state, 'first', own, own.step), figures

  def conditions(params, cluster, count, seed):
    if not bool(params.begun):
      return first.conditions(params.first, cluster, count, seed)
    options = ml_collections.ConfigDict({
        **config.sample.to_dict(), 'sampler': 'ddpm', 'num_steps': 0, 'guidance': 1.,
        'trajectory': 0, 'seed': seed})
    means = second.conditions(params.second, cluster, count, seed)[None]
    z = draw_from(second, params.second, means, [cluster], options).images[0, :, 0, 0]
    return to_host(params.centre) + to_host(params.scale) * z

  return Machinery(
      config=config, image_shape=tuple(image_shape), mesh=mesh, model=first.model,
      levels=first.levels, process=first.process,
      e_estimator=Estimators(first.e_estimator, second.e_estimator),
      m_estimator=Estimators(first.m_estimator, second.m_estimator),
      new_state=new_state, m_step=m_step, e_step=e_step, pilot=None,
      before_m_step=before_m_step, before_e_step=before_e_step, conditions=conditions,
      draw=lambda sampler, path, params, *args: first.draw(sampler, path, params.first,
                                                           *args),
      features=lambda params: first.features(params.first), encode=jax.jit(encode))


def begin(machinery, state: TrainState, pipeline, indices) -> TrainState:
  """The state in which CDDPM begins: the latents' centre and scale are known."""
  mean, _ = latents_of(machinery, state.ema, pipeline, Reporter(quiet=True), indices)
  scale = np.maximum(mean.std(axis=0), 1e-6)
  known = {'centre': mean.mean(axis=0), 'scale': scale, 'begun': np.asarray(True)}
  host = to_host((state.params, state.ema))
  params, ema = (p._replace(**known) for p in host)
  return state._replace(params=params, ema=ema)
