"""The denoising network eps_theta(x_t, t, z) of ClusterDDPM.

The U-Net of `jdiffclust.networks.unet`; the latent z enters every residual block by
adaptive group normalisation, after the step.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from jdiffclust.networks.encoder import Encoder
from jdiffclust.networks.layers import Context
from jdiffclust.networks.unet import Output, UNetBody, body_from_config, embed


class ContextUNet(nn.Module):
  """eps_theta by a U-Net whose blocks see z.

  Attributes:
    body: the U-Net.
  """

  body: UNetBody

  @nn.compact
  def __call__(self, x_t, t, z, visible=None, dropout_keys=None) -> jax.Array:
    """Predicts the noise.

    Args:
      x_t: noisy images, float32 [B, H, W, C].
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      z: the images' latents, float32 [B, J].
      visible: 1 where the network sees z; 0 where z is hidden, so that it predicts as a
        U-Net without z; booleans or numbers [B]. None: visible everywhere.
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.

    Returns:
      float32 [B, H, W, C].
    """
    body = self.body
    context = Context(embed(z, body.channels, body.dtype), visible)
    h = body(x_t, t, dropout_keys, context)
    return Output(x_t.shape[-1], body.num_groups, body.dtype)(h)


def clusterddpm_networks(config) -> tuple[Encoder, ContextUNet]:
  """Makes the networks of ClusterDDPM, not yet initialised.

  Args:
    config: its sections network and latent are used.

  Returns:
    The encoder and the denoiser.
  """
  body = body_from_config(config.network)
  return Encoder(body, config.latent.size), ContextUNet(body)
