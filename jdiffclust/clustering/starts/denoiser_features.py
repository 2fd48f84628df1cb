"""Images as an unconditional denoiser sees them: a space for neighbourhoods.

Which maps leave an image's content alone must be known to compare images by views. A
denoiser learns from the images themselves what they have in common, without being told:
a DDPM of all of them, in the notation of `jdiffclust.clustering.bound.terms` that of one
cluster with mean zero, is trained for a while, and an image is described by the last
feature maps h_theta of its U-Net at a low noise level t,

  h(x_0) = 1/S sum_s h_theta(x_t(x_0, eps_s), t).

The eps_s come in pairs of opposite sign and are the same for all images, so that h is a
function of the image alone, and what is left of the noise is much the same in two images
that are compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdiffclust.batch import in_blocks
from jdiffclust.diffusion import forward
from jdiffclust.diffusion.process import as_float32, process_from_config
from jdiffclust.errors import UserError
from jdiffclust.networks.unet import SharedTrunkUNet, unet_from_config
from jdiffclust.state import average, make_optimizer
from jdiffclust.streams import stream

PAIRS = 4  # antithetic pairs of eps
NOISE = .05  # the noise level t of the features, a share of T
BATCH = 128  # images described at once


def unconditional(config) -> SharedTrunkUNet:
  """The denoiser of the `network` section, the one whose trunk sees no cluster."""
  return SharedTrunkUNet(unet_from_config(config.network).body)


def train(network: nn.Module, images: np.ndarray, config) -> Any:
  """Trains a denoiser without clusters, with 'uniform' weighting and no dropout.

  Args:
    network: such as `unconditional`.
    images: [n, H, W, C] in [-1, 1].
    config: its seed, start.denoiser_steps, and the sections network, diffusion and
      m_step (batch_size, ema_decay and the optimiser's options).

  Returns:
    The running average of the variables of the network.

  Raises:
    UserError: the weights are not finite.
  """
  options = copy.deepcopy(config.m_step)
  options.learning_rate_fall = 0.  # there are no EM iterations
  optimizer = make_optimizer(options)
  key = stream(config.seed, 'init_denoiser')
  shape = (options.batch_size, *images.shape[1:])

  def loss(variables, process, x0, t, eps):
    mu = jnp.zeros_like(x0)
    eta: Any = network.apply(variables, forward.noised(process, x0, t, mu, eps), t, mu)
    return jnp.mean((forward.noise_target(process, x0, t, mu, eps) - eta)**2)

  def step(state, number, images, process, key):
    variables, ema, memory = state
    of_rows, of_t, of_eps = jax.random.split(jax.random.fold_in(key, number), 3)
    rows = jax.random.randint(of_rows, shape[:1], 0, len(images))
    t = jax.random.randint(of_t, shape[:1], 1, process.num_steps + 1)
    gradient = jax.grad(loss)(variables, process, images[rows], t,
                              jax.random.normal(of_eps, shape))
    updates, memory = optimizer.update(gradient, memory, variables)
    variables = optax.apply_updates(variables, updates)
    return variables, average(ema, variables, number, options.ema_decay), memory

  one = jnp.zeros((1, *images.shape[1:]))
  variables = jax.jit(network.init)(key, one, jnp.ones(1, jnp.int32), one)
  state = variables, jax.tree.map(jnp.copy, variables), optimizer.init(variables)
  process = as_float32(process_from_config(config.diffusion))
  images = jnp.asarray(images, jnp.float32)
  # Not a scan: on CPUs, gradients of convolutions are many times slower inside of one.
  step = jax.jit(step, donate_argnums=0)
  for number in range(config.start.denoiser_steps):
    state = step(state, np.int32(number), images, process, key)
  ema = state[1]
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ema)):
    raise UserError(
        'The denoiser of config.start.spaces diverged: try a '
        f'config.m_step.learning_rate below {options.learning_rate:g}.')
  return ema


def describe(network: nn.Module, variables, noise: float, image_shape, config,
             draw: int = 0) -> Callable:
  """h of the module's text.

  Args:
    network: as of `train`.
    variables: of `train`.
    noise: the noise level t as a share of T.
    image_shape: (H, W, C).
    config: as of `train`.
    draw: another number draws other eps.

  Returns:
    A function from images [n, H, W, C] to features, float32 [n, H, W, F], F the channels
    of the U-Net's first level.
  """
  process = as_float32(process_from_config(config.diffusion))
  t = np.full(BATCH, max(1, round(noise * process.num_steps)))
  key = jax.random.fold_in(stream(config.seed, 'init_denoiser_noise'), draw)
  eps = jax.random.normal(key, (PAIRS, 1, *image_shape))
  eps = jnp.concatenate([eps, -eps])

  @jax.jit
  def of_batch(variables, process, images, t, eps):
    def of(eps):
      x_t = forward.noised(process, images, t, jnp.zeros_like(images),
                           jnp.broadcast_to(eps, images.shape))
      return network.apply(variables, x_t, t, method='shared')[0].astype(jnp.float32)
    return jnp.mean(jax.lax.map(of, eps), axis=0)

  def features(images):
    of_rows = lambda rows: of_batch(
        variables, process, jnp.asarray(images[rows], jnp.float32), t, eps)
    return in_blocks(of_rows, len(images), BATCH)

  return features
