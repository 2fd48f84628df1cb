"""The recognition network: from an image to the cell that it belongs to, and features."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdiffclust.networks.convolution import conv3x3

# The shorter side from which the image is halved, after the first and second stage.
HALVED_FROM = (12, 7)
MOMENTUM = .9  # of the running means and variances of the normalisations


class RecognitionNetwork(nn.Module):
  """A small convolutional classifier whose last layer sees no places, but their mean.

  Attributes:
    num_cells: K, of the answer.
    channels: of the first stage; the second has twice, the third, whose mean over the
      image are the features, four times as many.
    dropout: the share of the features hidden from the answer in training.
  """

  num_cells: int
  channels: int = 32
  dropout: float = .3

  @nn.compact
  def __call__(self, images, dropout_key=None) -> tuple[jax.Array, jax.Array]:
    """Maps images to logits and features.

    Args:
      images: [B, H, W, C].
      dropout_key: a typed key; with one, the network trains: normalisation is over the
        batch, whose means and variances the collection `batch_stats` follows.

    Returns:
      [B, K] and [B, 4 channels].
    """
    trains = dropout_key is not None

    def layer(h, channels):
      h = conv3x3(channels, use_bias=False)(h)
      return nn.relu(nn.BatchNorm(use_running_average=not trains, momentum=MOMENTUM)(h))

    h = images
    for stage, least in enumerate(HALVED_FROM):
      for _ in range(2):
        h = layer(h, self.channels << stage)
      if min(h.shape[1:3]) >= least:
        h = halved(h)
    features = jnp.mean(layer(h, 4 * self.channels), axis=(1, 2))
    seen = features
    if trains and self.dropout:
      kept = jax.random.bernoulli(dropout_key, 1 - self.dropout, features.shape)
      seen = jnp.where(kept, features / (1 - self.dropout), 0)
    return nn.Dense(self.num_cells)(seen), features


def halved(images) -> jax.Array:
  """The largest of each 2x2 pixels, of equal ones the first in reading order.

  As Flax's `max_pool`, with its gradient to the bit, which on a CPU takes XLA fifteen
  times as long from there.

  Args:
    images: [B, H, W, C]; the last row and column of an odd side are left out.

  Returns:
    [B, H / 2, W / 2, C], rounded down.
  """
  height, width = (side // 2 * 2 for side in images.shape[1:3])
  first = lambda a, b: jnp.where(a >= b, a, b)
  rows = [first(images[:, k:height:2, :width:2], images[:, k:height:2, 1:width:2])
          for k in (0, 1)]
  return first(*rows)
