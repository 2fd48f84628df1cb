"""Neighbours, maps and mistakes of latents: scikit-learn, cases by hand."""

import json

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from jdiffclust.evaluation import latent_space as latents, scores as clustering


def leave_one_out(features, labels, k):
  """scikit-learn's score, one fit for each image."""
  return cross_val_score(KNeighborsClassifier(k), features, labels,
                         cv=LeaveOneOut()).mean()


def blobs(sizes, seed=0, dimension=4, spread=1.):
  """Points around a centre per size, and which centre."""
  rng = np.random.default_rng(seed)
  labels = np.repeat(np.arange(len(sizes)), sizes)
  centres = 4 * rng.normal(size=(len(sizes), dimension))
  return (centres[labels] + spread * rng.normal(size=(len(labels), dimension)),
          labels)


# ------------------------------------------------------------------ neighbours


@pytest.mark.parametrize('chunk', [7, 1024])
def test_neighbours_against_scikit_learn(chunk, monkeypatch):
  """In one chunk or several, with even k, whose ties go to the smallest label."""
  monkeypatch.setattr(latents, '_CHUNK', chunk)
  features, labels = blobs((13, 9, 6), spread=5.)
  ks = (1, 2, 4, 5, 12, 26)
  found = latents.neighbour_accuracy(features, labels, ks)
  expected = {k: leave_one_out(features, labels, k) for k in ks}
  assert found == pytest.approx(expected)
  assert len(set(expected.values())) > 2


def test_too_many_neighbours_are_left_out():
  """k <= N - 2, where N counts the labelled images only."""
  features, labels = blobs((6, 6))
  labels[:2] = -1
  found = latents.neighbour_accuracy(features, labels, (1, 8, 9, 100))
  assert list(found) == [1, 8]
  assert found[1] == leave_one_out(features[2:], labels[2:], 1)
  assert latents.neighbour_accuracy(features[:3], labels[:3]) == {}


def test_neighbours_by_hand():
  """On a line; names of labels need not be consecutive."""
  features = np.array([0., 1, 3, 10, 12])[:, None]
  labels = np.array([7, 7, 2, 2, 7])
  # k = 1: 0 and 1 have each other; 3 has 1 (7), 10 has 12 (7), 12 has 10 (2).
  # k = 3: 0 has {1, 3, 10} = {7, 2, 2}, 1 has {0, 3, 10}: wrong; 3 has {1, 0, 10}: wrong;
  # 10 has {12, 3, 1} = {7, 2, 7}: wrong; 12 has {10, 3, 1} = {2, 2, 7}: wrong.
  # k = 2: 0 has {1, 3}: tied, so 2; 1 has {0, 3}: 2; 3 has {1, 0}: 7; 10 has {12, 3}:
  # tied, so 2, right; 12 has {10, 3}: 2.
  assert latents.neighbour_accuracy(features, labels, (1, 2, 3)) == {
      1: 2 / 5, 2: 1 / 5, 3: 0}


@pytest.mark.parametrize('copies', [3, 5, 12])
def test_an_image_has_no_vote_on_itself(copies):
  """Also among copies of it, however many."""
  features = np.zeros((copies, 2))
  labels = np.arange(copies)
  assert latents.neighbour_accuracy(features, labels, (1,)) == {1: 0}
  assert latents.neighbour_accuracy(features, 0 * labels, (1,)) == {1: 1}


def test_latents_and_pixels_are_of_the_same_images():
  """A seeded part of the labelled ones; images of any shape."""
  features, labels = blobs((30, 30), dimension=12)
  labels[::4] = -1
  asked = []

  def images_at(indices):
    asked.append(indices)
    return features[indices].reshape(-1, 2, 2, 3)

  found = latents.compare_neighbours(features, labels, images_at, 3, 20, (1, 4, 30))
  assert found['num_images'] == 20 and found['latents'] == found['pixels']
  (part,) = asked
  assert len(set(part)) == 20 and (labels[part] >= 0).all()
  assert found['pixels'] == {k: leave_one_out(features[part], labels[part], k)
                             for k in (1, 4)}
  latents.compare_neighbours(features, labels, images_at, 3, 20)
  latents.compare_neighbours(features, labels, images_at, 4, 20)
  np.testing.assert_array_equal(asked[1], part)
  assert set(asked[2]) != set(part)


# ------------------------------------------------------------------------- map


