"""The denoising U-Net eta_theta(x_t, t, mu) of CDDPM.

The architecture of Ho, Jain and Abbeel (2020), with the adaptive group normalisation
of Dhariwal and Nichol (2021). The cluster's mean mu enters as an image, concatenated
to x_t.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdiffclust.networks.layers import (
    Downsample, GroupNorm, ResidualBlock, SelfAttention, Upsample, time_features)


class UNet(nn.Module):
  """eta_theta: predicts the noise n_t of x_t, given the step and the cluster mean.

  Attributes:
    channels: channels at the first level.
    channel_multipliers: channels per level in multiples of `channels`; each further
      level halves the image.
    blocks_per_level: residual blocks per level on the way down, one more on the way up.
    attention_levels: levels with self-attention; 0 is full resolution.
    middle_attention: self-attention at the bottleneck.
    num_heads: attention heads.
    num_groups: groups of the group normalisations.
    dropout: dropout rate.
    dtype: compute type, 'float32' or 'bfloat16'; parameters are float32.
  """

  channels: int = 32
  channel_multipliers: tuple[int, ...] = (1, 2)
  blocks_per_level: int = 2
  attention_levels: tuple[int, ...] = ()
  middle_attention: bool = True
  num_heads: int = 4
  num_groups: int = 8
  dropout: float = 0.
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x_t, t, mu, dropout_keys=None) -> jax.Array:
    """Predicts n_t.

    Args:
      x_t: noisy images, float32 [B, H, W, C]; H and W divisible by 2^(levels - 1).
      t: steps, integers [B] in 1..T.
      mu: the images' cluster means, float32 [B, H, W, C].
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.

    Returns:
      float32 [B, H, W, C].
    """
    dtype = jnp.dtype(self.dtype)

    def block(h, multiple):
      return ResidualBlock(self.channels * multiple, self.num_groups, self.dropout,
                           dtype)(h, embedding, dropout_keys)

    def attention(h):
      return SelfAttention(self.num_heads, self.num_groups, dtype)(h)

    width = 4 * self.channels
    embedding = time_features(t, self.channels + self.channels % 2).astype(dtype)
    embedding = nn.Dense(width, dtype=dtype)(embedding)
    embedding = nn.Dense(width, dtype=dtype)(nn.silu(embedding))

    h = jnp.concatenate([x_t, mu], axis=-1).astype(dtype)
    h = nn.Conv(self.channels, (3, 3), dtype=dtype)(h)
    skips = [h]
    last = len(self.channel_multipliers) - 1
    for level, multiple in enumerate(self.channel_multipliers):
      for _ in range(self.blocks_per_level):
        h = block(h, multiple)
        if level in self.attention_levels:
          h = attention(h)
        skips.append(h)
      if level < last:
        h = Downsample(dtype)(h)
        skips.append(h)

    h = block(h, self.channel_multipliers[-1])
    if self.middle_attention:
      h = attention(h)
    h = block(h, self.channel_multipliers[-1])

    for level, multiple in reversed(list(enumerate(self.channel_multipliers))):
      for _ in range(self.blocks_per_level + 1):
        h = block(jnp.concatenate([h, skips.pop()], axis=-1), multiple)
        if level in self.attention_levels:
          h = attention(h)
      if level > 0:
        h = Upsample(dtype)(h)

    h = nn.silu(GroupNorm(self.num_groups, dtype)(h))
    h = nn.Conv(x_t.shape[-1], (3, 3), dtype=dtype, kernel_init=nn.initializers.zeros)(h)
    return h.astype(jnp.float32)


def unet_from_config(network) -> UNet:
  """The U-Net that the `network` section of a config describes."""
  return UNet(**{name: tuple(value) if isinstance(value, (list, tuple)) else value
                 for name, value in network.items()})
