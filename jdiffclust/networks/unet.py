"""The denoising networks eta_theta(x_t, t, mu) of CDDPM.

The architecture of Ho, Jain and Abbeel (2020), with the adaptive group normalisation
of Dhariwal and Nichol (2021). The cluster's mean mu enters as an image, in one of two
ways (`network.conditioning`):

  'concatenated'  eta = U-Net([x_t, mu], t): the whole network runs for every cluster.
  'shared_trunk'  eta = head(U-Net(x_t - m_t sqrt(abar_t) mu, t), mu, t). The shift by
                  which mu enters the marginal of x_t is known, so nothing is lost by
                  removing it, and what is left is the same for all clusters that share
                  (t, eps): the U-Net runs once, the head once per cluster.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdiffclust.networks.convolution import conv3x3
from jdiffclust.networks.layers import (
    Downsample, ExampleDropout, GroupNorm, ResidualBlock, SelfAttention, Upsample,
    silu, time_features)


def embed(features, channels: int, dtype: str) -> jax.Array:
  """Maps features by two dense layers, which become part of the calling module.

  Args:
    features: [B, F].
    channels: a quarter of the numbers that each layer gives.
    dtype: compute type.

  Returns:
    [B, 4 channels].
  """
  hidden = nn.Dense(4 * channels, dtype=dtype)(features)
  return nn.Dense(4 * channels, dtype=dtype)(silu(hidden))


class TimeEmbedding(nn.Module):
  """A two-layer network on the sinusoidal features of the step.

  Attributes:
    channels: the U-Net's channels; the embedding has four times as many numbers.
    dtype: compute type.
  """

  channels: int
  dtype: str

  @nn.compact
  def __call__(self, t) -> jax.Array:
    """Maps steps [B] to [B, 4 channels]."""
    features = time_features(t, self.channels + self.channels % 2).astype(self.dtype)
    return embed(features, self.channels, self.dtype)


class UNetBody(nn.Module):
  """The U-Net from an image to features of its size, before the output's convolution.

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
  def __call__(self, image, t, dropout_keys=None, context=None) -> jax.Array:
    """Computes the features.

    Args:
      image: float32 [B, H, W, C]; H and W divisible by 2^(levels - 1).
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.
      context: a `Context` that every block sees, or None.

    Returns:
      [B, H, W, channels of the first level] of `dtype`.
    """
    given = TimeEmbedding(self.channels, self.dtype)(t), dropout_keys, context
    block, attention = block_and_attention(self, *given)
    h, skips = first_half(self, image, *given)
    for level, multiple in reversed(list(enumerate(self.channel_multipliers))):
      for _ in range(self.blocks_per_level + 1):
        h = block(jnp.concatenate([h, skips.pop()], axis=-1), multiple)
        if level in self.attention_levels:
          h = attention(h)
      if level > 0:
        h = Upsample(jnp.dtype(self.dtype))(h)
    return h


def block_and_attention(body: UNetBody, embedding=None, dropout_keys=None, context=None):
  """Makes functions that add a residual block or self-attention to the calling module.

  Each call of one of these functions adds a new layer with parameters of its own.

  Args:
    body: a U-Net, for its options.
    embedding: of the steps, [B, E], or None.
    dropout_keys: typed keys [B], or None.
    context: a `Context`, or None.

  Returns:
    Two functions: (h [B, H, W, C], multiple) -> [B, H, W, multiple * body.channels] by a
    residual block, and h -> [B, H, W, C] by self-attention.
  """
  dtype = jnp.dtype(body.dtype)

  def block(h, multiple):
    return ResidualBlock(body.channels * multiple, body.num_groups, body.dropout,
                         dtype)(h, embedding, dropout_keys, context)

  def attention(h):
    return SelfAttention(body.num_heads, body.num_groups, dtype)(h)

  return block, attention


def first_half(body: UNetBody, image, *given) -> tuple[jax.Array, list[jax.Array]]:
  """Adds a U-Net's way down and its middle to the calling module, and applies them.

  Args:
    body: a U-Net, for its options.
    image: float32 [B, H, W, C]; H and W divisible by 2^(levels - 1).
    *given: embedding, dropout_keys and context, as in `block_and_attention`.

  Returns:
    The features [B, H / 2^(levels - 1), W / 2^(levels - 1), channels of the last level]
    of the body's dtype, and a list of the features on the way down, for the skip
    connections of the way up.
  """
  block, attention = block_and_attention(body, *given)
  dtype = jnp.dtype(body.dtype)
  h = conv3x3(body.channels, dtype=dtype)(image.astype(dtype))
  skips = [h]
  last = len(body.channel_multipliers) - 1
  for level, multiple in enumerate(body.channel_multipliers):
    for _ in range(body.blocks_per_level):
      h = block(h, multiple)
      if level in body.attention_levels:
        h = attention(h)
      skips.append(h)
    if level < last:
      h = Downsample(dtype)(h)
      skips.append(h)
  h = block(h, body.channel_multipliers[-1])
  if body.middle_attention:
    h = attention(h)
  return block(h, body.channel_multipliers[-1]), skips


