"""A denoiser of vectors, such as latents: images of one pixel with many channels."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdiffclust.networks.layers import silu
from jdiffclust.networks.unet import TimeEmbedding


class VectorDenoiser(nn.Module):
  """eta_theta(x_t, t, mu) by residual layers that see the step and the cluster's mean.

  Attributes:
    width: of the layers.
    depth: residual blocks of two layers each.
  """

  width: int = 256
  depth: int = 3

  @nn.compact
  def __call__(self, x_t, t, mu, dropout_keys=None) -> jax.Array:
    """Predicts n_t.

    Args:
      x_t: noisy vectors, float32 [B, 1, 1, J].
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      mu: the vectors' cluster means, float32 [B, 1, 1, J].
      dropout_keys: not used, since there is no dropout.

    Returns:
      float32 [B, 1, 1, J], zero before training.
    """
    del dropout_keys
    given = TimeEmbedding(self.width // 4, 'float32')(t)[:, None, None]
    h = nn.Dense(self.width)(jnp.concatenate([x_t, mu], axis=-1))
    for _ in range(self.depth):
      inner = nn.Dense(self.width)(silu(nn.LayerNorm()(h)))
      scale, shift = jnp.split(nn.Dense(2 * self.width)(given), 2, axis=-1)
      inner = silu(nn.LayerNorm()(inner) * (1 + scale) + shift)
      h = h + nn.Dense(self.width, kernel_init=nn.initializers.zeros)(inner)
    return nn.Dense(x_t.shape[-1], kernel_init=nn.initializers.zeros)(
        silu(nn.LayerNorm()(h)))
