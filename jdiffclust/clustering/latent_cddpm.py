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

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from jdiffclust.clustering.bound import terms
from jdiffclust.clustering.bound.draws import Estimator, image_keys, key_apart
from jdiffclust.clustering.cddpm.method import CDDPM
from jdiffclust.clustering.cluster_ddpm import latent_mixture, model
from jdiffclust.clustering.cluster_ddpm.method import ClusterDDPM
from jdiffclust.clustering.generation import sample_from
from jdiffclust.clustering.method import Method, Networks, latents_of
from jdiffclust.data.symmetry import MAPS
from jdiffclust.networks.vector import VectorDenoiser
from jdiffclust.progress import Reporter
from jdiffclust.sharding import replicate, to_host
from jdiffclust.state import TrainState, steps_until


class Parameters(NamedTuple):
  """What EM estimates.

  Attributes:
    first: those of ClusterDDPM.
    second: those of CDDPM, of latents [Q, 1, 1, J].
    centre: of the latents, [J].
    scale: their standard deviations, [J].
    begun: whether CDDPM has begun, bool [].
  """

  first: model.Parameters
  second: terms.Parameters
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
  """The state of `first` or `second`, which has taken that number of steps."""
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

  def __init__(self, pipeline, encode):
    """Encodes by a function from images to standardised latents."""
    self.num_images, self._pipeline, self._encode = (pipeline.num_images, pipeline,
                                                     encode)

  def ordered(self, indices, batch_size: int):
    """The latents of some images once, in their order."""
    for batch, valid in self._pipeline.ordered(indices, batch_size):
      yield batch._replace(images=self._encode(batch.images)), valid


def settings_of_second(config):
  """The config of CDDPM: that of the run, without views, of which vectors have none."""
  config = config.copy_and_resolve_references()  # the sections too, unlike ConfigDict()
  with config.unlocked(), config.ignore_type():
    for name in ('rotation', 'scale', 'shear', 'shift', *MAPS):
      config.views[name] = 0.
    config.posterior.num_views = 0
    config.network.prediction = 'noise'
    config.diffusion.decoder = 'gaussian'
  return config


