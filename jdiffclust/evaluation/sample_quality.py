"""How good generated images are: like real ones, varied, new, and of their cluster.

Everything is measured on three sets of the same number of images: generated ones, real
ones and noise. The real images are halved at random. One half is the reference that all
three sets are compared with; the 'real' set is from the other half. It shows what a
measure gives to perfect samples, and noise shows what it gives to useless ones. Means and
standard deviations are over several random halvings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier

from jdiffclust.data.dataset import snap_to_levels
from jdiffclust.evaluation.features import FeatureMap, scaled
from jdiffclust.evaluation.scores import match_clusters

# What is measured: its unit or range, how to read it, and its definition.
DEFINITIONS = {
    'num_images': 'generated, real and noise images that are compared with the '
                  'reference, as many of each; of all clusters in proportion to pi',
    'real': 'held-out baseline: the half of the real images that is not the reference',
    'noise': 'baseline: independent Gaussian pixels of the mean and standard deviation '
             'that the pixel has over the real images (of the cluster)',
    'frechet': 'squared 2-Wasserstein distance of Gaussians with the features\' means '
               'and covariances, in units of the real images\' total variance; >= 0, '
               'lower is better; biased upwards for few images, so compare with real',
    'precision': 'share of the images that lie within the distance of the k-th neighbour '
                 'of a reference image (Kynkaanniemi et al., 2019); 0 to 1',
    'recall': 'share of the reference images that lie within the distance of the k-th '
              'neighbour of an image (Kynkaanniemi et al., 2019); 0 to 1',
    'density': 'mean number of reference images within whose k-th neighbour\'s distance '
               'an image lies, over k (Naeem et al., 2020); 1 for real images, may '
               'exceed 1',
    'coverage': 'share of the reference images that have an image within the distance '
                'of their k-th neighbour (Naeem et al., 2020); 0 to 1',
    'label_accuracy': 'share of the images that a k-nearest-neighbour classifier on '
                      'pixels, trained on the reference, gives the label matched to '
                      'their cluster (Hungarian method); without labels, their '
                      'cluster. Clusters without a label are left out. (Noise with the '
                      'moments of a cluster mostly looks like it to such a classifier)',
    'classifier_accuracy': 'share of the held-out real images that this classifier '
                           'gives their own label (without labels: their cluster)',
    'nearest_distance': 'median distance to the nearest training image (real ones: to '
                        'the nearest other one), root mean square over pixels of '
                        '[-1, 1]',
    'nearest_ratio': 'that median over the one of the real images; 0 if samples are '
                     'copies, 1 if they are as far from the training images as these '
                     'from each other',
    'near_copies': 'share of the images as near to a training image as the nearest 5% of '
                   'the real images are to another one, or nearer; .05 for new real ones',
    'predicted': 'per cluster, the shares of its generated images that the classifier '
                 'gives each label',
}
# The share of the real images that count as near copies of another one.
NEAR_COPY = .05


class Quality(NamedTuple):
  """What `measure` found.

  Attributes:
    summary: JSON-able, see `measure`.
    images: the generated images, [Q, n, H, W, C].
    nearest: the index of the training image nearest to each, [Q, n].
    distances: between the two, root mean square over pixels, [Q, n].
  """

  summary: dict
  images: np.ndarray
  nearest: np.ndarray
  distances: np.ndarray


# -------------------------------------------------------------------- measures


def frechet_distance(real, generated) -> float:
  """Squared Frechet distance between Gaussians with the moments of two sets of features.

  |m_r - m_g|^2 + tr(S_r + S_g - 2 (S_r^1/2 S_g S_r^1/2)^1/2), m the means and S the
  covariances of the sets. Since these are estimates, it exceeds on average the distance
  between the distributions: by tr(S) (1/n_r + 1/n_g) due to the means, and further due to
  the covariances. The excess grows with d and falls with n, so compare only distances of
  equal n and d.

  Args:
    real: features [n_r, d], n_r > 1.
    generated: features [n_g, d], n_g > 1.

  Returns:
    A float >= 0, in squared units of the features.

  Source: Dowson and Landau (1982); Heusel et al. (2017).
  """
  real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
  root = _symmetric_root(_covariance(real))
  # tr (AB)^1/2 = tr (A^1/2 B A^1/2)^1/2, and the latter is symmetric.
  product = root @ _covariance(generated) @ root
  cross = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0)).sum()
  shift = np.sum((real.mean(axis=0) - generated.mean(axis=0))**2)
  spread = real.var(axis=0, ddof=1).sum() + generated.var(axis=0, ddof=1).sum()
  return float(max(0., shift + spread - 2 * cross))


def _covariance(features):
  return np.atleast_2d(np.cov(features, rowvar=False))


def _symmetric_root(matrix):
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def neighbour_distance(features, k: int) -> np.ndarray:
  """Finds the distance of each row to its k-th nearest other row.

  Args:
    features: [n, d], n > k.
    k: >= 1.

  Returns:
    float64 [n].
  """
  # The row itself is the 0-th: at distance 0, exactly, as `cdist` sums differences.
  return np.partition(cdist(features, features), k, axis=1)[:, k]


def precision_recall(real, generated, k: int) -> tuple[float, float]:
  """Share of generated images in the real manifold, and of real ones in the generated.

  The manifold of a set is the union of balls around its members. Each ball reaches to the
  member's k-th nearest neighbour in the set.

  Args:
    real: features [n_r, d], n_r > k.
    generated: features [n_g, d], n_g > k.
    k: the number of neighbours.

  Returns:
    (precision, recall) in [0, 1].

  Source: Kynkaanniemi et al. (2019), equations 1 and 2.
  """
  distances = cdist(real, generated)
  inside_real = distances <= neighbour_distance(real, k)[:, None]
  inside_generated = distances <= neighbour_distance(generated, k)[None]
  return (float(inside_real.any(axis=0).mean()),
          float(inside_generated.any(axis=1).mean()))


def density_coverage(real, generated, k: int) -> tuple[float, float]:
  """How densely generated images lie among real ones, and how many real ones they reach.

  Around each real image is a ball that reaches to its k-th nearest real neighbour.
  Density is the mean number of balls that contain a generated image, over k. Coverage is
  the share of balls that contain one at least. Unlike precision and recall, both have a
  known expectation for equal distributions: density 1, and coverage
  1 - prod_{j=1..k} (n_r - j) / (n_r + n_g - j).

  Args:
    real: features [n_r, d], n_r > k.
    generated: features [n_g, d].
    k: the number of neighbours.

  Returns:
    (density >= 0, coverage in [0, 1]).

  Source: Naeem et al. (2020), equations 3 and 4, lemma 2.
  """
  inside = cdist(real, generated) <= neighbour_distance(real, k)[:, None]
  return float(inside.sum(axis=0).mean() / k), float(inside.any(axis=1).mean())


def compare(real, generated, k: int) -> dict[str, float]:
  """Computes all measures on features.

  Args:
    real: the reference, [n_r, d], n_r > k.
    generated: what is judged, [n_g, d], n_g > k.
    k: the number of neighbours.

  Returns:
    frechet, precision, recall, density, coverage; see `DEFINITIONS`.
  """
  precision, recall = precision_recall(real, generated, k)
  density, coverage = density_coverage(real, generated, k)
  return {'frechet': frechet_distance(real, generated), 'precision': precision,
          'recall': recall, 'density': density, 'coverage': coverage}


def nearest_training(images, blocks: Iterable[np.ndarray],
                     own=None) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest training image of each image.

  Args:
    images: [n, H, W, C].
    blocks: the training images in their order, in arrays [b, H, W, C].
    own: where an image is itself a training image, the index of that one, which is left
      out of its search; -1 for other images; int [n]. None: none is a training image.

  Returns:
    (distances, indices): root mean squares over pixels and channels, float64 [n], and
    int [n]. Of several training images at the same distance (to float32), the first.
  """
  images = _flat(images)
  own = np.full(len(images), -1) if own is None else np.asarray(own)
  distances, indices = np.full(len(images), np.inf), np.full(len(images), -1)
  first = 0
  for block in blocks:
    block = _flat(block)
    # Up to a constant of each image, squared; exact for the winner below.
    squared = (block**2).sum(axis=1)[None] - 2 * images @ block.T
    rows = np.flatnonzero((own >= first) & (own < first + len(block)))
    squared[rows, own[rows] - first] = np.inf
    best = squared.argmin(axis=1)
    found = np.sqrt(np.mean((images - block[best])**2, axis=1, dtype=np.float64))
    found[np.isinf(squared[np.arange(len(images)), best])] = np.inf
    closer = found < distances
    distances[closer], indices[closer] = found[closer], first + best[closer]
    first += len(block)
  return distances, indices


