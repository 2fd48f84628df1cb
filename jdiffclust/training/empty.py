"""Emptied clusters, and what becomes of them."""

from __future__ import annotations

import numpy as np

from jdiffclust.evaluation.scores import members

MIN_SIZE = 1.  # images


def reseed_empty(responsibilities: np.ndarray, bound: np.ndarray,
                 min_size: float = MIN_SIZE) -> tuple[np.ndarray, list[int]]:
  """Gives emptied clusters the images that the mixture explains worst.

  Args:
    responsibilities: [N, Q].
    bound: the bound of each image in nats, [N].
    min_size: a cluster is empty if both the sum of its responsibilities and the number
      of images that it is the most probable one of are smaller.

  Returns:
    New responsibilities and the emptied clusters. Each gets a tenth of an average
    cluster, at least 2 images and `min_size`, no image twice, none of an emptied
    cluster, and none whose leaving would empty another one.
  """
  sizes = responsibilities.sum(axis=0, dtype=np.float64)
  num_images, num_clusters = responsibilities.shape
  largest = np.maximum(sizes, members(responsibilities))
  empty = [int(q) for q in np.flatnonzero(largest < min_size)]
  share = max(2, int(np.ceil(min_size)), num_images // (10 * num_clusters))
  alive = np.setdiff1d(np.arange(num_clusters), empty)
  result = responsibilities.copy()
  worst_first = iter(np.argsort(bound, kind='stable'))
  for q in empty:
    given = 0
    for i in worst_first:
      left = sizes[alive] - responsibilities[i, alive]
      owned = responsibilities[i].argmax() in alive
      if not owned or (left < max(min_size, 1)).any():
        continue
      sizes[alive] = left
      result[i] = np.eye(num_clusters, dtype=result.dtype)[q]
      given += 1
      if given == share:
        break
  return result, empty
