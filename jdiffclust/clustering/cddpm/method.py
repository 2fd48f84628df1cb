"""The method 'cddpm': the mixture of conditional DDPMs."""

from __future__ import annotations

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdiffclust.clustering.bound.pooling import log_posterior
from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters, TwoStages
from jdiffclust.clustering.cddpm.amortised import Posterior
from jdiffclust.clustering.cddpm.denoising import cluster_denoiser, mixture_denoiser
from jdiffclust.clustering.cddpm.density import make_densities
from jdiffclust.clustering.cddpm.e_step import make_e_step, make_pilot
from jdiffclust.clustering.cddpm.m_step import make_m_step, set_mixture
from jdiffclust.clustering.cddpm.proposals import NUM_IMAGES
from jdiffclust.clustering.method import Method, Networks, Proposal
from jdiffclust.data.passes import weighted_means
from jdiffclust.diffusion.preconditioning import residual
from jdiffclust.diffusion.process import Process, process_from_config
from jdiffclust.evaluation.features import trained_encoder
from jdiffclust.inverse.particles import ancestors, positions
from jdiffclust.networks.unet import SharedTrunkUNet
from jdiffclust.sharding import replicate, to_host
from jdiffclust.state import init_state, make_optimizer
from jdiffclust.streams import stream


class CDDPM(Method):
  """Of `terms.Parameters`; images of a cluster are generated from its mean mu."""

  def __init__(self, config, image_shape, levels: int | None, mesh: Mesh,
               networks: Networks = Networks()):
    """As `method.build`."""
    amortised = config.em.posterior == 'amortised'
    self.draws_decide = not amortised
    options = copy.deepcopy(config.e_step)
    if options.proposal == 'auto':  # draws decide a table of tau, and score any other
      options.proposal = 'weight' if amortised else 'spread'
    super().__init__(config, image_shape, levels, mesh,
                     process_from_config(config.diffusion), options)
    self.network = networks.denoiser(config.network)
    self.model = conditional_ddpm(self.network, self.process, self.levels,
                                  config.network.prediction)
    self.inference = networks.inference(config.num_clusters, config.posterior.channels)
    posterior = (Posterior(self.inference.apply, config.posterior, config.views)
                 if amortised else None)
    self.gradient_step = make_m_step(self.model, self.m_options, mesh, posterior,
                                     config.em.schedule == 'stepwise')
    self._e_step = make_e_step(self.model, options, mesh, posterior)
    self._measures, self._pilot = (options.proposal == 'spread',
                                   make_pilot(self.model, options, mesh))
    self._densities = make_densities(self.model, mesh)

  def new_state(self):
    """Random weights, zero means, equal proportions."""
    q, x = self.config.num_clusters, jnp.zeros((1, *self.image_shape))
    seed = self.config.seed
    params = Parameters(
        network=self.network.init(stream(seed, 'network'), x, jnp.ones((1,), jnp.int32),
                                  x),
        means=jnp.zeros((q, *self.image_shape)),
        log_proportions=jnp.full((q,), -np.log(q), jnp.float32),
        posterior=(None if self.draws_decide else
                   self.inference.init(stream(seed, 'posterior'), x)))
    return init_state(params, make_optimizer(self.config.m_step))

  def m_step(self, state, batch, table, key):
    """See `m_step.make_m_step`."""
    return self.gradient_step(state, self.m_estimator, batch, table, key)

  def e_step(self, estimator, params, batch, key):
    """See `e_step.make_e_step`."""
    return self._e_step(estimator, params, batch, key)

  def before_m_step(self, state, pipeline, indices, tau):
    """pi = N_q / N, and mu unless it is learned by gradient (first from these, too)."""
    tiny = np.finfo(np.float32).tiny
    shares = jnp.mean(tau, axis=0)
    means = None
    if self.config.m_step.means == 'weighted' or int(state.step) == 0:
      means = weighted_means(pipeline, indices, tau, self.config.e_step.batch_size)
    return replicate(to_host(
        set_mixture(state, jnp.log(jnp.maximum(shares, tiny)), means)), self.mesh)

  def pilot(self, params, pipeline, indices, key):
    """With e_step.proposal = 'spread' a measured proposal, see `proposals`."""
    if not self._measures:
      return self.e_estimator
    # From all over: files may be sorted by class.
    size = self.config.e_step.batch_size
    count = min(NUM_IMAGES, size)
    some = indices[np.unique(np.linspace(0, len(indices) - 1, count, dtype=int))]
    batch, valid = next(pipeline.ordered(some, size))
    return self._pilot(self.e_estimator, params, batch, valid, key)

  def conditions(self, params, cluster, count, seed):
    """The cluster's mean, `count` times."""
    del seed
    mean = to_host(params.means)[cluster]
    return np.broadcast_to(mean, (count, *mean.shape))

  def denoiser(self, params):
    """D_q of `denoising`."""
    return cluster_denoiser(self.model, self.path, params.network)

  def reference(self, params):
    """D of `denoising`."""
    return mixture_denoiser(self.model, self.path, params)

  def recognise(self, params, images, keys):
    """By the inference network alone, if there is one."""
    if self.draws_decide:
      return super().recognise(params, images, keys)
    return jnp.exp(log_posterior(
        functools.partial(self.inference.apply, params.posterior), images, keys,
        self.config.views, self.config.posterior.num_views))

  def propose(self, params, images, keys, num, prior_share):
    """Means of clusters, by the mean responsibilities of an image's draws."""
    draws, number = images.shape[:2]
    tau = self.recognise(params, images.reshape(-1, *images.shape[2:]), keys.reshape(-1))
    tau = jnp.mean(tau.reshape(draws, number, -1), axis=0)
    prior = jax.nn.softmax(params.log_proportions)[None]
    log_g = jnp.log((1 - prior_share) * tau + prior_share * prior)
    at = positions('systematic', keys[0], num)
    which = ancestors(log_g.T, at)  # [N, P]
    log_ratio = jnp.log(prior) - log_g
    return Proposal(params.means[which],
                    log_ratio[jnp.arange(number)[None], which])

  def feature_maps(self, params):
    """The hidden layer of the inference network, if there is one."""
    if self.draws_decide:
      return {}
    return {'inference network': trained_encoder(self.inference, params.posterior)}

  def densities(self, params, images, keys, num_steps, num_probes):
    """See `density.make_densities`."""
    return self._densities(self.denoiser(params), params, images, keys, num_steps,
                           num_probes)