def _flat(images):
  return np.asarray(images, np.float32).reshape(len(images), -1)


def predict_labels(training, labels, images, k: int) -> np.ndarray:
  """Predicts labels of images by a k-nearest-neighbour classifier on pixels.

  Args:
    training: the images that the classifier knows, [m, H, W, C].
    labels: theirs, int [m].
    images: [n, H, W, C].
    k: the number of neighbours; all m if there are fewer.

  Returns:
    int [n]; -1 without training images.
  """
  if not len(training):
    return np.full(len(images), -1)
  model = KNeighborsClassifier(min(k, len(training)), algorithm='brute')
  return model.fit(_flat(training), labels).predict(_flat(images))


def generated_label_accuracy(predicted, expected) -> float | None:
  """Share of images whose predicted label is the expected one.

  Args:
    predicted: int [n]; -1: not known.
    expected: int [n]; -1: an image of a cluster without a label. Both are left out.

  Returns:
    A number in [0, 1], None if no image is left.
  """
  predicted, expected = np.asarray(predicted), np.asarray(expected)
  known = (expected >= 0) & (predicted >= 0)
  return float(np.mean(predicted[known] == expected[known])) if known.any() else None


def proportional(proportions, count: int) -> list[int]:
  """Counts the images to take of each cluster for a set in proportion to pi.

  Args:
    proportions: pi, [Q], not all zero.
    count: the number of images that each cluster has.

  Returns:
    Q integers in 0..count; `count` for the largest cluster.
  """
  proportions = np.asarray(proportions, np.float64)
  return np.round(count * proportions / proportions.max()).astype(int).tolist()


