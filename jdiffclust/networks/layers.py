"""Layers of the denoising U-Net. Images are [B, H, W, C], keys one per example."""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdiffclust.networks.compilation import computed_once, summed_once
from jdiffclust.networks.convolution import conv3x3, doubled_conv3x3, pointwise

zeros = nn.initializers.zeros


def time_features(t: jax.Array, size: int, longest_period: float = 10000.) -> jax.Array:
  """Sinusoidal features of the step (Vaswani et al., 2017; Ho et al., 2020).

  Args:
    t: steps [B], integers or floats.
    size: number of features, even.
    longest_period: the period of the slowest wave over 2 pi, in steps.

  Returns:
    float32 [B, size]: sines, then cosines, of frequencies from 1 to 1/longest_period.
  """
  half = size // 2
  exponent = jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1)
  angles = t.astype(jnp.float32)[:, None] * longest_period ** -exponent[None, :]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


@jax.custom_jvp
def silu(x) -> jax.Array:
  """x / (1 + exp(-x)), of which a training step keeps one array: the slope."""
  return x * jax.nn.sigmoid(x)


@silu.defjvp
def _silu_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  share = jax.nn.sigmoid(x)
  return x * share, share * (1 + x * (1 - share)) * dx


class GroupNorm(nn.Module):
  """Group normalisation (Wu and He, 2018) that can take its scale and shift per example.

  Moments are taken per channel before they are pooled over a group's channels: the same
  numbers as Flax's module, some three times faster on CPUs (docs/benchmarks.md).

  Attributes:
    num_groups: groups of channels; divides the channels.
    dtype: type of the result; moments are float32.
    learned: learn a scale and a shift per channel.
    epsilon: added to the variance.
  """

  num_groups: int
  dtype: Any
  learned: bool = True
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x, scale=1., shift=0.):
    """Normalises x [B, H, W, C], times scale plus shift, [B, C] or numbers."""
    batch, _, _, channels = x.shape
    x = x.astype(jnp.float32)

    def over_groups(moments):  # [B, C] -> [B, C], the mean over each channel's group
      grouped = moments.reshape(batch, self.num_groups, -1)
      pooled = jnp.mean(grouped, axis=2, keepdims=True)
      return jnp.broadcast_to(pooled, grouped.shape).reshape(batch, channels)

    mean = over_groups(jnp.mean(x, axis=(1, 2)))
    variance = over_groups(jnp.mean(x * x, axis=(1, 2))) - mean**2
    factor = jax.lax.rsqrt(jnp.maximum(variance, 0.) + self.epsilon)
    if self.learned:
      own_scale = self.param('scale', nn.initializers.ones, (channels,))
      own_shift = self.param('bias', zeros, (channels,))
      scale, shift = scale * own_scale[None], shift + own_shift[None]
    factor = factor * scale
    factor, offset = computed_once(factor), computed_once(shift - mean * factor)
    return (x * factor[:, None, None] + offset[:, None, None]).astype(self.dtype)


class ExampleDropout(nn.Module):
  """Dropout whose masks depend on each example's key only.

  So a minibatch gives the same result, no matter how it is split over devices.

  Attributes:
    rate: share of the features set to zero.
  """

  rate: float

  @nn.compact
  def __call__(self, x, keys):
    """Drops features of x [B, H, W, C] by typed keys [B]; `keys` None: identity."""
    if keys is None or self.rate == 0:
      return x
    layer = zlib.crc32('/'.join(self.path).encode())

    def mask(key):
      return jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - self.rate,
                                  x.shape[1:])

    return jnp.where(jax.vmap(mask)(keys), x / (1 - self.rate), 0).astype(x.dtype)