def conditional_ddpm(network, process: Process, levels: int | None,
                     prediction: str = 'noise') -> ConditionalDDPM:
  """The static part of a model, by its network.

  Args:
    network: a Flax module of (x_t, t, mu); in two stages, of the centred observation, if
      it is a `SharedTrunkUNet`.
    process: the diffusion, float64 on the host.
    levels: grey levels of the decoder; None: the Gaussian one.
    prediction: what the network says: 'noise', eta_theta itself; 'residual', see
      `diffusion.preconditioning`.
  """
  steps = jnp.arange(process.num_steps + 1, dtype=jnp.float32)
  tables = jnp.asarray(
      np.stack([process.m * np.sqrt(process.alphas_cumprod), *residual(process)]),
      jnp.float32)

  def at(row, t):  # samplers may ask for times between the steps
    return jnp.interp(t.astype(jnp.float32), steps, tables[row])[:, None, None, None]

  def eta(output, centred, t, mu):
    if prediction == 'noise':
      return output
    return at(1, t) * centred + at(2, t) * mu + at(3, t) * output

  in_stages = isinstance(network, SharedTrunkUNet)

  def denoise(variables, x_t, t, mu, dropout_keys=None):
    centred = x_t - at(0, t) * mu
    output = network.apply(variables, centred if in_stages else x_t, t, mu, dropout_keys)
    return eta(output, centred, t, mu)

  if not in_stages:
    return ConditionalDDPM(denoise, levels)

  def shared(variables, centred, t, dropout_keys=None):
    return centred, network.apply(variables, centred, t, dropout_keys, method='shared')

  def of_cluster(variables, shared, t, mu, dropout_keys=None):
    centred, features = shared
    output = network.apply(variables, features, t, mu, dropout_keys, method='of_cluster')
    return eta(output, centred, t, mu)

  return ConditionalDDPM(denoise, levels, TwoStages(shared, of_cluster))
