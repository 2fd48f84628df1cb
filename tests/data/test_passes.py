"""Passes over all images, against NumPy."""

import jax.numpy as jnp
import numpy as np

from jdiffclust.batch import Batch
from jdiffclust.data.passes import weighted_means


class Rows:
  """Images in batches of three, the last of which repeats an image."""

  def __init__(self, images):
    """Of images [n, H, W, C]."""
    self._images = images

  def ordered(self, indices, batch_size):
    """As a pipeline's."""
    for begin in range(0, len(indices), batch_size):
      rows = indices[begin:begin + batch_size]
      valid, rows = len(rows), np.resize(rows, batch_size)
      yield Batch(jnp.asarray(self._images[rows]), jnp.asarray(rows, jnp.int32)), valid


def test_weighted_means_of_several_batches():
  """A row of tau is of an image's place among those asked for; without an image, or
  nearly so, a cluster has the mean of all."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(9, 2, 3, 1)).astype(np.float32)
  asked = np.array([8, 1, 5, 0, 7, 2, 3])
  tau = rng.dirichlet(np.ones(3), 7).astype(np.float32)
  tau = np.concatenate([tau, np.full((7, 1), 1e-4, np.float32)], axis=1)
  found = weighted_means(Rows(images), asked, jnp.asarray(tau), 3)
  sums, sizes = np.einsum('iq,ihwc->qhwc', tau, images[asked]), tau.sum(axis=0)
  expected = sums / sizes[:, None, None, None]
  expected[3] = sums.sum(axis=0) / sizes.sum()
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
