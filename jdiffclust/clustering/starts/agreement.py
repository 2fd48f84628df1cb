"""Whether there are clusters, and which of them come back.

A start is made anew, from another seed and from a random half of the images, and tells
the other half. Two questions are asked there.

*Which clusters come back?* Of each cluster q, members M_q, on the other half

  J_q = max_r |M_q n M'_r| / |M_q u M'_r|,

where M'_r are the new clusters: q has come back if J_q is `CAME_BACK` or more (Hennig,
2007, who calls clusters below one half dissolved). That is counted over the repeats.

*Is there any sign of clusters?* The adjusted Rand index of the clusters of all images
and the new ones, on the other half, mean over repeats, is 0 where chance has joined what
another half does not join again. But halves agree on where to cut a smooth variety of
images, too, which has no gaps. So the same is done for images without clusters: Gaussian
ones of the same mean and covariance (rows of Z X / n^1/2, X the centred images and Z
normal).
There is a sign of clusters where the index exceeds theirs by `SIGN`. It is asked of
neighbourhoods alone, of at most `SIGN_IMAGES` images and one set of views: that takes
seconds, and comes before the start.

How often that errs: docs/benchmarks.md. It does not see that clusters are others than a
person has in mind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score

from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.registry import NEIGHBOURHOODS
from jdiffclust.streams import integer_seed

CAME_BACK = .5
SIGN = .2
SIGN_IMAGES, MOST_IMAGES = 1000, 2000  # by which each is told
FEWEST_IMAGES = 16


class Sign(NamedTuple):
  """Whether there is a sign of clusters.

  Attributes:
    rand: the adjusted Rand index with clusters of halves, mean over repeats.
    without: the same of images without clusters.
  """

  rand: float
  without: float

  @property
  def missing(self) -> bool:
    """Whether nothing speaks for clusters."""
    return self.rand - self.without < SIGN

  def as_dict(self) -> dict[str, Any]:
    """Of agreement.json."""
    return {**self._asdict(), 'missing': self.missing, 'text': self.in_words()}

  def in_words(self) -> str:
    """What to tell of it, in one line."""
    figures = (f'adjusted Rand index {self.rand:.2f}; of images without clusters '
               f'{self.without:.2f}')
    if self.missing and self.without > 1 - SIGN:
      return ('Whether there is a sign of clusters cannot be told: halves of the images '
              f'agree on so many as well where there are none ({figures}). Fewer, or '
              'more images, may tell.')
    if self.missing:
      return ('There is no sign of this number of clusters: halves of the images hardly '
              f'agree on them ({figures}). They may cut the images at arbitrary places; '
              'another number, more images, or finer ones may show some.')
    return f'There is a sign of clusters: halves of the images agree on them ({figures}).'


class Agreement(NamedTuple):
  """How clusters fared in R repeats.

  Attributes:
    kind: of the start that was repeated.
    repeats: R.
    asked: in how many repeats each cluster had an image that was asked about, [Q].
    came_back: in how many of these it came back, [Q].
    overlap: J_q, mean over these, [Q]; None: there are none.
    rand: the adjusted Rand index of each repeat, [R].
  """

  kind: str
  repeats: int
  asked: list[int]
  came_back: list[int]
  overlap: list[float | None]
  rand: list[float]

  def in_words(self) -> str:
    """Which clusters came back, in one line."""
    by_times: dict[tuple[int, int], list[int]] = {}
    for cluster, times in enumerate(zip(self.came_back, self.asked)):
      by_times.setdefault(times, []).append(cluster)
    parts = [f"{', '.join(map(str, clusters))} "
             + (f'in {times} of {asked}' if asked else 'had no image to ask about')
             for (times, asked), clusters in sorted(by_times.items(), reverse=True)]
    return ('Clusters that came back when the start was made anew, from other seeds and '
            f"halves of the images: {'; '.join(parts)}.")

  def as_dict(self) -> dict[str, Any]:
    """Of agreement.json."""
    return {**self._asdict(), 'text': self.in_words()}


def jaccards(clusters: np.ndarray, others: np.ndarray, num_clusters: int) -> np.ndarray:
  """J_q of each cluster, [Q]; 0 of one without members.

  Args:
    clusters: numbers [n] in 0..Q - 1.
    others: numbers [n] of other clusters.
    num_clusters: Q.
  """
  table = np.zeros((num_clusters, int(others.max()) + 1))
  np.add.at(table, (clusters, others), 1)
  union = table.sum(axis=1, keepdims=True) + table.sum(axis=0, keepdims=True) - table
  return (table / np.maximum(union, 1)).max(axis=1)


def agree(sample: np.ndarray, image_shape, config, clusters: np.ndarray, repeats: int,
          kind: str, advance: Callable[[], None] = lambda: None,
          vectors: np.ndarray | None = None,
          within: Callable[[int], None] | None = None) -> Agreement:
  """Makes a start anew, `repeats` times, and asks which clusters come back.

  Args:
    sample: n images [n, D] in [-1, 1].
    image_shape: (H, W, C), of product D.
    config: its num_clusters and seed, and what the start reads.
    clusters: of the images, numbers [n].
    repeats: how often.
    kind: of the start.
    advance: called after each repeat.
    vectors: embeddings of the images, [n, E]; None: they have none.
    within: called with the percents that are done of each, as of `fit_start`.
  """
  found, asked, rand = [], [], []
  for repeat in range(1, repeats + 1):
    seed = integer_seed(config.seed, f'agreement_{repeat}')
    order = np.random.default_rng(seed).permutation(len(sample))
    half, rest = np.sort(order[:len(order) // 2]), np.sort(order[len(order) // 2:])
    other = copy.deepcopy(config)
    other.seed, other.num_clusters = seed, min(config.num_clusters, len(half))
    told = _start(kind, sample, image_shape, other, vectors, half, rest, within)
    found.append(jaccards(clusters[rest], told, config.num_clusters))
    asked.append(np.isin(np.arange(config.num_clusters), clusters[rest]))
    rand.append(float(adjusted_rand_score(clusters[rest], told)))
    advance()
  found, times = np.array(found), np.sum(asked, axis=0)
  mean = found.sum(axis=0) / np.maximum(times, 1)  # 0 where no image was asked about
  return Agreement(kind, repeats, times.tolist(),
                   (found >= CAME_BACK).sum(axis=0).tolist(),
                   [float(one) if number else None for one, number in zip(mean, times)],
                   rand)


def _start(kind, sample, image_shape, config, vectors, fitted, asked,
           within=None) -> np.ndarray:
  """Clusters of some images by a start that is fitted to some."""
  of = lambda rows: None if vectors is None else vectors[rows]
  assign = fit_start(kind, sample[fitted], image_shape, config, within, of(fitted))
  own = () if vectors is None else (vectors[asked],)
  return assign(sample[asked], asked, *own).argmax(axis=1)


def without_clusters(rows: np.ndarray, seed: int) -> np.ndarray:
  """Gaussian rows of the mean and covariance of others, float32 [n, D].

  Args:
    rows: [n, D].
    seed: of the draws.
  """
  mean = rows.mean(axis=0)
  draws = np.random.default_rng(seed).normal(size=(len(rows), len(rows)))
  return (mean + draws @ (rows - mean) / np.sqrt(len(rows))).astype(np.float32)


def sign_of(sample: np.ndarray, image_shape, config, repeats: int,
            advance: Callable[[], None] = lambda: None,
            vectors: np.ndarray | None = None) -> Sign:
  """Whether images show a sign of clusters; see the module's text.

  Args:
    sample, image_shape, config, repeats, vectors: as of `agree`.
    advance: called 2 + 2 `repeats` times.
  """
  config, found = copy.deepcopy(config), []
  config.views.sets = 1
  seed, rows = integer_seed(config.seed, 'without_clusters'), np.arange(len(sample))
  plain = np.clip(without_clusters(sample, seed), -1, 1)
  other = None if vectors is None else without_clusters(vectors, seed)
  for images, own in ((sample, vectors), (plain, other)):
    clusters = _start(NEIGHBOURHOODS, images, image_shape, config, own, rows, rows)
    advance()
    found.append(np.mean(agree(images, image_shape, config, clusters, repeats,
                               NEIGHBOURHOODS, advance, own).rand))
  return Sign(*map(float, found))
