"""A start by its name, fitted with the settings of a config."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from jdiffclust.clustering.starts.partitions import Assign
from jdiffclust.registry import COMPARING_STARTS, RECOGNISED, STARTS
from jdiffclust.streams import integer_seed


def fit_start(name: str, sample: np.ndarray, image_shape, config,
              advance: Callable[[int], None] | None = None,
              vectors: np.ndarray | None = None) -> Assign:
  """Fits a start to images.

  Args:
    name: one of `registry.STARTS`.
    sample: images to fit to, [n, D] in [-1, 1].
    image_shape: (H, W, C), of product D.
    config: its num_clusters and seed, and what the start reads.
    advance: called with the percents of the work that a start of several parts has
      done; they need not add up to 100.
    vectors: embeddings of the images, [n, E]; None: they have none.

  Returns:
    `Assign`.
  """
  # On one thread, since sums over several differ in the last bits from run to run.
  with threadpool_limits(1):
    make = STARTS[name]
    if advance is not None and name == RECOGNISED:
      make = functools.partial(make, advance=advance)
    if vectors is not None and name in COMPARING_STARTS:
      make = functools.partial(make, vectors=vectors)
    found = make(sample, image_shape, config, integer_seed(config.seed, 'init'))
    if vectors is None or name in COMPARING_STARTS:
      return found
    return lambda images, indices, own: found(images, indices)
