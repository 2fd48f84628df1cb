"""How many clusters: the number that the images' neighbourhoods show, and how surely.

For each Q of a range, the start from neighbourhoods (`neighbours.py`, but by one set of
views) clusters the images; their distances are computed once, and the graphs'
eigenvectors. Three scores of these partitions, none of which looks at labels:

  modularity  the share of neighbours within a cluster, less the share that chance would
              put there (Newman and Girvan, 2004). Both fall when a cluster is split;
              their difference has a maximum.
  stability   how far the partition of a random part of the images alone agrees with that
              of all of them: the adjusted Rand index on the part, mean over parts.
  ICL         of the mixture of linear denoisers with these clusters, that is of Gaussians
              smoothed by noise: log p(x, z) less half a log n for each parameter
              (Biernacki, Celeux and Govaert, 2000).

Chosen are the fewest clusters whose modularity, mean over the graphs (of 7, 10, ...
neighbours), is within TOLERANCE of the best: one neighbour in a hundred is not worth
another cluster. By the same rule every part votes on every graph; the share of the votes
for the chosen number is how sure it is, against the chance of the sample (no vote can see
that all partitions are wrong). Stability and ICL are second opinions: ICL's
penalty depends on how many images and principal components there are, and a cluster of
shifted copies is no Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import scipy.linalg
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from jdiffclust.clustering.starts.embedded import comparison_of
from jdiffclust.clustering.starts.neighbours import (
    NeighbourDistances, consensus, cuts, embeddings, find_neighbours, graphs,
    indicator_matrix)
from jdiffclust.data import symmetry
from jdiffclust.data.views import draw_small_maps
from jdiffclust.evaluation.features import principal_components
from jdiffclust.streams import integer_seed

TOLERANCE = .01  # of modularity
PART = .8  # of the images


class Choice(NamedTuple):
  """A number of clusters, and what speaks for it.

  Attributes:
    numbers: the K numbers that were tried, ascending.
    modularity: of all images' partitions, mean over the graphs, [K].
    stability: adjusted Rand index, at most 1, [K].
    icl: nats per image, larger is better, [K].
    votes: of parts and graphs, [K].
    chosen: one of the numbers.
  """

  numbers: list[int]
  modularity: list[float]
  stability: list[float]
  icl: list[float]
  votes: list[int]
  chosen: int

  def share(self, most: int) -> float:
    """The share of the votes for numbers that differ by `most` or less from it."""
    near = np.abs(np.subtract(self.numbers, self.chosen)) <= most
    return float(np.sum(self.votes, where=near) / np.sum(self.votes))

  def as_dict(self) -> dict:
    """The content of num_clusters.json."""
    return {**self._asdict(), 'confidence': self.share(0), 'within_one': self.share(1)}


def modularity(graph, members: np.ndarray) -> float:
  """The weight within clusters less what the images' degrees alone would put there.

  Args:
    graph: symmetric weights, sparse [n, n].
    members: cluster numbers [n].

  Returns:
    sum_q [ W_qq / W - (D_q / W)^2 ], W the sum of the weights, W_qq that within cluster
    q, D_q that of its images.
  """
  clusters = indicator_matrix(members, members.max() + 1)
  degrees = graph.sum(axis=1)
  within = (graph @ clusters).multiply(clusters).sum()
  shares = clusters.T @ degrees / degrees.sum()
  return float(within / degrees.sum() - np.sum(shares**2))


def fewest(modularities: np.ndarray) -> np.ndarray:
  """The first place [...] within TOLERANCE of the largest of each row of [..., K]."""
  enough = np.max(modularities, axis=-1, keepdims=True) - TOLERANCE
  return np.argmax(modularities >= enough, axis=-1)


def icl(features: np.ndarray, members: np.ndarray, noise: float) -> float:
  """The integrated completed likelihood of Gaussians with given clusters, by BIC.

  Args:
    features: [n, d].
    members: cluster numbers [n].
    noise: variance added in every direction.

  Returns:
    sum_i log(pi_z N(x_i; mu_z, S_z + noise I)) - (parameters / 2) log n, by image.
  """
  count, size = features.shape
  total = 0.
  clusters = np.unique(members)
  for q in clusters:
    own = features[members == q]
    centred = own - own.mean(axis=0)
    factor = np.linalg.cholesky(centred.T @ centred / len(own) + noise * np.eye(size))
    whitened = scipy.linalg.solve_triangular(factor, centred.T, lower=True)
    total += len(own) * (np.log(len(own) / count) - size / 2 * np.log(2 * np.pi)
                         - np.log(np.diag(factor)).sum()) - np.sum(whitened**2) / 2
  parameters = len(clusters) * (1 + size + size * (size + 1) / 2) - 1
  return float(total - parameters / 2 * np.log(count)) / count


def partitions(neighbours: NeighbourDistances, numbers: Sequence[int],
               seed: int) -> tuple[list[np.ndarray], np.ndarray]:
  """The consensus for each number of clusters, and its modularity.

  Args:
    neighbours: of n images.
    numbers: K numbers of clusters, ascending, each at most n.
    seed: of the cuts.

  Returns:
    K arrays of cluster numbers [n]; modularities on each graph [graphs, K].
  """
  found = graphs(neighbours)
  vectors = embeddings(found, numbers[-1], seed)
  members = [consensus(cuts(vectors, number, seed, restarts=1), number, seed)
             .argmax(axis=1) for number in numbers]
  return members, np.array([[modularity(graph, one) for one in members]
                            for graph in found])


def choose(neighbours: NeighbourDistances, features: np.ndarray, numbers: Sequence[int],
           parts: int, noise: float, seed: int,
           advance: Callable[[], None] = lambda: None) -> Choice:
  """Scores numbers of clusters.

  Args:
    neighbours: of n images.
    features: of the images, for ICL, [n, d].
    numbers: K numbers of clusters, ascending, each at most half of n.
    parts: how many random parts of the images vote.
    noise: variance that ICL adds in every direction.
    seed: of the parts and of the cuts.
    advance: called after all images and after each part.

  Returns:
    The `Choice`.
  """
  count = neighbours.count
  rng = np.random.default_rng(seed)
  votes, agreement = np.zeros(len(numbers), int), []
  # On one thread, since sums over several differ in the last bits from run to run.
  with threadpool_limits(1):
    whole, scores = partitions(neighbours, numbers, seed)
    advance()
    for _ in range(parts):
      rows = np.sort(rng.choice(count, round(PART * count), replace=False))
      members, part_scores = partitions(neighbours.among(rows), numbers, seed)
      np.add.at(votes, fewest(part_scores), 1)
      agreement.append([adjusted_rand_score(one[rows], other)
                        for one, other in zip(whole, members)])
      advance()
  modularities = scores.mean(axis=0)
  return Choice(numbers=list(numbers), modularity=modularities.tolist(),
                stability=np.mean(agreement, axis=0).tolist(),
                icl=[icl(features, one, noise) for one in whole], votes=votes.tolist(),
                chosen=numbers[int(fewest(modularities))])


def choose_number(sample: np.ndarray, image_shape, config,
                  advance: Callable[[], None] = lambda: None,
                  vectors: np.ndarray | None = None) -> Choice:
  """Chooses the number of clusters of images, with the settings of a config.

  Args:
    sample: images [n, D] in [-1, 1].
    image_shape: (H, W, C), of product D.
    config: its seed, and the sections em (auto_clusters, auto_parts), start
      (components, noise) and views.
    advance: called 1 + auto_parts times.
    vectors: embeddings of the images, [n, E], which are compared in the place of pixels;
      None: they have none.

  Returns:
    The `Choice`.
  """
  options = config.em
  seed = integer_seed(config.seed, 'num_clusters')
  if vectors is not None:
    images, sets, placed = comparison_of(vectors, config.start)(vectors), (), ()
    images = images[:, None, None]
  else:
    config, _ = symmetry.settled(config, sample, image_shape)
    sets = [draw_small_maps(jax.random.key(seed), config.views.num, config.views)]
    images = sample.reshape(-1, *image_shape)
    placed = [placing(images) for placing in symmetry.group(config.views)]
  low, high = options.auto_clusters
  with threadpool_limits(1):
    features = principal_components(
        sample, config.start.components).transform(sample)
  return choose(next(find_neighbours(images, sets, placed)),
                features.astype(np.float64), range(low, high + 1), options.auto_parts,
                config.start.noise, seed, advance)
