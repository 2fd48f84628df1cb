"""The method 'sr3': super-resolution by a DDPM that sees the low image.

  y = A x_0 + s n,   n ~ N(0, I)       the low image of an image
  p_theta(x_0 | y)                     a DDPM without a pull, its U-Net shown [x_t, U y]

A reduces an image by `sr3.factor`, s is `sr3.noise`, and U brings low images back to full
size by bicubic interpolation. The U-Net learns the noise in x_t; the E-step reports each
image's bound on log p(x_0 | y), which is not comparable with those on log p(x_0) of other
methods. There are no clusters: Q is 1, and tau is 1.

With s = 0 this is SR3, but that the U-Net is shown the step t and not the noise level.
With s > 0 it is Ho et al.'s Gaussian conditioning augmentation of one fixed level, and
fits observations that have that noise.

Sources: Saharia et al., 'Image super-resolution via iterative refinement' (2022); Ho et
al., 'Cascaded diffusion models for high fidelity image generation' (2022).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdiffclust.clustering.bound import terms
from jdiffclust.clustering.bound.draws import (
    Estimator, drawing_of, evaluate_draws, image_keys, key_apart)
from jdiffclust.clustering.bound.losses import draw_noise, example_losses
from jdiffclust.clustering.bound.tau import scoring_of, summarise
from jdiffclust.clustering.bound.terms import ConditionalDDPM
from jdiffclust.clustering.cluster_ddpm.method import draws_of
from jdiffclust.clustering.method import Method, Networks
from jdiffclust.data.passes import over_images
from jdiffclust.data.pipelines import replicate_key
from jdiffclust.diffusion import predictions
from jdiffclust.diffusion.denoiser import Unpulled
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.errors import UserError
from jdiffclust.inverse import operators
from jdiffclust.sharding import (
    DATA_AXIS, SPLIT, WHOLE, over_rows, replicate, to_host)
from jdiffclust.state import descend, init_state, make_optimizer
from jdiffclust.streams import stream

# `sr3.reduction` -> what makes A of a factor and the shape of an image.
REDUCTIONS = {'averaging': operators.averaging, 'bicubic': operators.bicubic}
# Low images of the fit that are kept: what new images are generated from.
NUM_LOW = 64


class Parameters(NamedTuple):
  """What is fitted, and what is kept of the images.

  Attributes:
    network: the U-Net's variables.
    low: low images of the fit, [NUM_LOW, h, w, C], in [-1, 1] but for noise.
    log_proportions: of the one cluster, 0, [1].
  """

  network: Any
  low: jax.Array
  log_proportions: jax.Array


@dataclasses.dataclass(frozen=True)
class Model:
  """The static part of the model.

  Attributes:
    denoise: (U-Net variables, x_t [B, H, W, C], t [B], U y [B, H, W, C], dropout keys [B]
      or None) -> eps [B, H, W, C].
    operator: A.
    noise: s, in units of images in [-1, 1].
    levels: grey levels of the discretized decoder; None: the Gaussian decoder.
  """

  denoise: Callable[..., jax.Array]
  operator: operators.Operator
  noise: float
  levels: int | None

  def observed(self, images, keys) -> jax.Array:
    """Low images y [B, h, w, C] of images [B, H, W, C], their noise by typed keys [B]."""
    y = self.operator.apply(images)
    if not self.noise:
      return y
    return y + self.noise * jax.vmap(lambda key: jax.random.normal(key, y.shape[1:]))(
        keys)

  def condition_of(self, y) -> jax.Array:
    """U y, [B, H, W, C], of observations [B, h, w, C]."""
    return jax.image.resize(y, (len(y), *self.operator.shape), 'bicubic')

  def given(self, condition) -> ConditionalDDPM:
    """The DDPM of images that are seen as U y [B, H, W, C]: a mixture of one cluster."""
    return ConditionalDDPM(
        lambda variables, x_t, t, mu, dropout_keys=None: self.denoise(
            variables, x_t, t, condition, dropout_keys), self.levels)

  def predict(self, variables, x_t, t, condition) -> jax.Array:
    """eps of x_t, without dropout, [B, H, W, C]."""
    return self.denoise(variables, x_t, t, condition, None)

  def one_cluster(self, params: Parameters) -> terms.Parameters:
    """The parameters of `given`: one cluster, whose mean is zero."""
    return terms.Parameters(params.network, jnp.zeros((1, *self.operator.shape)),
                            params.log_proportions)


def losses(model: Model, estimator: Estimator, params: Parameters, batch, key,
           weighting: str) -> jax.Array:
  """The loss of each image, from one draw (t, eps, n) of each.

  Args:
    model: the model.
    estimator: its weights are of `weighting`, its proposal is how t is drawn.
    params: the parameters to differentiate by.
    batch: B images.
    key: a typed key, one for all images.
    weighting: of the noise levels, 'uniform' or 'elbo'.

  Returns:
    [B], per dimension.
  """
  keys = image_keys(key_apart(key, 1), batch.numbers)
  condition = model.condition_of(model.observed(batch.images, keys))
  return example_losses(
      model.given(condition), estimator, model.one_cluster(params), batch.images, None,
      draw_noise(estimator, batch, key), jnp.ones((len(batch.images), 1)), 0,
      assignment='summed', weighting=weighting)


def make_m_step(model: Model, options, mesh: Mesh):
  """Compiles one gradient step for a mesh of devices.

  Args:
    model: the model.
    options: the `m_step` section of the config.
    mesh: one-dimensional; the minibatch is spread over it.

  Returns:
    A jitted function as that of `cddpm.m_step.make_m_step`; it looks nothing up in the
    table.
  """
  optimizer = make_optimizer(options)

  def mean_loss(params, estimator, batch, key):
    found = losses(model, estimator, params, batch, key, options.weighting)
    return jax.lax.pmean(jnp.mean(found), DATA_AXIS)

  loss_and_gradient = jax.shard_map(
      jax.value_and_grad(mean_loss), mesh=mesh, in_specs=(WHOLE, WHOLE, SPLIT, WHOLE),
      out_specs=WHOLE)

  def m_step(state, estimator, batch, table, key):
    del table
    loss, gradient = loss_and_gradient(state.params, estimator, batch,
                                       jax.random.fold_in(key, state.step))
    return descend(optimizer, state, loss, gradient, options.ema_decay)

  return jax.jit(m_step, donate_argnums=0)


def make_e_step(model: Model, options, mesh: Mesh):
  """Compiles the E-step for a mesh of devices.

  Args:
    model: the model.
    options: the `e_step` section of the config: the draws that score the bound.
    mesh: one-dimensional; images are spread over it.

  Returns:
    A jitted function as that of `cddpm.e_step.make_e_step`: tau is 1, and the bound that
    on log p(x_0 | y) for one y of each image.
  """
  drawing = dataclasses.replace(drawing_of(options), shared=True)

  def e_step(estimator, params, batch, key):
    keys = image_keys(key_apart(key, 1), batch.numbers)
    seeing = model.given(model.condition_of(model.observed(batch.images, keys)))
    own = model.one_cluster(params)
    draws = evaluate_draws(seeing, estimator, own, batch, key, drawing)
    return summarise(estimator, own, batch.images, draws, scoring_of(options))

  return over_rows(e_step, mesh, (WHOLE, WHOLE, SPLIT, WHOLE))


class SR3(Method):
  """Of `Parameters`; images are generated from low images.

  The one cluster has `NUM_LOW` of them, from all over the images of the fit: it is these
  that `--mode=sample`, the report and `--mode=evaluate` show at full size. Other low
  images enter by `condition_of`.
  """

  def __init__(self, config, image_shape, levels: int | None, mesh: Mesh,
               networks: Networks = Networks()):
    """As `method.build`; of the diffusion the pull is none, whatever the config says.

    Raises:
      UserError: as of `method.build`, or `sr3.factor` does not divide the images.
    """
    diffusion = copy.deepcopy(config.diffusion)
    diffusion.pull = 'zero'
    options = draws_of(config)
    super().__init__(config, image_shape, levels, mesh, process_from_config(diffusion),
                     options)
    network = copy.deepcopy(config.network)
    network.conditioning = 'concatenated'
    self.network = networks.denoiser(network)
    operator = REDUCTIONS[config.sr3.reduction](config.sr3.factor, self.image_shape)
    self.model = Model(self.network.apply, operator, config.sr3.noise, self.levels)
    self.centring = Unpulled(self.image_shape)
    self.gradient_step = make_m_step(self.model, self.m_options, mesh)
    self._e_step = make_e_step(self.model, options, mesh)
    self._observe = over_rows(
        lambda batch, key: self.model.observed(batch.images,
                                               image_keys(key, batch.numbers)),
        mesh, (SPLIT, WHOLE))
    self._condition = jax.jit(self.model.condition_of)

  def new_state(self):
    """Random weights; the low images are grey."""
    x = jnp.zeros((1, *self.image_shape))
    height, width, channels = self.image_shape
    factor = self.config.sr3.factor
    params = Parameters(
        network=self.network.init(stream(self.config.seed, 'network'), x,
                                  jnp.ones((1,), jnp.int32), x),
        low=jnp.zeros((NUM_LOW, height // factor, width // factor, channels)),
        log_proportions=jnp.zeros(1))
    return init_state(params, make_optimizer(self.config.m_step))

  def m_step(self, state, batch, table, key):
    """See `make_m_step`."""
    return self.gradient_step(state, self.m_estimator, batch, table, key)

  def e_step(self, estimator, params, batch, key):
    """See `make_e_step`."""
    return self._e_step(estimator, params, batch, key)

  def before_m_step(self, state, pipeline, indices, tau):
    """At first, the low images that are kept: of images in equal steps from all over."""
    del tau
    if int(state.step):
      return state
    # Some more than once, if there are fewer images.
    chosen = np.asarray(indices)[np.linspace(0, len(indices) - 1, NUM_LOW, dtype=int)]
    key = stream(self.config.seed, 'low')
    low = over_images(lambda batch: self._observe(batch, replicate_key(key, self.mesh)),
                      pipeline, chosen, self.config.e_step.batch_size)
    return state._replace(  # twice: a state's buffers are donated
        params=state.params._replace(low=replicate(low, self.mesh)),
        ema=state.ema._replace(low=replicate(low, self.mesh)))

  def condition_of(self, y) -> jax.Array:
    """What images are generated from that are seen as y.

    Args:
      y: observations, [B, h, w, C], of images in [-1, 1].

    Returns:
      [B, H, W, C].

    Raises:
      UserError: they are of another size than the fit's low images.
    """
    height, width, channels = self.image_shape
    factor = self.config.sr3.factor
    wanted = height // factor, width // factor, channels
    y = jnp.asarray(y, jnp.float32)
    if y.shape[1:] != wanted:
      raise UserError(f'Low images of shape {y.shape} for a model of images of '
                      f'{self.image_shape} and config.sr3.factor = {factor}: it sees '
                      f'[B, {", ".join(map(str, wanted))}].')
    return self._condition(y)

  def direct_conditions(self, params, problem):
    """U y, of observations by the operator and the noise that it was trained with."""
    del params
    # Different objects of one kind are equal if their numbers are.
    kind: Any = jax.tree.structure(problem.operator)
    same = kind == jax.tree.structure(self.model.operator) and all(
            np.shape(one) == np.shape(other) and np.allclose(one, other)
            for one, other in zip(jax.tree.leaves(problem.operator),
                                  jax.tree.leaves(self.model.operator)))
    options = self.config.sr3
    if not same:
      raise UserError(
          f'A model of method sr3 restores what it was trained for, images reduced by '
          f'{options.reduction} with factor {options.factor}: set '
          f'config.restore.operator = {options.reduction!r} and config.restore.factor = '
          f'{options.factor}, or take a fit of cddpm.')
    if not np.isclose(float(problem.noise), options.noise, atol=1e-6):
      raise UserError(
          f'A model of method sr3 with config.sr3.noise = {options.noise} (of pixels in '
          f'[-1, 1]) restores images of that noise, not of {float(problem.noise):g}: set '
          f'config.restore.sigma to {options.noise / 2:g} of the range of your pixels, '
          f'which is {options.noise * 127.5:g} where they go from 0 to 255.')
    return np.asarray(self.condition_of(problem.observation))

  def conditions(self, params, cluster, count, seed):
    """Low images of the fit at full size, [count, H, W, C].

    Args:
      params: the parameters.
      cluster: 0.
      count: how many; above `NUM_LOW` some come more than once, each time with other
        noise to begin from.
      seed: of no effect.
    """
    del cluster, seed
    chosen = np.linspace(0, NUM_LOW - 1, count, dtype=int)
    return np.asarray(self.condition_of(to_host(params.low)[chosen]))

  def denoiser(self, params):
    """Of conditions U y, [B, H, W, C], see `condition_of`."""
    return predictions.denoiser(self.path, params.network, self.model.predict, 'noise',
                                self.centring)

  def reference(self, params):
    """There is none.

    Raises:
      UserError: always.
    """
    del params
    raise UserError('config.sample.guidance leads away from images of any cluster, and '
                    'sr3 knows but images of a low one: set it to 1.')
