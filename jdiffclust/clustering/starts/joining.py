"""Cells that are joined until as many are left as there shall be clusters.

Spectral cuts ask for the first Q eigenvectors of a graph. Where it falls into more parts
than that, any Q of their indicators are as good as any others, and parts are split or
joined by chance. To cut finely and to join what is close again does without them.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from jdiffclust.clustering.starts.neighbours import indicator_matrix

FAINT = 1e-9  # of the largest weight: what nearness counts beside weights


def weights_between(cells: np.ndarray, graph) -> np.ndarray:
  """The weight of all edges from each cell to each, [K, K].

  Args:
    cells: cell numbers [n] in 0..K - 1.
    graph: symmetric weights, sparse [n, n].
  """
  members = indicator_matrix(cells, cells.max() + 1)
  return (members.T @ (graph @ members)).toarray()


def joined(cells: np.ndarray, graph, num_clusters: int,
           features: np.ndarray | None = None) -> np.ndarray:
  """Joins the two cells between whose images the mean weight is largest, and so on.

  Args:
    cells: cell numbers [n] in 0..K - 1, none of them empty.
    graph: symmetric weights, sparse [n, n].
    num_clusters: Q.
    features: of the images, [n, D]: where no weights are left, the cells are joined whose
      means by these are nearest; None: any.

  Returns:
    The cluster in 0..min(K, Q) - 1 of each cell, int [K].

  Source: average linkage (Sokal and Michener, 1958), of the graph's weights.
  """
  between, sizes = weights_between(cells, graph), np.bincount(cells).astype(float)
  if features is not None:
    means = (indicator_matrix(cells, len(sizes)).T @ features) / sizes[:, None]
    away = cdist(means, means)
    closeness = FAINT * graph.max() * (1 - away / np.maximum(away.max(), 1e-12))
    between = between + closeness * np.outer(sizes, sizes)
  owners = np.arange(len(sizes))
  alive = np.ones(len(sizes), bool)
  for _ in range(len(sizes) - num_clusters):
    mean = between / np.outer(sizes, sizes)
    apart = np.outer(alive, alive) & ~np.eye(len(sizes), dtype=bool)
    one, other = np.unravel_index(np.argmax(np.where(apart, mean, -1)), mean.shape)
    between[one] += between[other]
    between[:, one] += between[:, other]
    sizes[one] += sizes[other]
    alive[other] = False
    owners[owners == other] = one
  return np.unique(owners, return_inverse=True)[1]
