"""Clusters of damaged images, told by the fit's own images under the same damage.

Of y = A x + sigma n the clusters are p(q | y), the mean of tau_q(x) over the images x
that y may be of. The fit's images are such images, and their tau is known: damaged as y
is, they are examples of y with its answer. Two ways to learn from them:

  neighbours  p(q | y) = sum_n tau_nq K(y - A x_n) / sum_n K(y - A x_n), K a Gaussian,
              its width that by which the images tell each other's clusters best
  network     q_phi(q | A^T y), of recognition networks, which minimise the
              cross-entropy over views of the images, each damaged anew; the mean of
              their logits

Neighbours know which images there are, the network what images of a cluster share. Where
pixels are few the first is better, where images vary more the second. Which to believe
how far is asked of images that neither has seen: the product of both, each to a power,

  p(q | y)  ~  neighbours_q^a network_q^b,

with the powers a, b >= 0 of the least cross-entropy.

Sources: Nadaraya (1964) and Watson (1964) for the kernel; Genest and Zidek (1986) for the
logarithmic pool.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, special

from jdiffclust.batch import in_blocks
from jdiffclust.clustering.starts.recognition import BATCH, Trained, over_views, train
from jdiffclust.clustering.starts.sample import sample_indices
from jdiffclust.inverse.operators import Operator
from jdiffclust.inverse.problem import Problem
from jdiffclust.streams import integer_seed

MOST_EXAMPLES = 5000
MOST_ASKED = 1000  # images that choose the width of the kernel
HELD_OUT = 5  # each fifth image is kept for the powers
WIDTHS = 2. ** np.arange(-6, 5)  # of the kernel's variance, in squared distances of pairs
UNSEEN = .01  # the weight of the clusters' shares beside that of the nearest image


class Examples(NamedTuple):
  """Images whose clusters are known.

  Attributes:
    images: of the fit, float32 [n, H, W, C] in [-1, 1].
    responsibilities: their tau, [n, Q].
  """

  images: np.ndarray
  responsibilities: np.ndarray


def example_rows(num_images: int, seed: int) -> np.ndarray:
  """Which of a fit's images are kept as examples, rising, [n]."""
  return sample_indices(num_images, MOST_EXAMPLES, seed)


class Neighbours(NamedTuple):
  """The kernel estimate.

  Attributes:
    seen: A x_n of the examples, [n, M].
    responsibilities: [n, Q].
    variance: of the kernel, of the distance of all M numbers.
  """

  seen: np.ndarray
  responsibilities: np.ndarray
  variance: float

  def log_weights(self, y) -> np.ndarray:
    """log K(y - A x_n), the largest of each row 0, [m, n], of observations [m, M]."""
    # Row by row, so that none depends, to the bit, on where it stands among others.
    rows = [squared_distances(row[None], self.seen)[0] for row in y]
    return _log_kernel(np.stack(rows), self.variance)

  def __call__(self, y) -> np.ndarray:
    """p(q | y), [m, Q], of observations [m, M]."""
    return _weighted(self.log_weights(y), self.responsibilities)


class Learnt(NamedTuple):
  """What tells the clusters of images that have gone through one damage.

  Attributes:
    neighbours: of all examples.
    trained: the recognition networks of damaged images; None: there is one cluster, or
      there are too few examples to leave one out.
    powers: (a, b) of neighbours and network.
    longest: pixels of the longer side that the network sees.
  """

  neighbours: Neighbours
  trained: Trained | None
  powers: tuple[float, float]
  longest: int

  def __call__(self, problem: Problem) -> np.ndarray:
    """p(q | y), float32 [m, Q], of the m observations of a problem."""
    known = self.neighbours(observed(problem.operator, problem.observation))
    if self.trained is None:
      return known.astype(np.float32)
    answers = special.log_softmax(self._logits(problem), axis=1)
    return pooled((np.log(known), answers), self.powers).astype(np.float32)

  def _logits(self, problem):
    images = in_blocks(lambda rows: _shown(
        problem.operator, jnp.asarray(problem.observation[rows], jnp.float32),
        self.longest), len(problem.observation), BATCH)
    assert self.trained is not None
    return over_views(self.trained, images)[0]

  def draw(self, problem: Problem, responsibilities, num: int, seed: int) -> np.ndarray:
    """Examples that y may be of: a cluster by its probability, an image of it by K.

    Args:
      problem: m observations.
      responsibilities: their p(q | y), [m, Q].
      num: N draws of each.
      seed: of the draws; those of an observation follow from it and its number.

    Returns:
      Rows of the examples, int [N, m].
    """
    weights = self.neighbours.log_weights(observed(problem.operator, problem.observation))
    with np.errstate(divide='ignore'):
      log_tau = np.log(self.neighbours.responsibilities)
    found = np.empty((num, len(weights)), np.int64)
    for image, (row, tau) in enumerate(zip(weights, responsibilities)):
      rng = np.random.default_rng([integer_seed(seed, 'examples'), image])
      share = np.cumsum(np.asarray(tau, np.float64))
      at = (np.arange(num) + rng.random(num)) / num * share[-1]  # one in each stratum
      clusters = np.minimum(np.searchsorted(share, at, side='right'), len(tau) - 1)
      noise = rng.gumbel(size=(num, len(row)))
      found[:, image] = np.argmax(row + log_tau[:, clusters].T + noise, axis=1)
    return found


