"""What the latents of images show: a map, nearest neighbours, misclustered images.

Labels serve to score a finished fit only; nothing here feeds back into one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from jdiffclust.evaluation.scores import match_clusters

# Numbers of neighbours: those of Table 3 of Yan, Liu and Zhang (2023), without 6000.
KS = (3, 5, 7, 9, 100, 1000)
# The most images on the map, and the most images among which neighbours are sought. The
# map takes some seconds on its one thread, neighbours half a minute on pixels.
MAP_IMAGES, NEIGHBOUR_IMAGES = 2000, 10000
# Steps of t-SNE. Measured: twice as many keep images beside the same neighbours
# (trustworthiness .996 either way, and accuracy by ten neighbours, on three data sets).
MAP_STEPS = 500
# Images whose neighbours are found at once.
_CHUNK = 1024


class LatentResults(NamedTuple):
  """What is known of the latents when a fit has ended.

  Attributes:
    points: the map, [n, 2].
    indices: of its images among all, rising, int [n].
    neighbours: what `compare_neighbours` returns; None: no labels.
    mistakes: what `misclustered` returns; None: no labels.
    reconstructions: (originals, reconstructed), [m, H, W, C] in [-1, 1] each; or None.
    walk: (images [rows, steps, H, W, C] in [-1, 1], the clusters (from, to) of each
      row), interpolations in the latent space; or None.
    terms: {name: a number per EM iteration, None where unknown}, such as the terms of
      the loss and the units in use.
  """

  points: np.ndarray
  indices: np.ndarray
  neighbours: dict | None = None
  mistakes: np.ndarray | None = None
  reconstructions: tuple[np.ndarray, np.ndarray] | None = None
  walk: tuple[np.ndarray, Sequence[tuple[int, int]]] | None = None
  terms: Mapping[str, Sequence[float | None]] = MappingProxyType({})

  @property
  def summary(self) -> dict:
    """JSON-able: map_images, neighbours, misclustered (how many), terms."""
    return {
        'map_images': len(self.points), 'neighbours': self.neighbours,
        'misclustered': None if self.mistakes is None else len(self.mistakes),
        'terms': {name: [None if value is None else float(value) for value in values]
                  for name, values in self.terms.items()}}


def measure(latents, responsibilities, labels, images_at: Callable, seed: int,
            map_images: int = MAP_IMAGES,
            neighbour_images: int = NEIGHBOUR_IMAGES) -> LatentResults:
  """The map of the latents and, where there are labels, their scores.

  Args:
    latents: a latent per image, [N, J], finite.
    responsibilities: tau, [N, Q].
    labels: int [N], -1 where unknown; or None.
    images_at: from indices [n] to images [n, H, W, C].
    seed: of the map and of the random choices of images.
    map_images: the most images on the map.
    neighbour_images: the most images among which neighbours are sought.

  Returns:
    `LatentResults` without reconstructions, walk and terms (add them by `_replace`).
  """
  points, indices = embed(latents, seed, map_images)
  if labels is None or (labels < 0).all():
    return LatentResults(points, indices)
  return LatentResults(
      points, indices,
      compare_neighbours(latents, labels, images_at, seed, neighbour_images),
      misclustered(labels, responsibilities.argmax(axis=1), responsibilities.max(axis=1)))


def embed(latents, seed: int,
          max_images: int = MAP_IMAGES) -> tuple[np.ndarray, np.ndarray]:
  """A map of the latents: t-SNE to two dimensions.

  Args:
    latents: [N, J], N > 1, finite.
    seed: of the map, and of the random choice of images if there are more than
      max_images.
    max_images: the most images to map.

  Returns:
    (points, indices): float32 [n, 2], and the indices of their images, rising, int [n].

  Source: van der Maaten and Hinton (2008); from scikit-learn.
  """
  indices = _part(np.arange(len(latents)), max_images, seed)
  latents = np.asarray(latents)[indices]
  # Equal latents, or single numbers, have no two principal components to begin with.
  varied = np.linalg.matrix_rank(latents - latents.mean(axis=0)) > 1
  model = TSNE(perplexity=min(30., (len(latents) - 1) / 3), random_state=seed,
               max_iter=MAP_STEPS, init='pca' if varied else 'random')
  # On one thread, since sums over several differ in the last bits from run to run.
  with threadpool_limits(1):
    return model.fit_transform(latents), indices


def neighbour_accuracy(features, labels, ks: Sequence[int] = KS) -> dict[int, float]:
  """Leave-one-out accuracy of k-nearest-neighbour classification.

  Each labelled image gets the most frequent label of the k other images that are nearest
  in Euclidean distance. Of labels with the same number of votes, it gets the smallest.

  Args:
    features: [N, ...].
    labels: int [N]; images of label -1 (unknown) are left out.
    ks: numbers of neighbours; with n labelled images, those above n - 2 are left out.

  Returns:
    {k: accuracy in [0, 1]}.

  Source: Yan, Liu and Zhang (2023), section 4.3.2, with the images themselves in place of
    a test set.
  """
  labels = np.asarray(labels)
  known = labels >= 0
  features = np.asarray(features)[known].reshape(known.sum(), -1)
  names, labels = np.unique(labels[known], return_inverse=True)
  ks = [k for k in ks if k <= len(labels) - 2]
  if not ks:
    return {}
  model = NearestNeighbors(n_neighbors=max(ks) + 1, algorithm='brute').fit(features)
  right = dict.fromkeys(ks, 0)
  for first in range(0, len(labels), _CHUNK):
    rows = np.arange(first, min(first + _CHUNK, len(labels)))
    nearest = labels[_others(model.kneighbors(features[rows], return_distance=False),
                             rows)]
    for k in ks:
      slots = nearest[:, :k] + len(names) * np.arange(len(rows))[:, None]
      votes = np.bincount(slots.ravel(), minlength=len(names) * len(rows))
      elected = votes.reshape(len(rows), len(names)).argmax(axis=1)
      right[k] += int(np.sum(elected == labels[rows]))
  return {k: count / len(labels) for k, count in right.items()}


def compare_neighbours(latents, labels, images_at: Callable, seed: int,
                       max_images: int = NEIGHBOUR_IMAGES,
                       ks: Sequence[int] = KS) -> dict:
  """Computes `neighbour_accuracy` of the latents and of raw pixels, on the same images.

  Args:
    latents: [N, J].
    labels: int [N], -1 where unknown.
    images_at: from indices [n] to images [n, H, W, C].
    seed: of the random choice of labelled images if there are more than max_images.
    max_images: the most images to compare.
    ks: numbers of neighbours.

  Returns:
    A dict: num_images, and latents and pixels with {k: accuracy} each.

  Source: Yan, Liu and Zhang (2023), Table 3.
  """
  part = _part(np.flatnonzero(np.asarray(labels) >= 0), max_images, seed)
  return {'num_images': len(part),
          'latents': neighbour_accuracy(np.asarray(latents)[part], labels[part], ks),
          'pixels': neighbour_accuracy(images_at(part), labels[part], ks)}


def misclustered(labels, clusters, certainty) -> np.ndarray:
  """Finds the images whose cluster is not paired with their label, as ACC pairs them.

  Args:
    labels: int [N]; images of label -1 (unknown) are left out.
    clusters: int [N].
    certainty: the probability of each image's cluster, [N].

  Returns:
    Their indices, int [m], by falling certainty.

  Raises:
    ValueError: as in `scores.contingency`, such as when no label is known.
  """
  labels, clusters = np.asarray(labels), np.asarray(clusters)
  known = np.flatnonzero(labels >= 0)
  matched = match_clusters(labels[known], clusters[known])
  wrong = known[matched[clusters[known]] != labels[known]]
  return wrong[np.argsort(-np.asarray(certainty)[wrong], kind='stable')]


def first_of_each_kind(mistakes, labels, clusters) -> np.ndarray:
  """Puts the first mistake of every kind first, then the second ones, and so on.

  Args:
    mistakes: indices into N, [m].
    labels: int [N].
    clusters: int [N]; mistakes of the same label and cluster are of one kind.

  Returns:
    The same indices, [m]. The first mistakes of all kinds keep their order, as do the
    second ones, and so on.
  """
  seen: Counter[tuple[int, int]] = Counter()
  ranks: list[int] = []
  for kind in zip(labels[mistakes].tolist(), clusters[mistakes].tolist()):
    ranks.append(seen[kind])
    seen[kind] += 1
  return mistakes[np.argsort(ranks, kind='stable')]


def _part(indices, most, seed):
  """At most `most` of the indices, chosen at random, in their order."""
  if len(indices) <= most:
    return indices
  return np.sort(np.random.default_rng(seed).choice(indices, most, replace=False))


def _others(nearest, rows):
  """Drops the rows' own indices from their neighbours [n, k + 1]: [n, k]."""
  own = nearest == rows[:, None]
  own[~own.any(axis=1), -1] = True  # more than k copies of it are as near as itself
  return nearest[~own].reshape(len(rows), -1)
