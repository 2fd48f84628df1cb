"""Fits as small as they can be: options, networks, results without pictures."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jdiffclust import outputs
from jdiffclust.clustering import method

# 60 digits in 3 clusters: 2 EM iterations of 6 gradient steps and 2 E-step calls.
TINY = tuple(f'--config.{option}' for option in (
    'num_devices=1', 'num_clusters=3', 'data.max_images=60', 'network.channels=8',
    'network.channel_multipliers=(1,)', 'network.blocks_per_level=1',
    'network.middle_attention=False', 'diffusion.num_steps=20',
    'diffusion.beta_end=.01', 'em.max_iterations=2',
    'start.kind=gaussian_mixture', 'start.restarts=1', 'em.posterior=monte_carlo',
    'e_step.num_draws=4', 'e_step.batch_size=32', 'm_step.num_steps=6',
    'm_step.first_num_steps=0', 'm_step.batch_size=16', 'log.every_steps=2',
    'checkpoint.every_steps=4', 'checkpoint.every_seconds=0', 'sample.num_images=2',
    'quality.num_images=12', 'quality.splits=2'))

# ClusterDDPM. Without views in the E-step no draw decides tau. So few iterations of the
# mixture that scikit-learn, which looks whether it has settled, does not stop before JAX.
CLUSTER_DDPM = ('method=cluster_ddpm', 'latent.size=4', 'posterior.anchor=0.',
                'posterior.num_views=0', 'latent.mixture_iterations=20')
# CDDPM on its latents from the second iteration on.
LATENT_CDDPM = ('method=latent_cddpm', 'latent.size=4', 'latent.iterations=1',
                'em.posterior=amortised', 'posterior.channels=8', 'em.max_iterations=3',
                'em.partition_tolerance=0.', 'em.bound_tolerance=0.')


class TinyDenoiser(nn.Module):
  """Two convolutions in the place of the U-Net: compiled in no time."""

  @nn.compact
  def __call__(self, x, t, mu, dropout_keys=None):
    """The noise in x, [B, H, W, C]."""
    del dropout_keys
    hidden = nn.Conv(8, (3, 3))(jnp.concatenate([x, mu], axis=-1))
    time = nn.Dense(8)(t.astype(jnp.float32)[:, None] / 20)
    return nn.Conv(x.shape[-1], (3, 3))(nn.silu(hidden + time[:, None, None]))


class TinyEncoder(nn.Module):
  """Two linear maps in the place of the encoder."""

  size: int

  @nn.compact
  def __call__(self, images, dropout_keys=None):
    """Mean and log variance of z, [B, J]."""
    del dropout_keys
    flat = images.reshape(len(images), -1)
    return nn.Dense(self.size)(flat), nn.Dense(self.size)(flat) - 3


class TinyContext(TinyDenoiser):
  """The tiny denoiser, which sees a picture of z beside x."""

  @nn.compact
  def __call__(self, x, t, z, visible=None, dropout_keys=None):
    """The noise in x, [B, H, W, C]."""
    if visible is not None:
      z = jnp.where(visible[:, None], z, 0)
    picture = nn.Dense(x[0].size)(z).reshape(x.shape)
    return TinyDenoiser()(x, t, picture, dropout_keys)


def tiny_networks(config):
  """In the place of `clusterddpm_networks`."""
  return TinyEncoder(config.latent.size), TinyContext()


def no_samples(fitted, count, reporter, name):
  """In the place of `outputs.generate`, which takes seconds."""
  del reporter, name
  return np.zeros((fitted.config.num_clusters, count, *fitted.method.image_shape),
                  np.float32)


TINY_NETWORKS = method.Networks(denoiser=lambda _: TinyDenoiser(), latent=tiny_networks)
# Results without figures, which take seconds too; and without generated images.
NO_FIGURES = outputs.Parts(draw_figures=lambda *args: {})
NO_PICTURES = NO_FIGURES._replace(generate=no_samples)


build = functools.partial(method.build, networks=TINY_NETWORKS)
