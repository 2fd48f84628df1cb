"""The number of clusters: its scores against brute force and scikit-learn."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.mixture import GaussianMixture

from jdiffclust.clustering.starts import choose as lib
from jdiffclust.clustering.starts.neighbours import NeighbourDistances
from jdiffclust.config import default_config


def cliques(count, size, seed=0):
  """Neighbours of `count` groups that know nobody outside."""
  rng = np.random.default_rng(seed)
  found = np.concatenate([np.tile(np.arange(size), (size, 1)) + size * k
                          for k in range(count)])
  return NeighbourDistances(found, rng.uniform(1, 2, found.shape))


def test_modularity_is_the_double_sum():
  """sum_ij (W_ij - d_i d_j / W) [z_i = z_j] / W; an unused number changes nothing."""
  rng = np.random.default_rng(0)
  weights = np.triu(rng.uniform(size=(20, 20)) * (rng.uniform(size=(20, 20)) < .3), 1)
  weights += weights.T
  members = rng.choice([0, 1, 3], 20)
  degrees, total = weights.sum(axis=0), weights.sum()
  wanted = sum((weights[i, j] - degrees[i] * degrees[j] / total) / total
               for i in range(20) for j in range(20) if members[i] == members[j])
  found = lib.modularity(scipy.sparse.csr_array(weights), members)
  assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize('count', (2, 5))
def test_cliques_are_counted(count):
  """Groups without a bridge: all votes, full stability, modularity 1 - 1 / groups."""
  near = cliques(count, 30)
  features = np.random.default_rng(1).normal(size=(near.count, 3))
  calls = []
  choice = lib.choose(near, features, range(2, 7), 2, .1, 0, lambda: calls.append(1))
  assert choice.chosen == count and choice.share(0) == 1 and len(calls) == 3
  at = choice.numbers.index(count)
  assert choice.stability[at] == 1 == max(choice.stability)
  # The groups' weights differ a little, as their distances do.
  assert choice.modularity[at] == pytest.approx(1 - 1 / count, abs=1e-3)
  assert sum(choice.votes) == 2 * 4 and choice.as_dict()['confidence'] == 1


def test_the_largest_number_has_all_its_eigenvectors(monkeypatch):
  """As many as if it were the only number that is tried, whatever others are."""
  asked, original = [], lib.cuts
  monkeypatch.setattr(lib, 'cuts', lambda vectors, number, *rest, **kwargs: (
      asked.append((number, [v.shape[1] for v in vectors])),
      original(vectors, number, *rest, **kwargs))[1])
  near = cliques(3, 12)
  for numbers in ((2, 3, 4), (4,)):
    lib.partitions(near, numbers, 0)
  assert [number for number, _ in asked] == [2, 3, 4, 4] and asked[2] == asked[3]


def test_neighbours_among_some_images():
  """The same graph as from the distances of these images alone."""
  rng = np.random.default_rng(0)
  squares = rng.uniform(1, 2, (15, 15))
  rows = np.array([1, 2, 5, 6, 7, 9, 11, 14])
  everyone = lambda count: np.tile(np.arange(count), (count, 1))
  part = NeighbourDistances(everyone(15), squares).among(rows)
  alone = NeighbourDistances(everyone(8), squares[np.ix_(rows, rows)])
  assert (part.count, part.most) == (alone.count, alone.most) == (8, 7)
  np.testing.assert_allclose(part.graph(3).toarray(), alone.graph(3).toarray())


@pytest.mark.parametrize('clusters', (1, 3))
def test_icl_is_that_of_a_gaussian_mixture(clusters):
  """scikit-learn's likelihood, posterior and penalty at the same parameters."""
  rng = np.random.default_rng(0)
  features = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))
  members = np.arange(60) % clusters
  model = GaussianMixture(clusters)
  groups = [features[members == q] for q in range(clusters)]
  model.weights_ = np.array([len(group) / 60 for group in groups])
  model.means_ = np.array([group.mean(axis=0) for group in groups])
  model.covariances_ = np.array(
      [np.cov(group.T, bias=True) + .3 * np.eye(4) for group in groups])
  model.precisions_cholesky_ = np.array(
      [np.linalg.cholesky(np.linalg.inv(c)) for c in model.covariances_])
  likelihood = model.score_samples(features).sum()
  penalty = model.bic(features) / 2 + likelihood
  completed = likelihood + np.log(
      model.predict_proba(features)[np.arange(60), members]).sum()
  assert lib.icl(features, members, .3) == pytest.approx((completed - penalty) / 60)


def test_shares_of_votes():
  """For the number itself, and with the next ones."""
  choice = lib.Choice([2, 3, 4, 6], [0.] * 4, [0.] * 4, [0.] * 4, [4, 1, 4, 1], 4)
  assert (choice.share(0), choice.share(1)) == (.4, .5)


def test_fewest_of_the_nearly_best():
  """Within a hundredth of the best, the first; row by row."""
  np.testing.assert_array_equal(
      lib.fewest(np.array([[.1, .295, .3, .299], [.2, .1, .05, .15], [0, .28, .3, .2]])),
      [1, 0, 2])


def test_patterns_are_counted_and_repeat():
  """Four patterns at random shades and places: four; the same seed, the same choice."""
  rng = np.random.default_rng(0)
  patterns = np.kron(rng.choice([-1., 1.], (4, 3, 3)), np.ones((2, 2)))
  labels = rng.integers(0, 4, 120)
  shift = rng.integers(0, 2, (120, 2))
  images = np.array([np.roll(patterns[k], s, (0, 1)) for k, s in zip(labels, shift)])
  images = (images * rng.uniform(.6, 1, (120, 1, 1)) + .1 * rng.normal(size=images.shape))
  config = default_config()
  config.em.auto_clusters, config.em.auto_parts = (2, 6), 1
  config.views.num, config.views.shift = 32, .15
  sample = np.clip(images, -1, 1).astype(np.float32).reshape(120, -1)
  choice = lib.choose_number(sample, (6, 6, 1), config)
  assert choice.chosen == 4
  assert lib.choose_number(sample, (6, 6, 1), config) == choice
