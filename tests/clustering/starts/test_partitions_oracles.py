"""Starting partitions against scikit-learn itself, and what re-seeding promises."""

import sys
import types

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.clustering.starts.partitions import (
    gaussian_mixture, kmeans, mixture_on_manifold, random)
from jdiffclust.config import default_config
from jdiffclust.errors import UserError
from jdiffclust.evaluation.features import principal_components
from jdiffclust.training.empty import reseed_empty


@pytest.fixture(scope='module')
def blobs():
  """Overlapping clusters, 120 points in 6 dimensions."""
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(5, 6)) * .35
  return (centres[rng.integers(0, 5, 120)] + .2 * rng.normal(size=(120, 6))).astype(
      np.float32)


def test_kmeans_is_sklearns(blobs):
  """Same labels as KMeans of that seed and as many restarts; rows one-hot."""
  tau = kmeans(blobs, 4, 5, 3)(blobs, np.arange(120))
  expected = KMeans(4, n_init=5, random_state=3).fit(blobs).labels_
  np.testing.assert_array_equal(tau.argmax(axis=1), expected)
  assert (np.sort(tau, axis=1) == [0, 0, 0, 1]).all()


def test_kmeans_inertia_is_the_best(blobs):
  """Its inertia is no worse than that of any single restart we fit ourselves."""
  tau = kmeans(blobs, 4, 20, 0)(blobs, np.arange(120))
  inertia = sum(((blobs[tau[:, q] > 0] - blobs[tau[:, q] > 0].mean(axis=0))**2).sum()
                for q in range(4))
  singles = [KMeans(4, n_init=1, random_state=s).fit(blobs).inertia_ for s in range(10)]
  assert inertia <= min(singles) * 1.01


def mean_log_likelihood(x, tau, noise):
  """Of the mixture that the responsibilities imply, by the normal density."""
  total = np.zeros((len(x), tau.shape[1]))
  for q in range(tau.shape[1]):
    weight = tau[:, q].sum()
    mean = tau[:, q] @ x / weight
    centred = x - mean
    cov = (tau[:, q, None] * centred).T @ centred / weight + noise * np.eye(x.shape[1])
    _, logdet = np.linalg.slogdet(cov)
    square = np.einsum('ni,ij,nj->n', centred, np.linalg.inv(cov), centred)
    total[:, q] = np.log(weight / len(x)) - .5 * (
        square + logdet + x.shape[1] * np.log(2 * np.pi))
  return np.logaddexp.reduce(total, axis=1).mean()


def test_mixture_is_chosen_by_likelihood(blobs):
  """As likely as the best of separately fitted restarts, and above the average one."""
  tau = gaussian_mixture(blobs, 4, 12, 0, 3, .01)(blobs, np.arange(120))
  x = PCA(3, svd_solver='full').fit(blobs).transform(blobs).astype(np.float64)
  singles = [GaussianMixture(4, reg_covar=.01, max_iter=200, random_state=s).fit(x)
             for s in range(12)]
  scores = [mean_log_likelihood(x, s.predict_proba(x), .01) for s in singles]
  score = mean_log_likelihood(x, tau.astype(np.float64), .01)
  assert np.ptp(scores) > 1e-3  # restarts do differ
  assert score > np.mean(scores) and score > max(scores) - 1e-3
  np.testing.assert_allclose(tau.sum(axis=1), 1, atol=1e-5)


def test_mixture_is_sklearns(blobs):
  """Same posterior as PCA and GaussianMixture called directly; components limited."""
  tau = gaussian_mixture(blobs, 4, 3, 7, 50, .05)(blobs, np.arange(120))
  x = PCA(6, svd_solver='full').fit(blobs).transform(blobs).astype(np.float64)
  model = GaussianMixture(4, reg_covar=.05, n_init=3, max_iter=200, random_state=7)
  np.testing.assert_allclose(tau, model.fit(x).predict_proba(x), atol=1e-4)


def test_mixture_beyond_its_sample(blobs):
  """Images outside the fitted sample get posteriors like those of their neighbours."""
  assign = gaussian_mixture(blobs[:60], 3, 5, 0, 4, .05)
  near = assign(blobs[:60] + np.float32(1e-5), np.arange(60))
  assert adjusted_rand_score(assign(blobs[:60], None).argmax(1), near.argmax(1)) == 1
  assert assign(blobs[60:], np.arange(60, 120)).shape == (60, 3)


