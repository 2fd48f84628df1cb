"""Agreement of clusters with labels, and certainty of soft assignments.

Labels serve to judge a finished fit only; nothing here feeds back into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special
from sklearn import metrics


RELIABILITY_EDGES = (0., .5, .7, .9, .99, 1.)


def contingency(labels: ArrayLike, clusters: ArrayLike,
                num_clusters: int | None = None) -> np.ndarray:
  """Counts the images of every label in every cluster.

  Args:
    labels: the class of each image, integers from 0, [N].
    clusters: the cluster of each image, integers from 0, [N].
    num_clusters: Q, which keeps empty last clusters; None: the largest cluster plus 1.

  Returns:
    Counts, int64 [L, Q]; L - 1 is the largest label.

  Raises:
    ValueError: the arguments are empty, differ in length, are not integers, are
      negative, or a cluster is Q or more.
  """
  labels, clusters = np.asarray(labels), np.asarray(clusters)
  if labels.ndim != 1 or labels.shape != clusters.shape or not labels.size:
    raise ValueError(
        f'labels of shape {labels.shape} and clusters of shape {clusters.shape}: both '
        'must be [N] of the same N > 0')
  if labels.dtype.kind not in 'iub' or clusters.dtype.kind not in 'iub':
    raise ValueError(
        f'labels of type {labels.dtype} and clusters of type {clusters.dtype}: both '
        'must be integers; convert them')
  if num_clusters is None:
    num_clusters = int(clusters.max()) + 1
  if min(labels.min(), clusters.min()) < 0 or clusters.max() >= num_clusters:
    raise ValueError(
        f'labels from {labels.min()} and clusters from {clusters.min()} to '
        f'{clusters.max()}: labels must be >= 0 (leave out images without one), and '
        f'clusters 0 to {num_clusters - 1}')
  table = np.zeros((int(labels.max()) + 1, num_clusters), np.int64)
  np.add.at(table, (labels.astype(int), clusters.astype(int)), 1)
  return table


def match_clusters(labels: ArrayLike, clusters: ArrayLike,
                   num_clusters: int | None = None) -> np.ndarray:
  """Pairs clusters and labels one to one so that most images agree.

  Args:
    labels: integers from 0, [N].
    clusters: integers from 0, [N].
    num_clusters: Q, as in `contingency`.

  Returns:
    The label of each cluster, int [Q]; -1 where no label was left for it.

  Raises:
    ValueError: as in `contingency`.

  Source: Kuhn, 'The Hungarian method for the assignment problem' (1955).
  """
  table = contingency(labels, clusters, num_clusters)
  rows, columns = optimize.linear_sum_assignment(table, maximize=True)
  matched = np.full(table.shape[1], -1)
  matched[columns] = rows
  return matched


def accuracy(labels: ArrayLike, clusters: ArrayLike) -> float:
  """Share of the images whose cluster is paired with their label (ACC).

  With more clusters than labels, the images of unpaired clusters count as wrong.

  Args:
    labels: integers from 0, [N].
    clusters: integers from 0, [N].

  Returns:
    A number in (0, 1], under the pairing of `match_clusters`.

  Raises:
    ValueError: as in `contingency`.

  Source: Kuhn (1955), as in `match_clusters`.
  """
  matched = match_clusters(labels, clusters)
  return float(np.mean(matched[np.asarray(clusters, int)] == np.asarray(labels)))


def normalized_mutual_info(labels: ArrayLike, clusters: ArrayLike) -> float:
  """Mutual information over the mean of the two entropies (NMI).

  Args:
    labels: integers, [N].
    clusters: integers, [N].

  Returns:
    A number in [0, 1]: 0 for independent partitions, 1 for equal ones.

  Raises:
    ValueError: the arguments differ in length.

  Source: Vinh, Epps and Bailey, JMLR 11 (2010), NMI_sum; from scikit-learn.
  """
  return float(metrics.normalized_mutual_info_score(labels, clusters))


def adjusted_rand(labels: ArrayLike, clusters: ArrayLike) -> float:
  """Rand index corrected for chance (ARI).

  Args:
    labels: integers, [N].
    clusters: integers, [N].

  Returns:
    A number in [-0.5, 1]: about 0 for random clusters, 1 for equal partitions.

  Raises:
    ValueError: the arguments differ in length.

  Source: Hubert and Arabie, J. of Classification 2 (1985); from scikit-learn.
  """
  return float(metrics.adjusted_rand_score(labels, clusters))


def clustering_scores(labels: ArrayLike | None,
                      clusters: ArrayLike) -> dict[str, float | None]:
  """Computes all three scores at once.

  Args:
    labels: integers from 0, [N]; None: the images have no labels.
    clusters: integers from 0, [N].

  Returns:
    {'acc', 'nmi', 'ari'}: numbers, all None without labels.

  Raises:
    ValueError: as in `contingency`.

  Source: `accuracy`, `normalized_mutual_info` and `adjusted_rand`.
  """
  scores = {
      'acc': accuracy, 'nmi': normalized_mutual_info, 'ari': adjusted_rand}
  return {
      name: None if labels is None else score(labels, clusters)
      for name, score in scores.items()}


def reliability(labels: ArrayLike, responsibilities: ArrayLike,
                edges: Sequence[float] = RELIABILITY_EDGES) -> list[dict[str, Any]]:
  """How often images of some probability are right.

  Args:
    labels: integers, [N]; those below 0 are unknown and left out.
    responsibilities: [N, Q] in [0, 1], rows summing to 1.
    edges: rising; of two neighbours, the lower one belongs to the range between them, and
      so does the last one.

  Returns:
    A dict for each range that has images: low, high, num_images, expected (the mean of
    their largest responsibility) and right (the share whose label is the one that
    `match_clusters` pairs with their cluster).

  Raises:
    ValueError: no label is known.

  Source: DeGroot and Fienberg, 'The comparison and evaluation of forecasters' (1983).
  """
  labels, responsibilities = np.asarray(labels), np.asarray(responsibilities, np.float64)
  known = labels >= 0
  labels, responsibilities = labels[known], responsibilities[known]
  clusters, largest = responsibilities.argmax(1), responsibilities.max(1)
  matched = match_clusters(labels, clusters, responsibilities.shape[1])
  right = matched[clusters] == labels
  places = np.minimum(np.searchsorted(edges, largest, side='right'), len(edges) - 1)
  return [
      {'low': edges[place - 1], 'high': edges[place], 'num_images': int(own.sum()),
       'expected': float(largest[own].mean()), 'right': float(right[own].mean())}
      for place in range(1, len(edges)) for own in [places == place] if own.any()]


def entropy(responsibilities: ArrayLike) -> np.ndarray:
  """Uncertainty of each image's soft assignment.

  Args:
    responsibilities: [N, Q] in [0, 1], rows summing to 1; or one row, [Q].

  Returns:
    Nats, float64 [N], from 0 (certain) to log Q (all clusters equally likely); of one
    row, a number.

  Source: Shannon (1948), with 0 log 0 = 0.
  """
  return special.entr(np.asarray(responsibilities, np.float64)).sum(axis=-1)


def members(responsibilities: ArrayLike) -> np.ndarray:
  """How many images are in each cluster, the most probable one of each; int [Q]."""
  return np.bincount(np.argmax(responsibilities, axis=1),
                     minlength=np.shape(responsibilities)[1])


def cluster_table(responsibilities: ArrayLike) -> list[dict[str, Any]]:
  """Size and certainty of every cluster, as the report lists them.

  Args:
    responsibilities: [N, Q] in [0, 1], rows summing to 1, N > 0.

  Returns:
    A dict for each of the Q clusters: cluster (its number), size (the images for which
    its responsibility is the largest), share (size over N), mean_certainty (the mean of
    its responsibility over these images, None if there are none), and effective_size
    (the sum of its responsibility over all N images).
  """
  responsibilities = np.asarray(responsibilities, np.float64)
  clusters, certainty = responsibilities.argmax(1), responsibilities.max(1)
  num_clusters = responsibilities.shape[1]
  sizes = members(responsibilities)
  sums = np.bincount(clusters, weights=certainty, minlength=num_clusters)
  effective = responsibilities.sum(0)
  return [
      {
          'cluster': cluster,
          'size': int(size),
          'share': float(size / len(responsibilities)),
          'mean_certainty': float(sums[cluster] / size) if size else None,
          'effective_size': float(effective[cluster]),
      }
      for cluster, size in enumerate(sizes)]
