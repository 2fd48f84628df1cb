"""The inference network: from an image to its responsibilities."""

from __future__ import annotations

import math

import flax.linen as nn
import jax

from jdiffclust.networks.convolution import conv3x3
from jdiffclust.networks.layers import GroupNorm

SMALLEST = 4  # pixels a side where halving ends


class InferenceNetwork(nn.Module):
  """Logits of q_phi(z | x): a small convolutional classifier.

  Attributes:
    num_clusters: Q.
    channels: of the first convolution. The further convolutions have twice as many, the
      hidden dense layer four times as many.
    num_groups: groups of the group normalisations.
  """

  num_clusters: int
  channels: int
  num_groups: int = 8

  @nn.compact
  def __call__(self, images) -> jax.Array:
    """Maps images [B, H, W, C] to logits [B, Q], zero before training."""
    def layer(h, channels, stride):
      h = conv3x3(channels, strides=stride, use_bias=False)(h)
      return nn.relu(GroupNorm(self.num_groups, h.dtype)(h))

    h = layer(images, self.channels, 1)
    halvings = max(0, math.ceil(math.log2(min(images.shape[1:3]) / SMALLEST)))
    for _ in range(halvings):
      h = layer(h, 2 * self.channels, 2)
    h = nn.relu(nn.Dense(4 * self.channels)(h.reshape(len(h), -1)))
    self.sow('intermediates', 'features', h)  # for whoever asks, see evaluation.features
    return nn.Dense(self.num_clusters, kernel_init=nn.initializers.zeros)(h)
