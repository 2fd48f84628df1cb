"""Whether clusters come back: from other seeds, and from other images of the same kind.

A start is made anew, from another seed and from a random half of the images, and tells
the other half. Of each cluster q, members M_q, it is asked on that other half

  J_q = max_r |M_q n M'_r| / |M_q u M'_r|,

where M'_r are the new clusters: q has come back if J_q is `CAME_BACK` or more (Hennig,
2007, who calls clusters below one half dissolved). That is counted over the repeats.

Of all clusters together the adjusted Rand index on the other half, mean over repeats,
says whether there are clusters at all: what chance has joined, another half does not join
again. Below `NO_SIGN` nothing speaks for clusters. The index sees neither that clusters
are others than a person has in mind, nor that a smooth variety of images, with no gaps,
was cut at places that many halves agree on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score

from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.streams import integer_seed

CAME_BACK = .5
NO_SIGN = .2
MOST_IMAGES = 2000  # of which repeats are made
FEWEST_IMAGES = 8


class Agreement(NamedTuple):
  """How clusters fared in R repeats.

  Attributes:
    repeats: R.
    kind: of the start that was repeated.
    came_back: in how many repeats each cluster did, [Q].
    overlap: J_q, mean over repeats, [Q].
    rand: the adjusted Rand index of each repeat, [R].
  """

  repeats: int
  kind: str
  came_back: list[int]
  overlap: list[float]
  rand: list[float]

  @property
  def mean(self) -> float:
    """The mean of the adjusted Rand indices."""
    return float(np.mean(self.rand))

  @property
  def no_sign(self) -> bool:
    """Whether nothing speaks for clusters."""
    return self.mean < NO_SIGN

  def in_words(self) -> str:
    """Which clusters came back, in one line."""
    by_times: dict[int, list[int]] = {}
    for cluster, times in enumerate(self.came_back):
      by_times.setdefault(times, []).append(cluster)
    parts = [f"{', '.join(map(str, clusters))} in {times} of {self.repeats}"
             for times, clusters in sorted(by_times.items(), reverse=True)]
    return ('Which clusters came back, made anew from other seeds and a random half of '
            f"the images: {'; '.join(parts)}.")

  def caution(self) -> str:
    """What to say where nothing speaks for clusters."""
    return ('There is no sign of clusters: made anew from random halves of the images, '
            f'they are others (adjusted Rand index {self.mean:.2f}, by chance 0). '
            'They cut the images at arbitrary places; other images, more of '
            'them, or fewer clusters may show some.')

  def as_dict(self) -> dict:
    """Of agreement.json."""
    return {**self._asdict(), 'mean_rand': self.mean, 'no_sign': self.no_sign,
            'text': self.caution() if self.no_sign else self.in_words()}


def overlaps(clusters: np.ndarray, others: np.ndarray, num_clusters: int) -> np.ndarray:
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
          vectors: np.ndarray | None = None) -> Agreement:
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
  """
  found, rand = [], []
  for repeat in range(1, repeats + 1):
    seed = integer_seed(config.seed, f'agreement_{repeat}')
    order = np.random.default_rng(seed).permutation(len(sample))
    half, rest = np.sort(order[:len(order) // 2]), np.sort(order[len(order) // 2:])
    other = copy.deepcopy(config)
    other.seed = seed
    other.num_clusters = min(config.num_clusters, len(half))
    of = lambda rows: () if vectors is None else (vectors[rows],)
    assign = fit_start(kind, sample[half], image_shape, other, None,
                       None if vectors is None else vectors[half])
    told = assign(sample[rest], rest, *of(rest)).argmax(axis=1)
    found.append(overlaps(clusters[rest], told, config.num_clusters))
    rand.append(float(adjusted_rand_score(clusters[rest], told)))
    advance()
  found = np.array(found)
  return Agreement(repeats, kind, (found >= CAME_BACK).sum(axis=0).tolist(),
                   found.mean(axis=0).tolist(), rand)