class LatentCDDPM(Method):
  """Of `Parameters`; the sections network and latent of the config are of ClusterDDPM."""

  has_latents = True

  def __init__(self, config, image_shape, levels: int | None, mesh: Mesh,
               networks: Networks = Networks()):
    """As `method.build`."""
    self.first = ClusterDDPM(config, image_shape, levels, mesh, networks)
    self.second = CDDPM(settings_of_second(config), (1, 1, config.latent.size), None,
                        mesh, Networks(denoiser=lambda _: VectorDenoiser()))
    super().__init__(config, image_shape, levels, mesh, self.first.process,
                     self.first.e_options)
    self.e_estimator: Any = Estimators(self.first.e_estimator, self.second.e_estimator)
    self.m_estimator: Any = Estimators(self.first.m_estimator, self.second.m_estimator)
    self.boundary = steps_until(config.m_step, config.latent.iterations)
    self._sampled = model.make_training_latents(self.first.model, mesh)
    self._reconstruct = model.make_reconstruction(self.first.model, self.first.e_options,
                                                  mesh)
    self._m_steps = [jax.jit(step, donate_argnums=0)
                     for step in (self._step_of_first, self._step_of_second)]
    self._e_steps = [jax.jit(score)
                     for score in (self._score_of_first, self._score_of_second)]

  def new_state(self):
    """That of both, CDDPM not begun."""
    one, two = self.first.new_state(), self.second.new_state()
    size = self.config.latent.size
    params = Parameters(one.params, two.params, jnp.zeros(size), jnp.ones(size),
                        jnp.zeros((), bool))
    return one._replace(params=params, ema=jax.tree.map(jnp.copy, params),
                        optimizer={'first': one.optimizer, 'second': two.optimizer})

  def _step_of_first(self, state, estimators, batch, table, key):
    own, info = self.first.gradient_step(part(state, 'first', state.step),
                                         estimators.first, batch, table, key)
    return joined(state, 'first', own, own.step), info

  def _step_of_second(self, state, estimators, batch, table, key):
    keys = image_keys(jax.random.fold_in(key_apart(key, 1), state.step),
                      batch.numbers)
    z = self._sampled(state.ema.first, batch.images, keys)
    own, info = self.second.gradient_step(
        part(state, 'second', state.step - self.boundary), estimators.second,
        batch._replace(images=state.ema.standardised(z)), table, key_apart(key, 2))
    return joined(state, 'second', own, own.step + self.boundary), info

  def m_step(self, state, batch, table, key):
    """The step of ClusterDDPM, or of CDDPM once it has begun."""
    # Chosen here, since in a jax.lax.cond XLA for CPUs takes tens of times as long for
    # gradients of convolutions (jax 0.10.2; in loops too). `begun` stays out of the
    # compiled step: reading it waits for none.
    begun = state.params.begun
    own, info = self._m_steps[bool(begun)](
        state._replace(params=state.params._replace(begun=None)), self.m_estimator, batch,
        table, key)
    return own._replace(params=own.params._replace(begun=begun)), info

  def _score_of_first(self, estimators, params, batch, key):
    return self.first.e_step(estimators.first, params.first, batch, key)

  def _score_of_second(self, estimators, params, batch, key):
    found = self._reconstruct(estimators.first, params.first, batch, key)
    tau, info = self.second.e_step(
        estimators.second, params.second,
        batch._replace(images=params.standardised(found.z)), key_apart(key, 3))
    log_variance = latent_mixture.clamp(found.log_variance)
    entropy = jnp.sum(1 + np.log(2 * np.pi) + log_variance, axis=1) / 2
    gain = info.bound + entropy - jnp.sum(jnp.log(params.scale))
    return tau, info._replace(
        bound=found.info.bound + gain, prior=found.info.prior + gain,
        diffusion=found.info.diffusion, levels=found.info.levels,
        decoder=found.info.decoder,
        evaluations=found.info.evaluations + info.evaluations)

  def e_step(self, estimator, params, batch, key):
    """That of ClusterDDPM, or of CDDPM once it has begun."""
    return self._e_steps[bool(params.begun)](estimator, params, batch, key)

  @functools.cached_property
  def tell(self):
    """See `Method`: of either, chosen outside of what is compiled."""
    tells = [jax.jit(lambda *given, score=score: score(*given)[0])
             for score in (self._score_of_first, self._score_of_second)]
    return lambda estimator, params, batch, key: tells[bool(params.begun)](
        estimator, params, batch, key)

  def before_m_step(self, state, pipeline, indices, tau):
    """At the boundary the latents' centre and scale; from there, CDDPM's closed forms."""
    step = int(state.step)
    if step < self.boundary:
      return state
    if step == self.boundary:
      state = self._begin(state, pipeline, indices)
    params = state.ema
    latents = LatentPipeline(
        pipeline, lambda images: params.standardised(self.encode(params, images)[0]))
    own = self.second.before_m_step(
        part(state, 'second', np.int32(step - self.boundary)), latents, indices, tau)
    return replicate(to_host(joined(state, 'second', own, np.int32(step))), self.mesh)

  def _begin(self, state, pipeline, indices):
    """The state in which CDDPM begins."""
    mean, _ = latents_of(self, state.ema, pipeline, Reporter(quiet=True), indices)
    scale = np.maximum(mean.std(axis=0), 1e-6)
    known = {'centre': mean.mean(axis=0), 'scale': scale, 'begun': np.asarray(True)}
    host = to_host((state.params, state.ema))
    params, ema = (p._replace(**known) for p in host)
    return state._replace(params=params, ema=ema)

  def before_e_step(self, state, pipeline, indices, tau, iteration, reporter):
    """ClusterDDPM's mixture, until CDDPM has begun."""
    if bool(state.params.begun):
      return state, {}
    own, figures = self.first.before_e_step(
        part(state, 'first', state.step), pipeline, indices, tau, iteration, reporter)
    return joined(state, 'first', own, own.step), figures

  def conditions(self, params, cluster, count, seed):
    """Latents of a cluster, drawn by CDDPM once it has begun, [count, J]."""
    if not bool(params.begun):
      return self.first.conditions(params.first, cluster, count, seed)
    options = ml_collections.ConfigDict({
        **self.config.sample.to_dict(), 'sampler': 'ddpm', 'num_steps': 0,
        'guidance': 1., 'trajectory': 0, 'seed': seed})
    means = self.second.conditions(params.second, cluster, count, seed)[None]
    z = sample_from(self.second, params.second, means, [cluster],
                    options, purpose='condition').images[0, :, 0, 0]
    return to_host(params.centre) + to_host(params.scale) * z

  def denoiser(self, params):
    """That of ClusterDDPM, of conditions z [B, J]."""
    return self.first.denoiser(params.first)

  def reference(self, params):
    """That of ClusterDDPM."""
    return self.first.reference(params.first)

  def recognise(self, params, images, keys):
    """By ClusterDDPM, or by CDDPM's network of the latents once it has begun."""
    first = self.first.recognise(params.first, images, keys)
    z = params.standardised(self.first.model.encode(params.first.encoder, images,
                                                    None)[0])
    second = self.second.recognise(params.second, z, keys)
    return jnp.where(params.begun, second, first)

  def propose(self, params, images, keys, num, prior_share):
    """Those of ClusterDDPM, whose mixture stands for the prior of latents."""
    return self.first.propose(params.first, images, keys, num, prior_share)

  def feature_maps(self, params):
    """Those of ClusterDDPM."""
    return self.first.feature_maps(params.first)

  def encode(self, params, images):
    """The latents of ClusterDDPM, not standardised."""
    return self.first.encode(params.first, images)
