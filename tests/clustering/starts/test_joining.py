"""Cells are joined by average linkage: against scipy, and by hand."""

import numpy as np
import pytest
import scipy.sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from jdiffclust.clustering.starts.joining import joined, weights_between
from jdiffclust.clustering.starts.recognition import rejoined


def random_graph(count, seed):
  """Symmetric weights in [0, 1], no loops."""
  weights = np.random.default_rng(seed).random((count, count))
  weights = (weights + weights.T) / 2
  np.fill_diagonal(weights, 0)
  return weights


@pytest.mark.parametrize('num_clusters', [1, 2, 5, 11])
def test_single_images_join_as_in_scipy(num_clusters):
  """Of distances 1 - w, whose means are those of the weights."""
  weights = random_graph(12, 0)
  apart = 1 - weights
  np.fill_diagonal(apart, 0)
  expected = fcluster(linkage(squareform(apart), 'average'), num_clusters, 'maxclust')
  found = joined(np.arange(12), scipy.sparse.csr_array(weights), num_clusters)
  assert set(found) == set(range(num_clusters))
  assert adjusted_rand_score(expected, found) == 1


def test_mean_weight_decides():
  """Many weak edges between large cells lose against one strong edge of a small cell."""
  cells = np.array([0] * 10 + [1] * 10 + [2])
  weights = np.zeros((21, 21))
  weights[:10, 10:20] = .1  # 100 edges, 10 in all, mean .1
  weights[:10, 20] = .3  # 10 edges, 3 in all, mean .3
  weights += weights.T
  graph = scipy.sparse.csr_array(weights)
  np.testing.assert_allclose(weights_between(cells, graph),
                             [[0, 10, 3], [10, 0, 0], [3, 0, 0]])
  assert joined(cells, graph, 2).tolist() == [0, 1, 0]


def test_no_more_clusters_than_cells():
  """Two cells stay two, whatever is asked for."""
  graph = scipy.sparse.csr_array(random_graph(4, 1))
  assert joined(np.array([0, 0, 1, 1]), graph, 5).tolist() == [0, 1]


def test_responsibilities_of_joined_cells_are_sums():
  """Cells 0 and 2 are one cluster; cell 3 has no members, so its shares are dropped."""
  tau = np.array([[.6, .1, .2, .1], [.1, .7, .1, .1], [.2, .1, .6, .1]], np.float32)
  graph = scipy.sparse.csr_array(np.array([[0, 0, 1.], [0, 0, 0], [1, 0, 0]]))
  found = rejoined(tau, graph, 2)
  np.testing.assert_allclose(found, [[8 / 9, 1 / 9], [2 / 9, 7 / 9], [8 / 9, 1 / 9]],
                             rtol=1e-6)


def test_nearness_decides_where_no_weights_do():
  """Three cells without edges: the two whose means are nearest; an edge counts more."""
  features = np.array([[0.], [1.], [5.], [6.], [9.], [9.]])
  cells = np.array([0, 0, 1, 1, 2, 2])
  weights = np.zeros((6, 6))
  graph = scipy.sparse.csr_array(weights)
  weights[0, 1] = weights[1, 0] = 1.
  inner = scipy.sparse.csr_array(weights)
  assert joined(cells, inner, 2, features).tolist() == [0, 1, 1]
  weights[0, 4] = weights[4, 0] = .01
  assert joined(cells, scipy.sparse.csr_array(weights), 2, features).tolist() == [0, 1, 0]
  assert sorted(joined(cells, graph, 2, features)) in ([0, 0, 1], [0, 1, 1])
