"""Features of images in which samples are judged; none needs a download.

A `FeatureMap` takes images [n, H, W, C] in [-1, 1] to features, float64 [n, d].
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA

FeatureMap = Callable[[np.ndarray], np.ndarray]

# The random encoder: halvings end at so many pixels a side, or fewer.
SMALLEST = 4


def pca(images) -> FeatureMap:
  """The principal components of more than the average variance, at least one.

  What lies outside of their span, such as noise of single pixels, is not seen.

  Args:
    images: that they are fitted to, [n, H, W, C], n > 1.

  Returns:
    A `FeatureMap`.

  Source: Kaiser (1960) for the number of components.
  """
  flat = _flat(images)
  variances = PCA(svd_solver='full').fit(flat).explained_variance_
  count = max(1, int(np.sum(variances > variances.mean())))
  model = PCA(count, svd_solver='full').fit(flat)
  return lambda x: model.transform(_flat(x))


class RandomEncoder(nn.Module):
  """Random 3x3 convolutions with ReLU, halving the image, and a random projection.

  Attributes:
    num_features: d.
    channels: of the first convolution; the others have twice as many.
  """

  num_features: int = 64
  channels: int = 32

  @nn.compact
  def __call__(self, images):
    """Maps images [B, H, W, C] to features [B, d]."""
    convolution = lambda channels, stride: nn.Conv(
        channels, (3, 3), strides=stride, kernel_init=nn.initializers.he_normal())
    h = nn.relu(convolution(self.channels, 1)(images))
    while min(h.shape[1:3]) > SMALLEST:
      h = nn.relu(convolution(2 * self.channels, 2)(h))
    return nn.Dense(self.num_features)(h.reshape(len(h), -1))


def random_encoder(image_shape, seed: int = 0) -> FeatureMap:
  """64 features of a convolutional network with random weights, never trained.

  Args:
    image_shape: (H, W, C).
    seed: of the weights; figures compare under one seed only.

  Returns:
    A `FeatureMap`.

  Source: Naeem et al. (2020), section 5.1: 64 features of a random network tell
    distributions apart where those of ImageNet mislead.
  """
  network = RandomEncoder()
  variables = network.init(jax.random.key(seed), jnp.zeros((1, *image_shape)))
  return in_batches(lambda x: network.apply(variables, x))


def trained_encoder(network, variables) -> FeatureMap:
  """The hidden layer of the inference network, which the fit has trained.

  It was trained on all images, those held out included, and is part of the model that
  is judged: it sees what tells clusters apart, less what is wrong with an image.

  Args:
    network: a Flax module that sows 'features'.
    variables: fitted ones.

  Returns:
    A `FeatureMap`.
  """
  def features(x):
    _, sown = network.apply(variables, x, mutable='intermediates')
    return sown['intermediates']['features'][0]

  return in_batches(features)


def scaled(features: FeatureMap, images) -> FeatureMap:
  """The features in units in which the images' variances sum to 1.

  A Frechet distance of 1 is then as large as the images' total variance.

  Args:
    features: to be scaled.
    images: real ones, [n, H, W, C].

  Returns:
    A `FeatureMap`.
  """
  total = np.var(features(images), axis=0, dtype=np.float64).sum()
  scale = 1 / np.sqrt(total) if total > 0 else 1.
  return lambda x: scale * features(x)


def _flat(images):
  return np.asarray(images, np.float64).reshape(len(images), -1)


def in_batches(function, size: int = 256) -> FeatureMap:
  """A `FeatureMap` by a JAX function, applied in batches of one size."""
  compiled = jax.jit(function)

  def apply(images):
    images = np.asarray(images, np.float32)
    rows = np.arange(-(-len(images) // size) * size).reshape(-1, size)
    found = [compiled(images[np.minimum(batch, len(images) - 1)]) for batch in rows]
    return np.concatenate(found)[:len(images)].astype(np.float64)

  return apply