def test_the_map_keeps_neighbours_and_repeats_exactly():
  """Three blobs stay apart, bit by bit the same from the same seed."""
  features, labels = blobs((20, 20, 20), dimension=6, spread=.3)
  points, indices = latents.embed(features, 5)
  assert points.shape == (60, 2)
  np.testing.assert_array_equal(indices, np.arange(60))
  gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
  np.fill_diagonal(gaps, np.inf)
  np.testing.assert_array_equal(labels[gaps.argmin(axis=1)], labels)
  np.testing.assert_array_equal(latents.embed(features, 5)[0], points)


def test_a_map_of_a_part():
  """The points are those of the indices, rising and of the seed."""
  features, _ = blobs((40, 40))
  points, indices = latents.embed(features, 1, 30)
  assert points.shape == (30, 2) and (np.diff(indices) > 0).all()
  np.testing.assert_array_equal(latents.embed(features[indices], 1)[0], points)
  assert set(latents.embed(features, 2, 30)[1]) != set(indices)


@pytest.mark.parametrize('features', [
    np.random.default_rng(0).normal(size=shape) for shape in ((2, 3), (4, 2), (9, 1))
] + [np.ones((9, 3))])
def test_maps_of_little(features):
  """Few images, single numbers, latents that are all the same."""
  features = features.astype(np.float32)
  points, _ = latents.embed(features, 0)
  assert points.shape == (len(features), 2) and np.isfinite(points).all()
  np.testing.assert_array_equal(latents.embed(features, 0)[0], points)


# -------------------------------------------------------------------- mistakes


def test_mistakes_by_hand():
  """Cluster 2 goes with label 0, cluster 0 with 1; cluster 1 is left over."""
  labels = np.array([0, 0, 0, 1, 1, -1, 1, 0])
  clusters = np.array([2, 2, 1, 0, 0, 0, 2, 0])
  certainty = np.array([.9, .9, .5, .9, .9, 1., .8, .95])
  assert latents.misclustered(labels, clusters, certainty).tolist() == [7, 6, 2]


@pytest.mark.parametrize('seed', range(5))
def test_mistakes_are_what_accuracy_counts(seed):
  """One minus ACC, none of them unlabelled, falling in certainty."""
  rng = np.random.default_rng(seed)
  labels, clusters = rng.integers(-1, 3, 50), rng.integers(0, 4, 50)
  certainty = rng.uniform(size=50)
  found = latents.misclustered(labels, clusters, certainty)
  known = labels >= 0
  assert len(found) == pytest.approx(
      known.sum() * (1 - clustering.accuracy(labels[known], clusters[known])))
  assert known[found].all() and (np.diff(certainty[found]) <= 0).all()


def test_first_of_each_kind():
  """Kinds are label and cluster."""
  labels, clusters = np.array([0, 0, 0, 1, 1, 0]), np.array([1, 1, 2, 1, 1, 2])
  mistakes = np.array([4, 1, 3, 0, 5, 2])
  assert latents.first_of_each_kind(mistakes, labels, clusters).tolist() == [
      4, 1, 5, 3, 0, 2]


# --------------------------------------------------------------------- results


def test_measure():
  """Scores where there are labels; the summary survives JSON."""
  features, labels = blobs((20, 20))
  responsibilities = np.eye(2)[1 - labels]
  responsibilities[0] = .1, .9  # now with the others
  labels[1] = 1
  images_at = lambda indices: features[indices, None, None]
  found = latents.measure(features, responsibilities, labels, images_at, 0, 30, 25)
  assert found.points.shape == (30, 2) and found.mistakes.tolist() == [1]
  assert found.neighbours['num_images'] == 25
  assert list(found.neighbours['latents']) == [3, 5, 7, 9]
  found = found._replace(terms={'error': [None, np.float32(.5)], 'units': [3, 2]})
  assert json.loads(json.dumps(found.summary, allow_nan=False)) == {
      'map_images': 30, 'misclustered': 1,
      'neighbours': {name: value if name == 'num_images' else
                     {str(k): share for k, share in value.items()}
                     for name, value in found.neighbours.items()},
      'terms': {'error': [None, .5], 'units': [3., 2.]}}


@pytest.mark.parametrize('labels', [None, np.full(20, -1)])
def test_measure_without_labels(labels):
  """Nothing is scored, no image is read."""
  features, _ = blobs((10, 10))
  found = latents.measure(features, np.full((20, 2), .5), labels, None, 0)
  assert found.neighbours is found.mistakes is None
  assert json.loads(json.dumps(found.summary)) == {
      'map_images': 20, 'neighbours': None, 'misclustered': None, 'terms': {}}
