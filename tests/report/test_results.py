"""What the results pick for the figures."""

import numpy as np

from jdiffclust.evaluation.sample_quality import Quality
from jdiffclust.report import results


def test_closest_samples_come_with_their_own_neighbours():
  """By rising distance within each cluster; images, neighbours and distances agree."""
  rng = np.random.default_rng(0)
  distances = rng.uniform(size=(3, 7))
  nearest = rng.integers(0, 20, (3, 7))
  images = distances[..., None, None, None] * np.ones((2, 2, 1))
  images_at = lambda indices: 1. * np.asarray(indices)[:, None, None, None]
  found = results.closest(Quality({}, images, nearest, distances), images_at, 4)
  for q, (generated, training, closest) in enumerate(zip(*found)):
    rows = sorted(range(7), key=lambda n: distances[q, n])[:4]
    np.testing.assert_array_equal(closest, distances[q, rows])
    np.testing.assert_array_equal(generated[:, 0, 0, 0], distances[q, rows])
    np.testing.assert_array_equal(training[:, 0, 0, 0], nearest[q, rows])
