"""Measures of samples against closed forms, brute force and known generators."""

import json
import math

import numpy as np
import pytest
from scipy import linalg

from jdiffclust.evaluation import sample_quality as quality


def with_moments(rng, n, mean, covariance):
  """[n, d] rows whose own mean and covariance are exactly these."""
  x = rng.normal(size=(n, len(mean)))
  x = np.linalg.qr(x - x.mean(axis=0))[0] * math.sqrt(n - 1)
  return x @ np.linalg.cholesky(covariance).T + mean


def spd(rng, d):
  """A random covariance."""
  a = rng.normal(size=(d, d))
  return a @ a.T + .1 * np.eye(d)


# -------------------------------------------------------------- Frechet distance


def test_frechet_of_commuting_gaussians():
  """|m|^2 + sum (s_r - s_g)^2, in any common basis of the covariances."""
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
  s, r = np.array([3., 2, 1, .5]), np.array([1., 2, 4, .1])
  shift = np.array([1., 0, -2, .5])
  a = with_moments(rng, 20, np.ones(4), basis * s**2 @ basis.T)
  b = with_moments(rng, 35, np.ones(4) + shift, basis * r**2 @ basis.T)
  expected = np.sum(shift**2) + np.sum((s - r)**2)
  assert quality.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('d,n', [(1, 9), (5, 40), (5, 4)])
def test_frechet_against_scipy(d, n):
  """tr sqrtm(S_r S_g), also of covariances without full rank."""
  rng = np.random.default_rng(d + n)
  a, b = rng.normal(size=(n, d)) @ spd(rng, d), rng.normal(size=(n + 1, d)) + .3
  s, r = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
  # A matrix of the same non-zero eigenvalues as S_r S_g that sqrtm can take.
  factor = linalg.cholesky(r + 1e-13 * np.eye(d)).T
  cross = np.trace(linalg.sqrtm(factor.T @ s @ factor + 1e-13 * np.eye(d))).real
  expected = np.sum((a.mean(0) - b.mean(0))**2) + np.trace(s) + np.trace(r) - 2 * cross
  assert quality.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
  if n > d:
    assert quality.frechet_distance(a, b) == pytest.approx(
        np.sum((a.mean(0) - b.mean(0))**2) + np.trace(s + r)
        - 2 * np.trace(linalg.sqrtm(s @ r)).real, rel=1e-9)


def test_frechet_is_biased_upwards():
  """Of equal distributions: at least tr(S) (1/n + 1/m), from the means alone."""
  rng = np.random.default_rng(1)
  n, m, d = 30, 20, 3
  found = [quality.frechet_distance(rng.normal(size=(n, d)), rng.normal(size=(m, d)))
           for _ in range(300)]
  error = np.std(found) / math.sqrt(len(found))
  assert np.mean(found) > d * (1 / n + 1 / m) + 3 * error
  assert quality.frechet_distance(np.eye(4), np.eye(4)) == pytest.approx(0, abs=1e-12)


def test_invariances():
  """Order, rotation and shift change nothing; a scale squares in the Frechet distance."""
  rng = np.random.default_rng(2)
  a, b = rng.normal(size=(40, 6)), rng.normal(size=(30, 6)) * 1.5 + .2
  before = quality.compare(a, b, 3)
  rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
  after = quality.compare(rng.permutation(a) @ rotation + 7,
                          rng.permutation(b) @ rotation + 7, 3)
  assert after == pytest.approx(before, rel=1e-9)
  scaled = quality.compare(3 * a, 3 * b, 3)
  assert scaled == pytest.approx({**before, 'frechet': 9 * before['frechet']}, rel=1e-9)
  assert quality.frechet_distance(b, a) == pytest.approx(before['frechet'], rel=1e-9)


# ------------------------------------------------------- manifolds of neighbours


def brute_force(real, generated, k):
  """The papers' formulas, loop by loop."""
  def radius(rows, i):
    return sorted(math.dist(rows[i], rows[j])
                  for j in range(len(rows)) if j != i)[k - 1]
  real_radii = [radius(real, i) for i in range(len(real))]
  generated_radii = [radius(generated, j) for j in range(len(generated))]
  inside = [[math.dist(x, y) <= r for y in generated] for x, r in zip(real, real_radii)]
  precision = sum(any(row[j] for row in inside)
                  for j in range(len(generated))) / len(generated)
  recall = sum(any(math.dist(x, y) <= r for y, r in zip(generated, generated_radii))
               for x in real) / len(real)
  density = sum(map(sum, inside)) / (k * len(generated))
  coverage = sum(map(any, inside)) / len(real)
  return precision, recall, density, coverage


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('k', [1, 2, 4])
def test_manifolds_against_brute_force(seed, k):
  """On a grid, so that there are ties and copies."""
  rng = np.random.default_rng(seed)
  real = rng.integers(0, 6, (9, 2)).astype(float)
  generated = rng.integers(0, 6, (7, 2)) + rng.integers(0, 3)
  found = (*quality.precision_recall(real, generated, k),
           *quality.density_coverage(real, generated, k))
  assert found == pytest.approx(brute_force(real, generated, k))
  assert tuple(quality.compare(real, generated, k).values())[1:] == found


