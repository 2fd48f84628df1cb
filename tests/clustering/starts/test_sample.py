"""Which images a start is fitted to, and what others are given."""

import numpy as np
import pytest

from jdiffclust.clustering.starts import partitions, sample as lib
from jdiffclust.config import default_config
from jdiffclust.data.dataset import array_source


@pytest.mark.parametrize('most, shape, wanted', [
    (100000, (28, 28, 1), 100000),  # 314 MB
    (100000, (32, 64, 3), 87381),  # 2^31 / (4 * 6144)
    (100000, (512, 512, 3), 20000), (300, (512, 512, 3), 300)])
def test_as_many_as_memory_holds(most, shape, wanted):
  """2 GiB of floats, or 20,000 images; never more than are asked for."""
  assert lib.most_images(most, shape) == wanted


def test_images_are_known_by_their_bytes():
  """Of equal ones the last; -0 is another byte than 0."""
  images = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  images[4] = images[1]
  rows = partitions.rows_by_key(partitions.content_keys(images))
  new = np.concatenate([images[::-1], images[:1] + 1, np.zeros((1, 3), np.float32)])
  assert partitions.owners_of(new, rows).tolist() == [4, 3, 2, 4, 0, -1, -1]
  assert partitions.owners_of(images[:, ::-1][:2], rows).tolist() == [-1, -1]


def test_images_with_embeddings_are_known_by_both():
  """Equal images with other embeddings are others, as is one without its embedding."""
  images = np.zeros((3, 4), np.float32)
  vectors = np.eye(3, dtype=np.float32)
  rows = partitions.rows_by_key(partitions.content_keys(images, vectors))
  assert partitions.owners_of(images, rows, vectors[::-1]).tolist() == [2, 1, 0]
  assert partitions.owners_of(images, rows).tolist() == [-1, -1, -1]
  assert partitions.owners_of(images + 1, rows, vectors).tolist() == [-1, -1, -1]


def test_embeddings_are_those_of_the_sample(monkeypatch):
  """Where memory, not max_images, says how many images there are."""
  monkeypatch.setattr(lib, 'FEWEST', 7)
  monkeypatch.setattr(lib, 'MEMORY', 0)
  numbers = np.arange(40, dtype=np.uint8)
  source = array_source(np.broadcast_to(numbers[:, None, None], (40, 4, 4)),
                        default_config().data, embeddings=np.stack([numbers] * 2, 1))
  vectors = lib.sample_embeddings(source, 30, 0)
  assert vectors.shape == (7, 2)
  np.testing.assert_array_equal(lib.fit_sample(source, 30, 0),
                                lib.flat_images(source, vectors[:, 0].astype(int)))
