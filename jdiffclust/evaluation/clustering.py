"""Agreement of clusters with labels, and how sure soft assignments are.

Labels are for judging a finished fit only; nothing here feeds back into one.
"""

import numpy as np
from scipy import optimize
from scipy import special
from sklearn import metrics


def contingency(labels, clusters, num_clusters=None):
  """Counts the images of every label in every cluster.

  Args:
    labels: [N] integers from 0, the class of each image.
    clusters: [N] integers from 0, the cluster of each image.
    num_clusters: Q, to keep empty last clusters; None takes the largest seen.

  Returns:
    [L, Q] integer counts, where L - 1 is the largest label.

  Raises:
    ValueError: the inputs are empty, unequal in length, not integers, negative,
      or name a cluster beyond Q.
  """
  labels, clusters = np.asarray(labels), np.asarray(clusters)
  if labels.ndim != 1 or labels.shape != clusters.shape or not labels.size:
    raise ValueError(
        'labels and clusters must be two [N] arrays with N > 0, got shapes '
        f'{labels.shape} and {clusters.shape}')
  if labels.dtype.kind not in 'iub' or clusters.dtype.kind not in 'iub':
    raise ValueError(
        f'labels and clusters must be integers, got {labels.dtype} and '
        f'{clusters.dtype}')
  if num_clusters is None:
    num_clusters = int(clusters.max()) + 1
  if min(labels.min(), clusters.min()) < 0 or clusters.max() >= num_clusters:
    raise ValueError(f'labels must be >= 0 and clusters in [0, {num_clusters})')
  table = np.zeros((int(labels.max()) + 1, num_clusters), np.int64)
  np.add.at(table, (labels.astype(int), clusters.astype(int)), 1)
  return table


def match_clusters(labels, clusters, num_clusters=None):
  """Pairs clusters and labels one to one so that most images agree.

  Args:
    labels: [N] integers from 0.
    clusters: [N] integers from 0.
    num_clusters: Q, as in `contingency`.

  Returns:
    [Q] integers: the label of each cluster, -1 where no label was left for it.

  Raises:
    ValueError: as `contingency`.

  Source: Kuhn, 'The Hungarian method for the assignment problem' (1955).
  """
  table = contingency(labels, clusters, num_clusters)
  rows, columns = optimize.linear_sum_assignment(table, maximize=True)
  matched = np.full(table.shape[1], -1)
  matched[columns] = rows
  return matched


def accuracy(labels, clusters):
  """Share of images whose cluster is paired with their label.

  With more clusters than labels, the images of unpaired clusters count as wrong.

  Args:
    labels: [N] integers from 0.
    clusters: [N] integers from 0.

  Returns:
    A float in (0, 1]: ACC under the best one-to-one pairing.

  Raises:
    ValueError: as `contingency`.

  Source: Kuhn (1955), as `match_clusters`.
  """
  matched = match_clusters(labels, clusters)
  return float(np.mean(matched[np.asarray(clusters, int)] == np.asarray(labels)))


def normalized_mutual_info(labels, clusters):
  """Mutual information over the mean of the two entropies.

  Args:
    labels: [N] integers.
    clusters: [N] integers.

  Returns:
    A float in [0, 1].

  Raises:
    ValueError: the inputs differ in length.

  Source: Vinh, Epps and Bailey, JMLR 11 (2010), NMI_sum; from scikit-learn.
  """
  return float(metrics.normalized_mutual_info_score(labels, clusters))


def adjusted_rand(labels, clusters):
  """Rand index corrected for chance.

  Args:
    labels: [N] integers.
    clusters: [N] integers.

  Returns:
    A float in [-0.5, 1]: about 0 for random clusters, 1 for equal partitions.

  Raises:
    ValueError: the inputs differ in length.

  Source: Hubert and Arabie, J. of Classification 2 (1985); from scikit-learn.
  """
  return float(metrics.adjusted_rand_score(labels, clusters))


def clustering_scores(labels, clusters):
  """All three scores at once.

  Args:
    labels: [N] integers from 0, or None when the images have no labels.
    clusters: [N] integers from 0.

  Returns:
    {'acc', 'nmi', 'ari'}: floats, all None without labels.

  Raises:
    ValueError: as `contingency`.

  Source: `accuracy`, `normalized_mutual_info` and `adjusted_rand`.
  """
  scores = {
      'acc': accuracy, 'nmi': normalized_mutual_info, 'ari': adjusted_rand}
  return {
      name: None if labels is None else score(labels, clusters)
      for name, score in scores.items()}


def entropy(responsibilities):
  """Uncertainty of each image's soft assignment.

  Args:
    responsibilities: [N, Q] in [0, 1], rows summing to 1.

  Returns:
    [N] floats in nats, from 0 (certain) to log Q (no idea).

  Source: Shannon (1948), with 0 log 0 = 0.
  """
  return special.entr(np.asarray(responsibilities, np.float64)).sum(axis=-1)


def cluster_table(responsibilities):
  """Size and certainty of every cluster, as the report lists them.

  Args:
    responsibilities: [N, Q] in [0, 1], rows summing to 1, N > 0.

  Returns:
    Q dicts: cluster, size (images whose largest responsibility it is), share of
    N, mean_certainty (mean of those responsibilities, None if empty) and
    effective_size (the cluster's responsibilities summed over all N images).
  """
  responsibilities = np.asarray(responsibilities, np.float64)
  clusters, certainty = responsibilities.argmax(1), responsibilities.max(1)
  num_clusters = responsibilities.shape[1]
  sizes = np.bincount(clusters, minlength=num_clusters)
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