@pytest.mark.parametrize('n,m,k', [(20, 20, 3), (30, 12, 5)])
def test_density_and_coverage_of_equal_distributions(n, m, k):
  """E density = 1; E coverage = 1 - prod (n - j) / (n + m - j) (Naeem et al., 2020)."""
  rng = np.random.default_rng(n)
  found = np.array([
      quality.density_coverage(rng.uniform(size=(n, 2)), rng.uniform(size=(m, 2)), k)
      for _ in range(1500)])
  none_inside = math.prod((n - j) / (n + m - j) for j in range(1, k + 1))
  error = found.std(axis=0) / math.sqrt(len(found))
  assert (error < .01).all()
  assert (abs(found.mean(axis=0) - [1, 1 - none_inside]) < 4 * error).all()


def test_manifolds_tell_collapse_from_noise():
  """One mode: precise, but little recall and coverage. Far away: nothing."""
  rng = np.random.default_rng(3)
  real = np.concatenate([rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) + 30])
  one_mode = rng.normal(size=(100, 3)) * .3
  precision, recall = quality.precision_recall(real, one_mode, 5)
  density, coverage = quality.density_coverage(real, one_mode, 5)
  assert precision > .95 and recall < .5 and density > 1.2 and coverage <= .5
  far = {**quality.compare(real, one_mode + 1000, 5), 'frechet': 0}
  assert far == dict.fromkeys(far, 0)


# ------------------------------------------------------ nearest image, classifier


@pytest.mark.parametrize('sizes', [(12,), (5, 7), (1, 1, 10), (4, 4, 4)])
def test_nearest_training_against_brute_force(sizes):
  """In any blocks, with and without the image itself."""
  rng = np.random.default_rng(4)
  training = rng.uniform(-1, 1, (12, 3, 2, 1)).astype(np.float32)
  blocks = np.split(training, np.cumsum(sizes)[:-1])
  images = rng.uniform(-1, 1, (6, 3, 2, 1)).astype(np.float32)
  images[2] = training[7]
  distances, indices = quality.nearest_training(images, blocks)
  table = np.sqrt(((images[:, None] - training[None])**2).mean(axis=(2, 3, 4)))
  np.testing.assert_array_equal(indices, table.argmin(axis=1))
  np.testing.assert_allclose(distances, table.min(axis=1), rtol=1e-6)
  assert distances[2] == 0 and indices[2] == 7

  own = np.array([3, 11, 0, 5])
  distances, indices = quality.nearest_training(training[own], blocks, own)
  table = np.sqrt(((training[own][:, None] - training[None])**2).mean(axis=(2, 3, 4)))
  table[np.arange(4), own] = np.inf
  np.testing.assert_array_equal(indices, table.argmin(axis=1))
  np.testing.assert_allclose(distances, table.min(axis=1), rtol=1e-6)


def test_a_doubled_training_image_is_at_distance_zero():
  """Only the image itself is left out, not its twin."""
  training = np.array([1., 2, 2, 5])[:, None, None, None]
  distances, indices = quality.nearest_training(training[1:3], [training], [1, 2])
  assert distances.tolist() == [0, 0] and indices.tolist() == [2, 1]
  _, indices = quality.nearest_training(training[2:3], np.split(training, 4))
  assert indices.tolist() == [1]  # the first of equals, across blocks


def test_label_accuracy_by_hand():
  """Images of clusters without a label do not count."""
  assert quality.generated_label_accuracy([0, 1, 2, 1], [0, 1, 1, -1]) == 2 / 3
  assert quality.generated_label_accuracy([0, 1], [-1, -1]) is None
  training = np.array([0., .1, .2, 1, 1.1])[:, None, None, None]
  predicted = quality.predict_labels(training, [3, 3, 3, 8, 8], training + .04, 3)
  assert predicted.tolist() == [3, 3, 3, 8, 8]
  # Fewer training images than neighbours: all of them vote.
  predicted = quality.predict_labels(training, [3, 3, 3, 8, 8], training, 50)
  assert predicted.tolist() == [3] * 5


def test_proportional():
  """The largest cluster gives all it has."""
  assert quality.proportional([.5, .25, .25], 8) == [8, 4, 4]
  assert quality.proportional([.9, .1, 0], 20) == [20, 2, 0]