def noise_like(images, count: int, rng) -> np.ndarray:
  """Draws images of independent Gaussian pixels, with each pixel's mean and deviation.

  Args:
    images: [n, H, W, C]; the means and standard deviations of the pixels are theirs.
    count: the number of images to draw.
    rng: a NumPy generator.

  Returns:
    float32 [count, H, W, C]; [0, H, W, C] if n is 0.
  """
  if not len(images):
    return np.zeros_like(images, np.float32)
  drawn = rng.normal(size=(count, *images.shape[1:]))
  return (images.mean(axis=0) + images.std(axis=0) * drawn).astype(np.float32)


# ------------------------------------------------------------- a run's samples


class RealImages(NamedTuple):
  """Real images that samples are compared with.

  Attributes:
    images: [N, H, W, C] in [-1, 1].
    clusters: the cluster of each, int [N].
    labels: int [N], -1 where unknown; None: there are no labels.
    indices: the place of each among the training images, int [N].
  """

  images: np.ndarray
  clusters: np.ndarray
  labels: np.ndarray | None
  indices: np.ndarray


class _Pool(NamedTuple):
  """What is known of real images, generated ones and noise, in this order, P in all.

  Attributes:
    features: {name: [P, d]}.
    distances: to the nearest training image, [P].
    expected: the label matched to the image's cluster, [P]; -1: none.
  """

  features: Mapping[str, np.ndarray]
  distances: np.ndarray
  expected: np.ndarray


class _Group(NamedTuple):
  """Rows of the pool that are compared with each other."""

  real: np.ndarray
  generated: np.ndarray
  noise: np.ndarray