def test_random_depends_on_index_only():
  """Rows follow (seed, index): any subset, any order, any image content."""
  assign = random(4, 5)
  whole = assign(np.zeros((50, 6)), np.arange(50))
  some = np.array([40, 3, 17])
  np.testing.assert_array_equal(assign(np.ones((3, 6)), some), whole[some])
  np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
  assert len(np.unique(whole)) == whole.size
  assert np.abs(random(4, 6)(None, np.arange(50)) - whole).max() > .1


def test_random_is_uniform_on_the_simplex():
  """Mean 1/Q, variance (Q - 1) / (Q^2 (Q + 1)) of a flat Dirichlet, 4 s.e."""
  rows = random(3, 0)(None, np.arange(3000)).astype(np.float64)
  variance = 2 / (9 * 4)
  assert np.abs(rows.mean(axis=0) - 1 / 3).max() < 4 * (variance / 3000)**.5
  np.testing.assert_allclose(rows.var(axis=0), variance, rtol=.1)


def test_components_above_the_average_variance():
  """Variances 9, 4, 1, .01 (mean 3.5): Kaiser's rule keeps two; 3 keeps three."""
  rng = np.random.default_rng(0)
  x = np.linalg.qr(rng.normal(size=(200, 4)) - 0.)[0]
  x = (x - x.mean(axis=0)) @ np.diag([3., 2., 1., .1])
  assert principal_components(x, 0).n_components_ == 2
  assert principal_components(x, 3).n_components_ == 3
  assert principal_components(x, 50).n_components_ == 4


def test_mixture_on_tsne_finds_groups_far_apart():
  """Three tight groups: found exactly; new images go to the nearest one's cluster."""
  rng = np.random.default_rng(0)
  owners = np.arange(90) % 3
  x = (10 * np.eye(3, 5)[owners] + .1 * rng.normal(size=(90, 5))).astype(np.float32)
  assign = mixture_on_manifold('tsne', x, 3, 3, 0)
  assert adjusted_rand_score(owners, assign(x, None).argmax(axis=1)) == 1
  new = x[:9] + np.float32(.05)
  np.testing.assert_array_equal(assign(new, None), assign(x[:9], None))


def test_tsne_sees_fifty_principal_components(monkeypatch):
  """Of 64 numbers an image: the scores that NumPy's SVD gives, up to their signs."""
  seen = []

  class FirstTwo:
    def __init__(self, **settings):
      assert settings == {'perplexity': 30., 'random_state': 0}

    def fit_transform(self, scores):
      seen.append(scores)
      return scores[:, :2]

  monkeypatch.setattr('jdiffclust.clustering.starts.partitions.TSNE', FirstTwo)
  x = np.random.default_rng(0).normal(size=(100, 64)) * np.linspace(3, .1, 64)
  mixture_on_manifold('tsne', x.astype(np.float32), 3, 1, 0)
  left, values, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
  np.testing.assert_allclose(np.abs(seen[0]), np.abs(left * values)[:, :50], atol=1e-3)


@pytest.mark.parametrize('count, neighbours', [(120, 15), (9, 8)])
def test_umap_is_asked_for_what_it_allows(count, neighbours, blobs, monkeypatch):
  """One job, as there is a seed (umap-learn refuses 0); fewer neighbours than points."""
  seen = []

  class UMAP:
    def __init__(self, **settings):
      seen.append(settings)

    def fit_transform(self, scores):
      return scores[:, :2]

  monkeypatch.setitem(sys.modules, 'umap', types.SimpleNamespace(UMAP=UMAP))
  mixture_on_manifold('umap', blobs[:count], 2, 1, 3)
  assert seen == [{'random_state': 3, 'n_jobs': 1, 'n_neighbors': neighbours}]


def test_umap_is_optional(blobs, monkeypatch):
  """Without umap-learn: what to install."""
  monkeypatch.setitem(sys.modules, 'umap', None)
  with pytest.raises(UserError, match=r"pip install 'jdiffclust\[umap\]'"):
    mixture_on_manifold('umap', blobs, 3, 3, 0)


@pytest.mark.parametrize('name', ('random', 'kmeans', 'gaussian_mixture', 'neighbours',
                                  'tsne', 'latents'))
def test_fit_start_is_deterministic(blobs, name):
  """Every start fitted twice is the same, and sums to one."""
  config = default_config()
  config.update(num_clusters=4, seed=1)
  config.start.update(restarts=2, components=3)
  one, two = (fit_start(name, blobs, (2, 3, 1), config)(blobs, np.arange(120))
              for _ in range(2))
  np.testing.assert_array_equal(one, two)
  assert one.dtype == np.float32 and one.shape == (120, 4)
  np.testing.assert_allclose(one.sum(axis=1), 1, atol=1e-5)


