"""A start by its name, fitted with the settings of a config."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from jdiffclust.clustering.starts.partitions import Assign
from jdiffclust.registry import STARTS
from jdiffclust.streams import integer_seed


def fit_start(name: str, sample: np.ndarray, image_shape, config) -> Assign:
  """Fits a start to images.

  Args:
    name: one of `registry.STARTS`.
    sample: images to fit to, [n, D] in [-1, 1].
    image_shape: (H, W, C), of product D.
    config: its num_clusters and seed, and what the start reads.

  Returns:
    `Assign`.
  """
  # On one thread, since sums over several differ in the last bits from run to run.
  with threadpool_limits(1):
    return STARTS[name](sample, image_shape, config, integer_seed(config.seed, 'init'))