def squared_distances(x, y) -> np.ndarray:
  """Of all pairs of rows [m, M] and [n, M], [m, n]."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  lengths = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1)
  return np.maximum(lengths - 2 * x @ y.T, 0)


def _log_kernel(distances, variance):
  logs = -distances / (2 * variance)
  return logs - logs.max(axis=1, keepdims=True)


def _weighted(log_weights, tau):
  """Means of tau by weights, with a little of the clusters' shares beside."""
  weights = np.exp(log_weights)
  found = weights @ tau + UNSEEN * tau.mean(axis=0)
  return found / found.sum(axis=1, keepdims=True)


def observed(operator: Operator, y) -> np.ndarray:
  """What observations [m, ...] tell, a row each, [m, M]."""
  return np.asarray(operator.told(jnp.asarray(y, jnp.float32))).reshape(len(y), -1)


def cross_entropy(tau, log_p) -> float:
  """-mean_n sum_q tau_nq log p_nq."""
  return float(-np.mean(np.sum(tau * log_p, axis=1)))


def make_neighbours(y, seen, tau) -> Neighbours:
  """The kernel estimate, its width chosen by leaving each image out.

  Args:
    y: noisy observations of the examples, [n, M].
    seen: the same without noise.
    tau: their responsibilities [n, Q].
  """
  asked = np.arange(0, len(y), -(-len(y) // MOST_ASKED))
  distances = squared_distances(y[asked], seen)
  distances[np.arange(len(asked)), asked] = np.inf
  nearest = distances.min(axis=1)
  base = float(np.median(nearest)) or float(np.mean(nearest)) or 1.
  losses = [cross_entropy(tau[asked], np.log(_weighted(
      _log_kernel(distances, base * width), tau))) for width in WIDTHS]
  return Neighbours(seen, tau, base * float(WIDTHS[int(np.argmin(losses))]))


def pooled(logs, powers) -> np.ndarray:
  """The product of estimates, each to its power, [m, Q].

  Args:
    logs: two of log p(q | y), [m, Q].
    powers: of each.
  """
  return special.softmax(sum(power * log for power, log in zip(powers, logs)), axis=1)


def best_powers(logs, tau) -> tuple[float, float]:
  """The powers >= 0 of the least cross-entropy, a convex problem.

  Args:
    logs: two of log p(q | y), [m, Q].
    tau: the responsibilities of these m images, [m, Q].
  """
  def loss(powers):
    total = sum(power * log for power, log in zip(powers, logs))
    log_p = special.log_softmax(total, axis=1)
    rest = np.exp(log_p) - tau
    return cross_entropy(tau, log_p), [np.mean(np.sum(rest * log, axis=1))
                                       for log in logs]
  found = optimize.minimize(loss, (.5, .5), jac=True, bounds=((0., None),) * 2)
  first, second = map(float, found.x)
  return first, second


@jax.jit(static_argnums=2)
def _shown(operator, y, longest):
  """Observations as images, A^T y, of `longest` pixels a side at most."""
  images = operator.adjoint(operator.told(y))
  _, height, width, channels = images.shape
  block = -(-max(height, width) // longest)
  if block == 1:
    return images
  shape = (-(-height // block), -(-width // block))
  return jax.image.resize(images, (len(images), *shape, channels), 'linear')


def _damaged(longest, operator, noise, images, key):
  """Images as the network shall see them, damaged anew."""
  y = operator.apply(images)
  y = y + noise * jax.random.normal(key, y.shape)
  return _shown(operator, y, longest)


def learn(examples: Examples, operator: Operator, noise: float, config, seed: int,
          advance=lambda percent: None) -> Learnt:
  """Learns to tell the clusters of damaged images.

  Args:
    examples: of the fit.
    operator: A.
    noise: sigma, of pixels in [-1, 1].
    config: of the fit: recognition and views.
    seed: of noise and network.
    advance: called with the percents that are done.
  """
  images, tau = examples
  tau = np.asarray(tau, np.float64)
  longest = config.recognition.max_side
  clean = in_blocks(lambda rows: operator.apply(jnp.asarray(images[rows])), len(images),
                    BATCH)
  rng = np.random.default_rng(integer_seed(seed, 'damage'))
  noisy = clean + np.float32(noise) * rng.normal(size=clean.shape).astype(np.float32)
  seen, given = (observed(operator, part).astype(np.float64) for part in (clean, noisy))
  neighbours = make_neighbours(given, seen, tau)
  held = np.arange(len(images)) % HELD_OUT == HELD_OUT - 1
  if tau.shape[1] == 1 or not held.any():
    return Learnt(neighbours, None, (1., 0.), longest)
  damage = jax.tree_util.Partial(functools.partial(_damaged, longest), operator,
                                 np.float32(noise))
  trained = train(images[~held], tau[~held].astype(np.float32), config, advance, damage,
                  # Each shows another damage, so that few images bear as many as most do.
                  steps=config.recognition.steps)
  # Views of what is damaged already would be none of the damage: as it is, alone.
  trained = trained._replace(maps=jax.tree.map(lambda part: part[:1], trained.maps))
  found = Learnt(neighbours, trained, (1., 1.), longest)
  asked = Problem(operator, noisy[held], jnp.float32(noise))
  others = Neighbours(seen[~held], tau[~held], neighbours.variance)
  logs = (np.log(others(given[held])),
          special.log_softmax(found._logits(asked), axis=1))
  return found._replace(powers=best_powers(logs, tau[held]))
