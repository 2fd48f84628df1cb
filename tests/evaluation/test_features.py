"""Feature maps against linear algebra and the networks they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.evaluation import features
from jdiffclust.networks.inference import InferenceNetwork


@pytest.fixture(scope='module')
def images():
  """[300, 8, 8, 1], more than a batch."""
  rng = np.random.default_rng(0)
  return (rng.normal(size=(300, 3)) @ rng.normal(size=(3, 64))
          + .1 * rng.normal(size=(300, 64))).reshape(300, 8, 8, 1).astype(np.float32)


def test_pca_keeps_what_exceeds_the_average_variance(images):
  """Three directions; their coordinates are those of the eigenvectors."""
  found = features.pca(images)(images)
  flat = images.reshape(300, -1).astype(np.float64)
  flat -= flat.mean(axis=0)
  values, vectors = np.linalg.eigh(flat.T @ flat)
  assert found.shape == (300, 3) == (300, np.sum(values > values.mean()))
  expected = (flat @ vectors)[:, ::-1][:, :3]
  np.testing.assert_allclose(abs(found), abs(expected), atol=1e-4)


def test_random_encoder_is_one_function_of_an_image(images):
  """The same in any batch and at any time; another seed is another function."""
  encoder = features.random_encoder((8, 8, 1))
  found = encoder(images)
  assert found.shape == (300, 64) and found.dtype == np.float64
  again = features.random_encoder((8, 8, 1))
  np.testing.assert_allclose(again(images[257:260]), found[257:260], rtol=1e-4, atol=1e-5)
  other = features.random_encoder((8, 8, 1), seed=1)(images[:5])
  assert abs(other - found[:5]).max() > .1
  # Neither constant nor linear.
  assert found.std(axis=0).min() > 1e-3
  assert abs(encoder(-images[:9]) + encoder(images[:9])).max() > .1


@pytest.mark.parametrize('shape', [(8, 8, 1), (28, 28, 1), (5, 16, 3), (2, 2, 1)])
def test_random_encoder_of_any_shape(shape):
  """64 features."""
  assert features.random_encoder(shape)(np.zeros((3, *shape))).shape == (3, 64)


def test_trained_encoder_is_what_the_last_layer_sees(images):
  """The logits are a linear function of the features."""
  network = InferenceNetwork(5, 8)
  variables = network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  last = {'kernel': jax.random.normal(jax.random.key(1), (32, 5)), 'bias': jnp.ones(5)}
  variables = {'params': variables['params'] | {'Dense_1': last}}
  found = features.trained_encoder(network, variables)(images)
  assert found.shape == (300, 32) and found.min() == 0
  np.testing.assert_allclose(
      found @ np.asarray(last['kernel']) + 1, network.apply(variables, images),
      rtol=1e-3, atol=1e-3)


def test_scaled_features_have_unit_total_variance(images):
  """Of the images given; constant ones stay finite."""
  pixels = lambda x: x.reshape(len(x), -1).astype(np.float64)
  found = features.scaled(pixels, images)
  assert found(images).var(axis=0).sum() == pytest.approx(1)
  np.testing.assert_allclose(found(images[:4]) / found(images[:1])[0, 0],
                             pixels(images[:4]) / pixels(images[:1])[0, 0], rtol=1e-6)
  constant = np.ones_like(images)
  assert np.isfinite(features.scaled(pixels, constant)(constant)).all()