class Context(NamedTuple):
  """What the blocks of a U-Net see beside the step.

  Attributes:
    embedding: [B, E].
    visible: 1 where the network sees the embedding, 0 where it is hidden; booleans or
      numbers [B]. None: visible everywhere.
  """

  embedding: jax.Array
  visible: jax.Array | None = None


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions with adaptive group normalisation from the embeddings.

  The step sets a scale s_t and a shift b_t, and the context sets s_z and b_z after them:
  h = (1 + s_z) ((1 + s_t) norm(h) + b_t) + b_z (Dhariwal and Nichol, 2021; Preechakul et
  al., 2022). With neither step nor context the normalisation learns a scale and a shift
  of its own.

  Attributes:
    channels: output channels.
    num_groups: groups of the normalisation.
    dropout: dropout rate before the second convolution.
    dtype: compute type.
  """

  channels: int
  num_groups: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, embedding=None, dropout_keys=None, context=None):
    """Maps x [B, H, W, C] to [B, H, W, channels].

    Args:
      x: [B, H, W, C].
      embedding: of the step, [B, E], or None.
      dropout_keys: typed keys [B], or None: no dropout.
      context: a `Context`, or None.

    Returns:
      [B, H, W, channels].
    """
    conv = lambda **kw: conv3x3(self.channels, dtype=self.dtype, **kw)

    def modulation(given, visible=None, name=None):  # scale and shift, [B, channels]
      numbers = nn.Dense(2 * self.channels, dtype=self.dtype, kernel_init=zeros,
                         name=name)(silu(given)).astype(jnp.float32)
      if visible is not None:
        numbers = numbers * visible.astype(jnp.float32)[:, None]
      scale, shift = jnp.split(numbers, 2, axis=-1)
      return 1 + scale, shift

    x = summed_once(x)
    h = conv()(silu(GroupNorm(self.num_groups, self.dtype)(x)))
    steps = [] if embedding is None else [modulation(embedding)]
    if context is not None:  # named, so that the other layers' names do not depend on it
      steps.append(modulation(*context, name='context'))  # type: ignore[misc]
    scale, shift = functools.reduce(
        lambda first, then: (then[0] * first[0], then[0] * first[1] + then[1]),
        steps or [(1., 0.)])
    h = GroupNorm(self.num_groups, self.dtype, learned=not steps)(h, scale, shift)
    h = ExampleDropout(self.dropout)(silu(h), dropout_keys)
    h = conv(kernel_init=zeros)(h)
    if x.shape[-1] != self.channels:
      x = pointwise(self.channels, dtype=self.dtype)(x)
    return x + h


class SelfAttention(nn.Module):
  """Multi-head self-attention over the pixels of a feature map, with a skip.

  Attributes:
    num_heads: heads; divides the channels.
    num_groups: groups of the normalisation.
    dtype: compute type; the softmax is float32.
  """

  num_heads: int
  num_groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    """Maps x [B, H, W, C] to [B, H, W, C]."""
    batch, height, width, channels = x.shape
    x = summed_once(x)
    h = GroupNorm(self.num_groups, self.dtype)(x)
    h = h.reshape(batch, height * width, channels)
    qkv = pointwise(3 * channels, dtype=self.dtype)(h)
    qkv = qkv.reshape(batch, height * width, self.num_heads, -1)
    query, key, value = jnp.split(qkv, 3, axis=-1)
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key) / query.shape[-1] ** .5
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(h.dtype)
    h = jnp.einsum('bhqk,bkhd->bqhd', weights, value).reshape(x.shape)
    return x + pointwise(channels, dtype=self.dtype, kernel_init=zeros)(h)


class Downsample(nn.Module):
  """Halves height and width by a strided 3x3 convolution."""

  dtype: Any

  @nn.compact
  def __call__(self, x):
    """Maps x [B, H, W, C] to [B, H / 2, W / 2, C]."""
    return conv3x3(x.shape[-1], strides=2, dtype=self.dtype)(x)


class Upsample(nn.Module):
  """Doubles height and width by repetition, then a 3x3 convolution."""

  dtype: Any

  @nn.compact
  def __call__(self, x):
    """Maps x [B, H, W, C] to [B, 2 H, 2 W, C]."""
    return doubled_conv3x3(x.shape[-1], dtype=self.dtype)(x)