class Output(nn.Module):
  """From features to the predicted noise; zero before training.

  Attributes:
    image_channels: C.
    num_groups: groups of the normalisation.
    dtype: compute type.
  """

  image_channels: int
  num_groups: int
  dtype: str

  @nn.compact
  def __call__(self, features) -> jax.Array:
    """Maps features [B, H, W, F] to float32 [B, H, W, C]."""
    dtype = jnp.dtype(self.dtype)
    h = silu(GroupNorm(self.num_groups, dtype)(features))
    h = conv3x3(self.image_channels, dtype=dtype, kernel_init=nn.initializers.zeros)(h)
    return h.astype(jnp.float32)


class ConcatenatedUNet(nn.Module):
  """eta_theta by a U-Net that sees [x_t, mu].

  Attributes:
    body: the U-Net.
  """

  body: UNetBody

  @nn.compact
  def __call__(self, x_t, t, mu, dropout_keys=None) -> jax.Array:
    """Predicts n_t.

    Args:
      x_t: noisy images, float32 [B, H, W, C].
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      mu: the images' cluster means, float32 [B, H, W, C].
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.

    Returns:
      float32 [B, H, W, C].
    """
    h = self.body(jnp.concatenate([x_t, mu], axis=-1), t, dropout_keys)
    return Output(x_t.shape[-1], self.body.num_groups, self.body.dtype)(h)


class ClusterHead(nn.Module):
  """The layers of a shared trunk that see the cluster.

  The cluster's mean enters a residual block at full resolution: added to the features
  before their normalisation, and as a factor after it, pixel by pixel. A block at half
  the resolution follows, where the cluster is weighed against the whole of the image,
  and another one at full resolution. The step and the mean, pooled over its pixels, set
  the scales and shifts of the normalisations. The trunk has applied its first
  convolution to the features already.

  Attributes:
    channels: of the features.
    num_groups: groups of the group normalisations.
    dropout: dropout rate.
    dtype: compute type.
  """

  channels: int
  num_groups: int
  dropout: float
  dtype: str

  @nn.compact
  def __call__(self, features, t, mu, dropout_keys=None) -> jax.Array:
    """Predicts n_t, or what it follows from.

    With one mean for all images, the layers that see the mean alone run once.

    Args:
      features: the two arrays [B, H, W, F] of `Trunk`.
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      mu: cluster means, float32 [B, H, W, C], or one for all images, [1, H, W, C].
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.

    Returns:
      float32 [B, H, W, C].
    """
    dtype, channels = jnp.dtype(self.dtype), self.channels
    conv = lambda channels=channels, **kw: conv3x3(channels, dtype=dtype, **kw)
    norm = lambda **kw: GroupNorm(self.num_groups, dtype, **kw)
    zeros = nn.initializers.zeros
    skip, hidden = features
    seen = conv()(mu.astype(dtype))
    mean = silu(conv()(silu(seen)))
    embedding = TimeEmbedding(channels, self.dtype)(t) + nn.Dense(
        4 * channels, dtype=dtype)(jnp.mean(mean, axis=(1, 2)))

    def modulation():  # scale and shift, [B, channels]
      numbers = nn.Dense(2 * channels, dtype=dtype, kernel_init=zeros)(
          silu(embedding))
      scale, shift = jnp.split(numbers.astype(jnp.float32), 2, axis=-1)
      return 1 + scale, shift

    def end(h):  # of a residual block
      h = ExampleDropout(self.dropout)(silu(h), dropout_keys)
      return conv(kernel_init=zeros)(h)

    h = norm(learned=False)(hidden + seen, *modulation())
    h = skip + end(h * (1 + conv(kernel_init=zeros)(mean)))
    low = (conv(2 * channels, strides=2)(h) + conv(2 * channels, strides=2)(mean))
    low = ResidualBlock(2 * channels, self.num_groups, self.dropout, dtype)(
        low, embedding, dropout_keys)
    low = nn.Dense(channels, dtype=dtype)(low)
    h += jnp.repeat(jnp.repeat(low, 2, axis=1), 2, axis=2)[:, :h.shape[1], :h.shape[2]]
    inner = conv()(silu(norm()(h))) + mean
    h += end(norm(learned=False)(inner, *modulation()))
    return Output(mu.shape[-1], self.num_groups, self.dtype)(h)