def measure(real: RealImages, generated, proportions, blocks,
            maps: Mapping[str, FeatureMap], levels: int | None, neighbours: int,
            splits: int, seed: int, advance=lambda: None) -> Quality:
  """Compares generated images with real ones and with noise, overall and by cluster.

  Args:
    real: the real images.
    generated: [Q, n, H, W, C]. Like the noise, they are first rounded to what an image
      file could hold: clipped to [-1, 1], on the grey levels.
    proportions: pi, [Q].
    blocks: all training images in their order, in arrays [b, H, W, C].
    maps: {name: a `FeatureMap`}.
    levels: number of grey levels; None: the pixels are real numbers.
    neighbours: k, the number of neighbours of all measures.
    splits: the number of random halvings of the real images, made within every cluster.
    seed: of the noise and the halvings.
    advance: called after the nearest images were found, and after every split.

  Returns:
    `Quality`. Its summary has definitions, neighbours, splits, features ({name: d}),
    targets ('labels' or 'clusters': what the classifier predicts), classifier_accuracy,
    predicted [Q, L], overall, and clusters. `overall` is a group. `clusters` is a list of
    groups that have a cluster and its label, too: the label matched to it (None: there is
    none left), or its own number if there are no labels at all. A group has num_images,
    and each of generated, real and noise: {name of a feature map: `compare`},
    label_accuracy, nearest_distance, nearest_ratio and near_copies. Numbers that depend
    on the splits are {'mean', 'std'}. None stands for what cannot be measured, because
    there are too few images.
  """
  rng = np.random.default_rng(seed)
  num_clusters, count = generated.shape[:2]
  num_real = len(real.images)
  targets, matched = _targets(real, num_clusters)
  samples = slice(num_real, num_real + num_clusters * count)
  by_cluster = lambda of: of[samples].reshape(num_clusters, count, *of.shape[1:])
  images, owners, groups = _lay_out(real, generated, proportions, levels, rng)
  own = np.full(len(images), -1)
  own[:num_real] = real.indices
  distances, nearest = nearest_training(images, blocks, own)
  pool = _Pool(
      {name: scaled(features, real.images)(images) for name, features in maps.items()},
      distances, matched[owners])
  advance()

  rows: list[list] = [[] for _ in groups]
  judged: list = []
  predicted: list = []
  for _ in range(splits):
    held = np.zeros(len(images), bool)
    for group in groups[1:]:
      held[rng.permutation(group.real)[len(group.real) // 2:]] = True
    known = np.flatnonzero(~held[:num_real] & (targets >= 0))
    labels = predict_labels(images[known], targets[known], images, neighbours)
    judged.append(generated_label_accuracy(
        labels[:num_real][held[:num_real]], targets[held[:num_real]]))
    predicted.append(_shares(labels[samples], owners[samples],
                             max(targets.max(), matched.max()) + 1))
    for group, found in zip(groups, rows):
      found.append(_compare_group(pool, group, held, labels, neighbours, rng))
    advance()
  found = [_group_summary(pool, group, over_splits, held)
           for group, over_splits in zip(groups, rows)]
  summary = {
      'definitions': DEFINITIONS, 'neighbours': neighbours, 'splits': splits,
      'features': {name: x.shape[1] for name, x in pool.features.items()},
      'targets': 'clusters' if targets is real.clusters else 'labels',
      'classifier_accuracy': _mean_and_deviation(judged),
      'predicted': np.mean(predicted, axis=0).round(4).tolist(),
      'overall': found[0],
      'clusters': [{'cluster': q, 'label': int(label) if label >= 0 else None, **group}
                   for q, (label, group) in enumerate(zip(matched, found[1:]))]}
  return Quality(summary, *map(by_cluster, (images, nearest, distances)))


def _lay_out(real, generated, proportions, levels, rng):
  """The pool's images [P, H, W, C], the cluster of each [P], and its groups of rows."""
  num_real, (num_clusters, count) = len(real.images), generated.shape[:2]
  samples = num_real + np.arange(num_clusters * count).reshape(-1, count)
  taken = [rows[:share] for rows, share in zip(samples, proportional(proportions, count))]
  members = [np.flatnonzero(real.clusters == q) for q in range(num_clusters)]
  owner = np.concatenate([real.clusters, np.repeat(np.arange(num_clusters), count)])
  images = [real.images,
            snap_to_levels(generated, levels).reshape(-1, *generated.shape[2:])]
  owners, groups, end = [owner], [], len(owner)
  for rows, ours in zip([np.arange(num_real), *members],
                        [np.concatenate(taken), *samples]):
    noise = snap_to_levels(noise_like(real.images[rows], len(ours), rng), levels)
    images.append(noise)
    # Noise of all clusters passes for the generated images beside it.
    owners.append(owner[ours[:len(noise)]])
    groups.append(_Group(rows, ours, end + np.arange(len(noise))))
    end += len(noise)
  return np.concatenate(images), np.concatenate(owners), groups


def _targets(real, num_clusters):
  """What the classifier learns, [N]; and what it is to say for each cluster, [Q]."""
  if real.labels is None or (real.labels < 0).all():
    return real.clusters, np.arange(num_clusters)
  known = real.labels >= 0
  labels, clusters = real.labels[known], real.clusters[known]
  matched = match_clusters(labels, clusters, num_clusters)
  # Clusters that are left over are matched to labels that none of their images has.
  agree = np.bincount(clusters[matched[clusters] == labels], minlength=num_clusters)
  return real.labels, np.where(agree > 0, matched, -1)


def _shares(predicted, owners, num_labels):
  """The shares of each cluster's images with each predicted label, [Q, L]."""
  table = np.zeros((owners.max() + 1, num_labels))
  np.add.at(table, (owners[predicted >= 0], predicted[predicted >= 0]), 1)
  return table / np.maximum(table.sum(axis=1, keepdims=True), 1)


def _compare_group(pool, group, held, labels, k, rng):
  """What one split says of a group: {'generated', 'real', 'noise'} of measures."""
  reference, fresh = (group.real[of] for of in (~held[group.real], held[group.real]))
  sets = {'generated': group.generated, 'real': fresh, 'noise': group.noise}
  n = min(map(len, sets.values()))
  found: dict[str, dict[str, Any]] = {}
  for name, rows in sets.items():
    chosen = rng.permutation(rows)[:n]
    found[name] = {
        features: compare(x[reference], x[chosen], k)
        for features, x in pool.features.items()
    } if min(len(reference), n) > k else dict.fromkeys(pool.features)
    found[name]['label_accuracy'] = generated_label_accuracy(
        labels[rows], pool.expected[rows])
  return found


def _group_summary(pool, group, over_splits, held):
  """A group's part of the summary."""
  distances = {name: pool.distances[rows] for name, rows in group._asdict().items()}
  typical = {name: float(np.median(d)) if d.size else None
             for name, d in distances.items()}
  real = typical['real']
  found: dict[str, Any] = {
      'num_images': min(int(held[group.real].sum()), len(group.generated))}
  for name in ('generated', 'real', 'noise'):
    close = (np.mean(distances[name] <= np.quantile(distances['real'], NEAR_COPY))
             if distances['real'].size and distances[name].size else None)
    found[name] = {
        **_over_splits([split[name] for split in over_splits]),
        'nearest_distance': typical[name],
        'nearest_ratio': (own / real if (own := typical[name]) is not None and real
                          else None),
        'near_copies': None if close is None else float(close)}
  return found


def _over_splits(rows):
  """Nested dicts of numbers, a list of them, as one of {'mean', 'std'}."""
  if isinstance(rows[0], dict):
    return {name: _over_splits([row[name] for row in rows]) for name in rows[0]}
  return _mean_and_deviation(rows)


def _mean_and_deviation(values):
  values = [value for value in values if value is not None]
  if not values:
    return None
  return {'mean': float(np.mean(values)),
          'std': float(np.std(values, ddof=1)) if len(values) > 1 else None}
