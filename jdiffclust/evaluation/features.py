"""Features of images by which samples are judged; none needs a download.

A `FeatureMap` takes images [n, H, W, C] in [-1, 1] to features, float64 [n, d].
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA

from jdiffclust.batch import in_blocks

FeatureMap = Callable[[np.ndarray], np.ndarray]

# The random encoder halves images until their shorter side has at most this many pixels.
SMALLEST = 4


def pca(images) -> FeatureMap:
  """The principal components whose variance exceeds the average one, at least one.

  Differences outside of their span, such as noise of single pixels, are not seen.

  Args:
    images: [n, H, W, C], n > 1; the components are fitted to them.

  Returns:
    A `FeatureMap`.

  Source: Kaiser (1960) for the number of components.
  """
  model = principal_components(_flat(images))
  return lambda x: model.transform(_flat(x))


def principal_components(sample: np.ndarray, components: int = 0) -> PCA:
  """Finds the leading principal components of a sample.

  Args:
    sample: [n, D], n > 1.
    components: the number of components, cut to n - 1 and D; 0: those whose variance
      exceeds the average one (Kaiser, 1960), at least one.

  Returns:
    The fitted model of scikit-learn.
  """
  most = min(len(sample) - 1, sample.shape[1])
  if not components:
    variances = PCA(most, svd_solver='full').fit(sample).explained_variance_
    components = max(1, int(np.sum(variances > variances.mean())))
  return PCA(min(components, most), svd_solver='full').fit(sample)


class RandomEncoder(nn.Module):
  """Random 3x3 convolutions with ReLU, halving the image, and a random projection.

  Attributes:
    num_features: d.
    channels: of the first convolution; the further ones have twice as many.
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
    seed: of the weights; measures under different seeds cannot be compared.

  Returns:
    A `FeatureMap`.

  Source: Naeem et al. (2020), section 5.1: 64 features of a random network tell
    distributions apart where those of ImageNet mislead.
  """
  network = RandomEncoder()
  variables = jax.jit(network.init)(jax.random.key(seed), jnp.zeros((1, *image_shape)))
  return in_batches(functools.partial(_encode, network, variables))


def trained_encoder(network, variables) -> FeatureMap:
  """The hidden layer of the inference network, which the fit has trained.

  It is part of the model that is judged, and was trained on all images, even on those
  that a comparison holds out. It sees what distinguishes clusters better than it sees
  what is wrong with an image.

  Args:
    network: a Flax module that sows 'features'.
    variables: of the network, fitted.

  Returns:
    A `FeatureMap`.
  """
  return in_batches(functools.partial(_hidden, network, variables))


# Weights are arguments: networks of one kind share a program.
@functools.partial(jax.jit, static_argnums=0)
def _encode(network, variables, x):
  return network.apply(variables, x)


@functools.partial(jax.jit, static_argnums=0)
def _hidden(network, variables, x):
  _, sown = network.apply(variables, x, mutable='intermediates')
  return sown['intermediates']['features'][0]


def scaled(features: FeatureMap, images) -> FeatureMap:
  """Scales features so that their variances over some images sum to 1.

  A Frechet distance of 1 is then as large as the total variance of these images.

  Args:
    features: the features to scale.
    images: real images, [n, H, W, C].

  Returns:
    A `FeatureMap`.
  """
  total = np.var(features(images), axis=0, dtype=np.float64).sum()
  scale = 1 / np.sqrt(total) if total > 0 else 1.
  return lambda x: scale * features(x)


def _flat(images):
  return np.asarray(images, np.float64).reshape(len(images), -1)


def in_batches(function, size: int = 256) -> FeatureMap:
  """Makes a JAX function a `FeatureMap`.

  Args:
    function: from images [B, H, W, C] to features [B, d], compiled.
    size: B, images at once.

  Returns:
    A `FeatureMap`.
  """
  def apply(images):
    images = np.asarray(images, np.float32)
    return in_blocks(lambda rows: function(images[rows]), len(images),
                     size).astype(np.float64)

  return apply