def test_noise_has_the_pixels_moments():
  """Mean and deviation of each pixel, no correlation between them."""
  rng = np.random.default_rng(5)
  common = rng.normal(size=(500, 1, 1, 1))
  images = np.concatenate([common, 2 * common + 1], axis=1)
  noise = quality.noise_like(images, 20000, rng).reshape(-1, 2)
  np.testing.assert_allclose(noise.mean(0), images.mean(0).ravel(), atol=.06)
  np.testing.assert_allclose(noise.std(0), images.std(0).ravel(), rtol=.03)
  assert abs(np.corrcoef(noise.T)[0, 1]) < .03


# ------------------------------------------------------------------ whole measure

FLAT = {'pixels': lambda images: images.reshape(len(images), -1).astype(np.float64)}
PATTERNS = np.array([[[.6, -.6], [0, 0]], [[-.6, .6], [0, 0]]])[..., None]


def draw(rng, cluster, count):
  """Real images of a cluster: a pattern, and variation along one direction."""
  along = rng.uniform(-.3, .3, (count, 1, 1, 1))
  return (PATTERNS[cluster] + along * np.array([[0, 0], [1, -1]])[..., None]
          + .02 * rng.normal(size=(count, 2, 2, 1))).astype(np.float32)


def real_images(rng, sizes=(120, 60)):
  """Two clusters that are the labels 4 and 1."""
  clusters = np.repeat([0, 1], sizes)
  return quality.RealImages(
      np.concatenate([draw(rng, q, size) for q, size in enumerate(sizes)]),
      clusters, np.array([4, 1])[clusters], np.arange(len(clusters)))


def measured(real, generated, rng_seed=0, proportions=None, **changes):
  """`measure` with the settings of the tests."""
  if proportions is None:
    proportions = np.bincount(real.clusters) / len(real.clusters)
  arguments = dict(maps=FLAT, levels=None, neighbours=3, splits=4, seed=rng_seed)
  return quality.measure(real, generated, proportions, [real.images],
                         **{**arguments, **changes})


def generate(kind, real, rng, count=60):
  """Generated images [2, count, 2, 2, 1] of a known generator."""
  if kind == 'perfect':
    return np.stack([draw(rng, q, count) for q in range(2)])
  if kind == 'copies':
    return np.stack([real.images[rng.choice(np.flatnonzero(real.clusters == q), count)]
                     for q in range(2)])
  if kind == 'swapped':
    return np.stack([draw(rng, 1 - q, count) for q in range(2)])
  return rng.uniform(-1, 1, (2, count, 2, 2, 1)).astype(np.float32)


@pytest.fixture(scope='module')
def judged():
  """{generator: what `measure` says of it}."""
  rng = np.random.default_rng(6)
  real = real_images(rng)
  return {kind: measured(real, generate(kind, real, rng)).summary
          for kind in ('perfect', 'copies', 'swapped', 'noise')}


def test_perfect_samples_score_as_real_ones(judged):
  """Overall and by cluster, in every measure."""
  for group in (judged['perfect']['overall'], *judged['perfect']['clusters']):
    generated, real = group['generated'], group['real']
    assert generated['label_accuracy']['mean'] == real['label_accuracy']['mean'] == 1
    assert .75 < generated['nearest_ratio'] < 1.3 and real['nearest_ratio'] == 1
    assert generated['near_copies'] < .2 and .02 < real['near_copies'] < .08
    for key in ('precision', 'recall', 'density', 'coverage'):
      one, other = generated['pixels'][key], real['pixels'][key]
      assert abs(one['mean'] - other['mean']) < .15
    assert generated['pixels']['frechet']['mean'] < .03
  assert judged['perfect']['overall']['num_images'] == 90  # 60 + 30, in proportion
  assert [row['num_images'] for row in judged['perfect']['clusters']] == [60, 30]


def test_baselines_do_not_depend_on_the_samples(judged):
  """Nor does perfect density: 1 on average."""
  real = [found['overall']['real']['pixels'] for found in judged.values()]
  assert all(abs(row['density']['mean'] - 1) < .15 for row in real)
  noise = judged['perfect']['overall']['noise']
  assert noise['pixels']['frechet']['mean'] > 5 * real[0]['frechet']['mean']
  assert noise['pixels']['density']['mean'] < .6
  # Noise of no cluster: nothing but chance makes it agree.
  assert .3 < noise['label_accuracy']['mean'] < .7


def test_copies_are_detected(judged):
  """Excellent by every other measure, but at distance 0 from the training images."""
  for group in (judged['copies']['overall'], *judged['copies']['clusters']):
    assert group['generated']['nearest_ratio'] == 0
    assert group['generated']['near_copies'] == 1
    assert group['generated']['pixels']['precision']['mean'] > .9


