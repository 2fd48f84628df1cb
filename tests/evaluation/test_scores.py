"""Scores against brute force, closed forms and scikit-learn."""

import itertools

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sklearn import metrics

from jdiffclust.evaluation import scores as clustering

PAIRS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30)


def brute_force_accuracy(labels, clusters):
  """Tries every one-to-one pairing, padding both sides to the same number."""
  count = max(labels.max(), clusters.max()) + 1
  return max(
      np.mean(np.array(pairing)[clusters] == labels)
      for pairing in itertools.permutations(range(count)))


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_accuracy_is_the_best_over_all_pairings(pairs):
  labels, clusters = np.array(pairs).T
  assert clustering.accuracy(labels, clusters) == pytest.approx(
      brute_force_accuracy(labels, clusters))


@settings(max_examples=20, deadline=None)
@given(PAIRS, st.permutations(range(5)), st.permutations(range(4)))
def test_scores_ignore_names(pairs, new_clusters, new_labels):
  labels, clusters = np.array(pairs).T
  renamed = clustering.clustering_scores(
      np.array(new_labels)[labels], np.array(new_clusters)[clusters])
  assert renamed == pytest.approx(clustering.clustering_scores(labels, clusters))


def test_closed_forms():
  labels = np.repeat([0, 1], 4)
  perfect = {'acc': 1, 'nmi': 1, 'ari': 1}
  assert clustering.clustering_scores(labels, 1 - labels) == pytest.approx(perfect)
  # Independent halves: no information, and Hubert and Arabie's index by hand is
  # (4 - 144/28) / (12 - 144/28) = -1/6.
  half = np.tile([0, 1], 4)
  independent = {'acc': .5, 'nmi': 0, 'ari': -1 / 6}
  assert clustering.clustering_scores(labels, half) == pytest.approx(
      independent, abs=1e-9)


def test_more_clusters_than_labels_leave_some_unmatched():
  labels, clusters = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 2, 3, 3])
  matched = clustering.match_clusters(labels, clusters, num_clusters=5)
  assert matched.tolist() == [0, -1, -1, 1, -1]
  assert clustering.accuracy(labels, clusters) == pytest.approx(.8)


def test_fewer_clusters_than_labels():
  labels = np.array([0, 0, 1, 2, 2, 2])
  assert clustering.match_clusters(labels, labels * 0).tolist() == [2]
  assert clustering.accuracy(labels, labels * 0) == pytest.approx(.5)


def test_contingency_is_the_confusion_matrix():
  rng = np.random.default_rng(0)
  labels, clusters = rng.integers(0, 4, (2, 50))
  np.testing.assert_array_equal(
      clustering.contingency(labels, clusters, 4),
      metrics.confusion_matrix(labels, clusters, labels=range(4)))
  assert clustering.contingency(labels, clusters, 9).shape == (4, 9)


@pytest.mark.parametrize('labels, clusters, num_clusters', [
    ([], [], None), ([0, 1], [0], None), ([-1], [0], None), ([0], [2], 2),
    ([.5], [0], None)])
def test_bad_input(labels, clusters, num_clusters):
  with pytest.raises(ValueError):
    clustering.contingency(labels, clusters, num_clusters)


def test_no_labels_no_scores():
  assert clustering.clustering_scores(None, [0, 1]) == {
      'acc': None, 'nmi': None, 'ari': None}


def test_entropy():
  given_rows = np.array([[1, 0, 0, 0], [.5, .5, 0, 0], [.25] * 4], np.float32)
  np.testing.assert_allclose(
      clustering.entropy(given_rows), np.log([1, 2, 4]), atol=1e-6)


def test_cluster_table():
  rows = clustering.cluster_table(np.array([[.9, .1, 0], [.7, .3, 0], [.4, .6, 0]]))
  assert [row['size'] for row in rows] == [2, 1, 0]
  assert [row['share'] for row in rows] == pytest.approx([2 / 3, 1 / 3, 0])
  assert [row['effective_size'] for row in rows] == pytest.approx([2, 1, 0])
  assert rows[0]['mean_certainty'] == pytest.approx(.8)
  assert rows[2]['mean_certainty'] is None


def test_reliability_counts_by_hand():
  """Cluster 0 is label 1, cluster 1 label 0; the image of no known label is left out."""
  tau = np.array([[.55, .45], [.6, .4], [.8, .2], [.05, .95], [.1, .9], [0, 1], [.5, .5]])
  labels = np.array([1, 0, 1, 0, 0, 0, -1])
  rows = clustering.reliability(labels, tau, (0., .7, .9, 1.))
  assert [(row['low'], row['high'], row['num_images'], row['right']) for row in rows] == [
      (0., .7, 2, .5), (.7, .9, 1, 1.), (.9, 1., 3, 1.)]
  np.testing.assert_allclose([row['expected'] for row in rows],
                             [.575, .8, (.95 + .9 + 1) / 3])


@given(st.integers(0, 1000))
def test_reliability_of_calibrated_answers(seed):
  """All images are in one range; right on average as often as the ranges say together."""
  rng = np.random.default_rng(seed)
  tau = rng.dirichlet([.5, .5, .5], 50)
  labels = rng.integers(0, 3, 50)
  rows = clustering.reliability(labels, tau)
  count = np.array([row['num_images'] for row in rows])
  assert count.sum() == 50
  right = sum(row['right'] * row['num_images'] for row in rows) / 50
  assert right == pytest.approx(clustering.accuracy(labels, tau.argmax(1)))
  expected = sum(row['expected'] * row['num_images'] for row in rows) / 50
  assert expected == pytest.approx(tau.max(1).mean())