@st.composite
def emptied(draw, hard):
  """Responsibilities with some empty clusters, and the images' bounds."""
  clusters, rows = draw(st.integers(2, 5)), draw(st.integers(1, 40))
  alive = draw(st.integers(1, clusters))
  owners = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, alive - 1)))
  tau = np.eye(clusters, dtype=np.float32)[owners]
  if not hard:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    soft = np.zeros_like(tau)
    soft[:, :alive] = rng.dirichlet(np.ones(alive), rows)
    share = np.float32(draw(st.floats(0, .9)))
    tau = (1 - share) * tau + share * soft
  bound = draw(hnp.arrays(np.float64, rows, elements=st.floats(-1e3, 1e3)))
  return tau, bound, draw(st.sampled_from([.5, 1., 1.5, 3.]))


SETTINGS = hypothesis.settings(max_examples=150, deadline=None, derandomize=True,
                               database=None)


def check_reseeding(tau, bound, min_size):
  new, empty = reseed_empty(tau.copy(), bound, min_size)
  old_sizes, sizes = (a.sum(axis=0, dtype=np.float64) for a in (tau, new))
  members = [(tau.argmax(axis=1) == q).sum() for q in range(tau.shape[1])]
  assert empty == [q for q in range(tau.shape[1])
                   if old_sizes[q] < min_size and members[q] < min_size]
  np.testing.assert_allclose(new.sum(axis=1), 1, atol=1e-5)
  moved = np.flatnonzero((new != tau).any(axis=1))
  gained = new[moved].argmax(axis=1)
  assert (new[moved].max(axis=1) == 1).all() and set(gained) <= set(empty)
  share = max(2, int(np.ceil(min_size)), len(tau) // (10 * tau.shape[1]))
  assert all((gained == q).sum() <= share for q in empty)
  return old_sizes, sizes, gained, empty, share


@SETTINGS
@hypothesis.given(emptied(True))
def test_reseeding_hard_partitions(case):
  """Rows sum to 1, no image twice, no cluster newly emptied, the rest filled."""
  tau, bound, min_size = case
  old, new, gained, empty, share = check_reseeding(*case)
  for q in range(tau.shape[1]):
    if q not in empty:
      assert new[q] >= min_size
  available = sum(max(0, int(np.floor(old[q] - max(min_size, 1))))
                  for q in range(tau.shape[1]) if q not in empty)
  assert len(gained) == min(available, share * len(empty))


# Cluster 1 lives on a fifth of ten images: two of them taken away empty it.
SPREAD_OUT = np.tile(np.float32([.8, .2, 0.]), (10, 1))


@SETTINGS
@hypothesis.given(emptied(False))
@hypothesis.example((SPREAD_OUT, np.arange(10.), 1.7))
def test_reseeding_soft_partitions(case):
  """Soft responsibilities: no living cluster is emptied by the re-seeding."""
  tau, bound, min_size = case
  old, new, _, empty, _ = check_reseeding(*case)
  for q in range(tau.shape[1]):
    if q not in empty:
      assert new[q] >= min(old[q], min_size) - 1e-4


def test_a_cluster_with_a_member_is_not_empty():
  """However unsure its only image is."""
  tau = np.float32([[.9, .1, 0], [.8, .2, 0], [.4, .6, 0], [1, 0, 0]])
  new, empty = reseed_empty(tau, np.zeros(4), 1.)
  assert empty == [2] and tau[:, 1].sum() < 1


def test_reseeded_clusters_reach_the_minimum():
  """With plenty of images a re-seeded cluster is no longer empty by the same rule."""
  tau = np.zeros((60, 10), np.float32)
  tau[np.arange(60), np.arange(60) % 5] = 1
  new, empty = reseed_empty(tau, np.arange(60.), 3.)
  assert empty == [5, 6, 7, 8, 9]
  assert (new.sum(axis=0) >= 3).all()


def test_reseeding_takes_the_worst_explained():
  """The images of the lowest bound go first."""
  tau = np.zeros((40, 2), np.float32)
  tau[:, 0] = 1
  bound = np.random.default_rng(0).normal(size=40)
  new, empty = reseed_empty(tau, bound, 1.)
  assert empty == [1]
  assert set(np.flatnonzero(new[:, 1])) == set(np.argsort(bound)[:2])
  assert tau[:, 1].sum() == 0  # the argument is left alone


def test_nothing_to_reseed():
  """Without empty clusters nothing changes."""
  tau = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
  new, empty = reseed_empty(tau, np.zeros(30), 1.)
  assert empty == [] and (new == tau).all()