def test_more_samples_than_needed(judged):
  """As many as the real images are taken, of all clusters alike."""
  rng = np.random.default_rng(12)
  real = real_images(rng)
  found = measured(real, generate('perfect', real, rng, 400)).summary['overall']
  assert found['num_images'] == 90
  assert found['generated']['pixels']['recall']['mean'] > .8
  assert found['generated']['pixels']['frechet']['mean'] < .03


def test_noise_is_detected(judged):
  """Far from the real images, and from their cluster."""
  found = judged['noise']['overall']['generated']
  assert found['nearest_ratio'] > 3 and found['near_copies'] == 0
  assert found['pixels']['precision']['mean'] < .3
  assert found['pixels']['density']['mean'] < .1
  assert found['label_accuracy']['mean'] < .8


def test_images_of_the_wrong_cluster_are_detected(judged):
  """Overall they are perfect; by cluster they are not, and the table says so."""
  found = judged['swapped']
  assert found['overall']['generated']['pixels']['precision']['mean'] > .8
  assert found['overall']['generated']['label_accuracy']['mean'] == 0
  for group in found['clusters']:
    assert group['generated']['pixels']['coverage']['mean'] == 0
  assert found['predicted'] == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]
  assert [row['label'] for row in found['clusters']] == [4, 1]


def test_without_labels_clusters_take_their_place(judged):
  """None, or all unknown; some unknown ones change nothing that is certain."""
  rng = np.random.default_rng(7)
  real = real_images(rng)
  generated = generate('perfect', real, rng)
  for labels in (None, np.full(180, -1)):
    found = measured(real._replace(labels=labels), generated).summary
    assert found['targets'] == 'clusters'
    assert found['overall']['generated']['label_accuracy']['mean'] == 1
    assert np.shape(found['predicted']) == (2, 2)
  some = np.where(rng.random(180) < .5, real.labels, -1)
  found = measured(real._replace(labels=some), generated).summary
  assert found['targets'] == 'labels' == judged['perfect']['targets']
  assert found['classifier_accuracy']['mean'] == 1


def test_more_clusters_than_labels():
  """A cluster without a label has no accuracy, and the others do not suffer."""
  rng = np.random.default_rng(8)
  real = real_images(rng)
  clusters = real.clusters.copy()
  clusters[:40] = 2  # a part of label 4
  generated = np.stack([draw(rng, q, 20) for q in (0, 1, 0)])
  found = measured(real._replace(clusters=clusters), generated).summary
  accuracies = [group['generated']['label_accuracy'] for group in found['clusters']]
  assert [row['label'] for row in found['clusters']] == [4, 1, None]
  assert accuracies[2] is None and accuracies[0]['mean'] == accuracies[1]['mean'] == 1
  assert found['overall']['generated']['label_accuracy']['mean'] == 1


def test_too_few_images_and_empty_clusters():
  """What cannot be measured is None, and the summary is JSON."""
  rng = np.random.default_rng(9)
  real = real_images(rng, (20, 7))  # halves of 4 and 3: too few for k = 3
  generated = np.stack([draw(rng, q, 20) for q in (0, 1, 1)])
  found = measured(real, generated, proportions=[.7, .3, 0], splits=1).summary
  json.dumps(found, allow_nan=False)
  full, few, empty = found['clusters']
  assert full['real']['pixels']['recall']['std'] is None
  assert few['real']['pixels'] is None and few['generated']['nearest_ratio'] > 0
  assert empty['generated']['nearest_ratio'] is None
  assert empty['num_images'] == 0


@pytest.mark.parametrize('labels', [None, np.array([0, 1, -1])])
def test_single_images(labels):
  """Three clusters of an image each: no halves, but nearest images."""
  rng = np.random.default_rng(11)
  real = quality.RealImages(draw(rng, 0, 3), np.arange(3), labels, np.arange(3))
  found = measured(real, np.stack([draw(rng, 0, 5)] * 3)).summary
  json.dumps(found, allow_nan=False)
  assert found['overall']['generated']['label_accuracy'] is None
  assert found['classifier_accuracy'] is None
  assert found['overall']['generated']['nearest_distance'] > 0


def test_samples_are_taken_as_a_file_holds_them():
  """Clipped, and on the grey levels: overshoot makes no difference."""
  rng = np.random.default_rng(10)
  real = real_images(rng)
  generated = 3 * rng.normal(size=(2, 20, 2, 2, 1))
  found = measured(real, generated, levels=3)
  assert set(np.unique(found.images)) == {-1, 0, 1}
  np.testing.assert_array_equal(
      found.distances, measured(real, np.clip(generated, -1, 1), levels=3).distances)
  table = np.sqrt(((found.images[:, :, None] - real.images)**2).mean(axis=(3, 4, 5)))
  np.testing.assert_allclose(found.distances, table.min(axis=2), rtol=1e-5)
  np.testing.assert_array_equal(found.nearest, table.argmin(axis=2))