class SmallHead(nn.Module):
  """The layers of a shared trunk that see the cluster, fewer of them.

  They make up a residual block. The trunk has applied its first convolution to the
  features already; the head adds a convolution of the cluster's mean to the result. The
  step and the mean, pooled over its pixels, set the scale and shift of the normalisation.

  Attributes:
    channels: of the features.
    num_groups: groups of the group normalisations.
    dropout: dropout rate.
    dtype: compute type.
  """

  channels: int
  num_groups: int
  dropout: float
  dtype: str

  @nn.compact
  def __call__(self, features, t, mu, dropout_keys=None) -> jax.Array:
    """Predicts n_t.

    With one mean for all images, the layers that see the mean alone run once, which
    halves the work.

    Args:
      features: the two arrays [B, H, W, F] of `Trunk`.
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      mu: cluster means, float32 [B, H, W, C], or one for all images, [1, H, W, C].
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.

    Returns:
      float32 [B, H, W, C].
    """
    dtype = jnp.dtype(self.dtype)
    conv = lambda **kw: conv3x3(self.channels, dtype=dtype, **kw)
    skip, hidden = features
    seen = conv()(mu.astype(dtype))
    pooled = nn.Dense(4 * self.channels, dtype=dtype)(
        jnp.mean(silu(conv()(silu(seen))), axis=(1, 2)))
    embedding = TimeEmbedding(self.channels, self.dtype)(t) + pooled
    scale, shift = jnp.split(
        nn.Dense(2 * self.channels, dtype=dtype, kernel_init=nn.initializers.zeros)(
            silu(embedding)).astype(jnp.float32), 2, axis=-1)
    h = GroupNorm(self.num_groups, dtype, learned=False)(hidden + seen, 1 + scale, shift)
    h = ExampleDropout(self.dropout)(silu(h), dropout_keys)
    h = skip + conv(kernel_init=nn.initializers.zeros)(h)
    return Output(mu.shape[-1], self.num_groups, self.dtype)(h)


class Trunk(nn.Module):
  """The layers of a shared trunk that do not see the cluster.

  Attributes:
    body: the U-Net.
  """

  body: UNetBody

  @nn.compact
  def __call__(self, centred, t, dropout_keys=None) -> tuple[jax.Array, jax.Array]:
    """Computes what the head needs.

    Args:
      centred: x_t - m_t sqrt(abar_t) mu, float32 [B, H, W, C].
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.

    Returns:
      The U-Net's features, and the first convolution of the head's block on them,
      [B, H, W, F] each.
    """
    body, dtype = self.body, jnp.dtype(self.body.dtype)
    h = body(centred, t, dropout_keys)
    normalised = silu(GroupNorm(body.num_groups, dtype)(h))
    return h, conv3x3(h.shape[-1], dtype=dtype)(normalised)


class SharedTrunkUNet(nn.Module):
  """eta_theta by a U-Net on the centred observation and a head that sees mu.

  Attributes:
    body: the U-Net.
    small: whether the head is a `SmallHead`.
  """

  body: UNetBody
  small: bool = False

  def setup(self):
    """Names the two parts."""
    body = self.body
    self.trunk = Trunk(body)
    head = SmallHead if self.small else ClusterHead
    self.head = head(body.channels * body.channel_multipliers[0], body.num_groups,
                     body.dropout, body.dtype)

  def shared(self, centred, t, dropout_keys=None) -> tuple[jax.Array, jax.Array]:
    """Computes what all clusters share.

    Args:
      centred: x_t - m_t sqrt(abar_t) mu, float32 [B, H, W, C].
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      dropout_keys: typed keys [B], or None.

    Returns:
      Two arrays [B, H, W, F].
    """
    return self.trunk(centred, t, dropout_keys)

  def of_cluster(self, features, t, mu, dropout_keys=None) -> jax.Array:
    """Predicts n_t of clusters.

    Args:
      features: what `shared` returns.
      t: steps [B] in [1, T]: integers, or floats from samplers, also between two steps.
      mu: cluster means, float32 [B, H, W, C], or one for all images, [1, H, W, C].
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.

    Returns:
      float32 [B, H, W, C].
    """
    return self.head(features, t, mu, dropout_keys)

  def __call__(self, centred, t, mu, dropout_keys=None) -> jax.Array:
    """Predicts n_t by both parts; arguments as in `shared` and `of_cluster`.

    Returns:
      float32 [B, H, W, C].
    """
    return self.of_cluster(self.shared(centred, t, dropout_keys), t, mu, dropout_keys)


def body_from_config(network) -> UNetBody:
  """The U-Net that the `network` section of a config describes, without its output."""
  options: dict[str, Any] = {
      name: tuple(value) if isinstance(value, (list, tuple)) else value
      for name, value in network.items()
      if name not in ('conditioning', 'head', 'prediction')}
  return UNetBody(**options)


def unet_from_config(network) -> ConcatenatedUNet | SharedTrunkUNet:
  """The denoiser of CDDPM that the `network` section of a config describes."""
  body = body_from_config(network)
  if network.conditioning == 'shared_trunk':
    return SharedTrunkUNet(body, network.head == 'small')
  return ConcatenatedUNet(body)
