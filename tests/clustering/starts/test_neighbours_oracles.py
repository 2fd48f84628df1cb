"""The start from neighbourhoods, piece by piece against brute force."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import scipy.sparse
from sklearn import datasets
from sklearn.metrics import adjusted_rand_score

from jdiffclust.clustering.starts import edges, neighbours as lib, spaces
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.config import default_config
from jdiffclust.data.views import draw_maps, transform
from jdiffclust.evaluation.scores import accuracy

VIEWS = SimpleNamespace(num=6, sets=2, rotation=.1, scale=.1, shear=.1, shift=.1,
                        flip=0., upside_down=0., quarter_turns=0.)


def images(count, seed=0, side=5):
  """Random images."""
  return np.random.default_rng(seed).uniform(-1, 1, (count, side, side, 1)).astype(
      np.float32)


def of_pixels(views):
  """The space of pixels, over views of a section of a config."""
  return spaces.of_pixels(None, None, SimpleNamespace(views=views), 0)


def test_distances_are_the_smallest_over_views():
  """Against loops over images, candidates and views; blocks of 64 and a rest."""
  queries, sample = images(70), images(30, 1)
  maps = draw_maps(jax.random.key(0), 6, VIEWS)
  found, squares = next(lib.nearest_by_views(queries, sample, [maps], 4))
  for i in (0, 5, 63, 64, 69):
    plain = ((sample - queries[i])**2).sum(axis=(1, 2, 3))
    assert set(found[i]) == set(np.argsort(plain)[:4])
    views = [queries[i]] + [np.asarray(transform(queries[i], jax.tree.map(
        lambda a, k=k: a[k], maps))) for k in range(6)]
    for j, square in zip(found[i], squares[i]):
      wanted = min(((view - sample[j])**2).sum() for view in views)
      assert square == pytest.approx(wanted, rel=1e-4)


def test_an_image_is_one_of_its_views():
  """However far its maps take it, it is at no distance from itself."""
  sample = images(70)
  maps = draw_maps(jax.random.key(0), 6, VIEWS)
  found, squares = next(lib.nearest_by_views(sample, sample, [maps], 1))
  np.testing.assert_array_equal(found[:, 0], np.arange(70))
  np.testing.assert_array_equal(squares, 0)


def test_plain_distances_without_views():
  """By NumPy; in another space, that space's, for images outside the sample too."""
  queries, sample = images(70), images(30, 1)
  found, squares = next(lib.nearest_by_views(queries, sample, (), 4))
  plain = ((queries[:, None] - sample)**2).sum(axis=(2, 3, 4))
  assert (np.sort(found, axis=1) == np.sort(np.argsort(plain, axis=1)[:, :4])).all()
  np.testing.assert_allclose(squares, np.take_along_axis(plain, found, axis=1),
                             rtol=1e-4)
  flat, new = sample.reshape(30, -1), queries.reshape(70, -1)
  left = lambda x: x[:, :, :2]
  assign = lib.neighbourhoods(flat, (5, 5, 1), 2, 0, [[lib.Description(left)]])
  squares = ((left(queries)[:, None] - left(sample))**2).sum(axis=(2, 3, 4))
  near = np.argsort(squares, axis=1)[:, :lib.NEAREST]
  away = np.sqrt(np.take_along_axis(squares, near, axis=1))
  np.testing.assert_allclose(assign(new, None),
                             lib.weighted(away, assign(flat, None)[near]), rtol=1e-3)


@pytest.mark.usefixtures('few_cuts')
def test_the_consensus_is_over_all_spaces():
  """Two spaces outvote a third one of many descriptions; alone, it is heard."""
  rng = np.random.default_rng(0)
  groups = rng.integers(0, 2, (2, 60))
  pictures = (groups.T + .1 * rng.normal(size=(60, 2))).astype(np.float32)
  one, other = (lib.Description(lambda x, k=k: x[:, :, k:k + 1]) for k in (0, 1))
  for seen, k in (([[one], [one], [other] * 3], 0), ([[other], [one], [one]], 0),
                  ([[one, one, other]], 0), ([[other]], 1)):
    tau = lib.neighbourhoods(pictures, (1, 2, 1), 2, 0, seen)(pictures, None)
    assert adjusted_rand_score(groups[k], tau.argmax(axis=1)) == 1


def test_graph_is_the_formula():
  """Smaller distance of both directions, self-tuning weights, larger of W and W^T."""
  rng = np.random.default_rng(0)
  count, num = 12, 3
  one_way = rng.uniform(1, 2, (count, count))
  found = np.tile(np.arange(count), (count, 1))
  near = lib.NeighbourDistances(found, one_way)
  assert (near.count, near.most) == (count, count - 1)
  squares = np.minimum(one_way, one_way.T)
  np.fill_diagonal(squares, np.inf)
  order = np.argsort(squares, axis=1)[:, :num]
  scale = np.sqrt([squares[i, order[i, -1]] for i in range(count)])
  wanted = np.zeros((count, count))
  for i in range(count):
    for j in order[i]:
      wanted[i, j] = np.exp(-squares[i, j] / (scale[i] * scale[j]))
  np.testing.assert_allclose(near.graph(num).toarray(), np.maximum(wanted, wanted.T),
                             rtol=1e-9)


@pytest.mark.parametrize('small', (0, 1000))
def test_embedding_are_the_leading_eigenvectors(small, monkeypatch):
  """By residual and eigenvalues, with either solver."""
  monkeypatch.setattr(lib, 'SMALL', small)
  rng = np.random.default_rng(0)
  weights = rng.uniform(size=(40, 40))
  weights = weights + weights.T
  vectors = lib.spectral_embedding(scipy.sparse.csr_array(weights), 3, 0)
  scale = weights.sum(axis=1)**-.5
  matrix = scale[:, None] * weights * scale
  values = np.linalg.eigvalsh(matrix)[::-1][:3]
  np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-8)
  np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-8)


def test_consensus_of_equals_is_that_partition():
  """Cells may be numbered anew; agreement is then 1."""
  cells = np.repeat(np.arange(3), 20)
  tau = lib.consensus([cells, 2 - cells, (cells + 1) % 3], 3, 0)
  assert adjusted_rand_score(cells, tau.argmax(axis=1)) == 1
  np.testing.assert_allclose(tau.max(axis=1), 1)


@pytest.mark.parametrize('sizes', [(10, 10), (14, 6)])
def test_responsibilities_are_shares_of_common_cells(sizes):
  """One image on which two of three cuts disagree with the third."""
  one = np.repeat([0, 1], sizes)
  other = one.copy()
  other[0] = 1
  tau = lib.consensus([one, one, other], 2, 0)
  own = tau[1].argmax()
  assert tau[0].argmax() == own
  # Its own cluster: 10 of 10, 10 of 10 and itself, 1 of 10. The other: 0, 0, 10 of 10.
  alone = 1 / sizes[0]
  np.testing.assert_allclose(tau[0, own], (2 + alone) / (3 + alone), rtol=1e-6)
  # Image 1: 10, 10 and 9 of 10; nothing in common with the other.
  np.testing.assert_allclose(tau[1, own], 1., rtol=1e-6)


def test_weights_count_as_repetitions():
  """A partition of weight 3 is that partition three times."""
  one, two, three = np.random.default_rng(0).integers(0, 3, (3, 40))
  weighted = lib.consensus([one, two, three], 3, 0, [1, 3, 2])
  repeated = lib.consensus([one, two, two, two, three, three], 3, 0)
  np.testing.assert_allclose(weighted, repeated, atol=1e-6)


def shapes(count, seed):
  """Bars, crosses and squares at random places, with labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 3, count)
  pictures = -np.ones((count, 10, 10, 1), np.float32)
  for picture, label in zip(pictures, labels):
    y, x = rng.integers(0, 5, 2)
    patch = np.zeros((5, 5))
    if label == 0:
      patch[2] = 1
    elif label == 1:
      patch[2] = patch[:, 2] = 1
    else:
      patch[[0, -1]] = 1
      patch[:, [0, -1]] = 1
    picture[y:y + 5, x:x + 5, 0] += 2 * patch
  return pictures + .1 * rng.normal(size=pictures.shape).astype(np.float32), labels


def test_shapes_are_found_wherever_they_are():
  """With views that shift; and images outside the sample join their kind."""
  pictures, labels = shapes(300, 0)
  flat = pictures.reshape(300, -1)
  views = SimpleNamespace(num=64, sets=2, rotation=0., scale=0., shear=0., shift=.15,
                          flip=0., upside_down=0., quarter_turns=0.)
  assign = lib.neighbourhoods(flat[:240], (10, 10, 1), 3, 0, [of_pixels(views)])
  tau = assign(flat, np.arange(300))
  assert tau.shape == (300, 3) and tau.dtype == np.float32
  np.testing.assert_allclose(tau.sum(axis=1), 1, atol=1e-5)
  found = tau.argmax(axis=1)
  assert adjusted_rand_score(labels[:240], found[:240]) > .9
  assert adjusted_rand_score(labels[240:], found[240:]) > .8
  again = lib.neighbourhoods(flat[:240], (10, 10, 1), 3, 0, [of_pixels(views)])(
      flat, np.arange(300))
  np.testing.assert_array_equal(tau, again)


@pytest.mark.parametrize('count, clusters', [(1, 1), (2, 1), (2, 2), (5, 5), (30, 3)])
@pytest.mark.parametrize('equal', (False, True))
def test_few_and_equal_images(count, clusters, equal):
  """Finite responsibilities of the right shape, whatever the images."""
  pictures = images(count).reshape(count, -1)
  if equal:
    pictures[:] = pictures[0]
  both = [of_pixels(VIEWS), [lib.Description(edges.describe)]]
  tau = lib.neighbourhoods(pictures, (5, 5, 1), clusters, 0, both)(pictures, None)
  assert tau.shape == (count, clusters)
  np.testing.assert_allclose(tau.sum(axis=1), 1, atol=1e-5)


def test_neighbours_find_the_digits():
  """What the defaults must reach on the 1,797 of them: an accuracy of .96.

  (The fit that goes on from here takes minutes: `python -m benchmarks.floor`.)
  """
  config, digits = default_config(), datasets.load_digits()
  config.num_clusters = 10
  sample = (digits.data / 8 - 1).astype(np.float32)
  tau = fit_start('neighbours', sample, (8, 8, 1), config)(sample, np.arange(1797))
  assert accuracy(digits.target, tau.argmax(axis=1)) >= .96


def test_distances_over_symmetries():
  """The smallest plain distance to an image of the sample or to one of its mirror images;
  and with views, those of the nearer one of both."""
  pictures, sample = images(7), images(9, 1)
  placed = [sample[:, :, ::-1], sample[:, ::-1]]
  found, squares = next(lib.nearest_by_views(pictures, sample, (), 4, placed))
  far = lambda one, other: np.sum((one.astype(float) - other)**2)
  for i, picture in enumerate(pictures):
    away = np.array([min(far(picture, some[j]) for some in (sample, *placed))
                     for j in range(9)])
    assert set(found[i]) == set(np.argsort(away)[:4])
    np.testing.assert_allclose(squares[i], away[found[i]], rtol=1e-4)
  maps = draw_maps(jax.random.key(0), 5, VIEWS)
  found, squares = next(lib.nearest_by_views(pictures, sample, [maps], 4, placed))
  for i, picture in enumerate(pictures):
    shown = [picture, *np.asarray(jax.vmap(transform, (None, 0))(picture, maps))]
    for j, square in zip(found[i], squares[i]):
      nearer = min((some[j] for some in (sample, *placed)),
                   key=lambda other: far(picture, other))
      np.testing.assert_allclose(square, min(far(view, nearer) for view in shown),
                                 rtol=1e-4)


def test_mirror_images_are_found_together():
  """Figures that are mirrored at random: with the symmetry one cluster each, new images
  included; by the default, which finds it out."""
  rng = np.random.default_rng(0)
  patterns = np.random.default_rng(9).normal(size=(3, 8, 8, 1))
  labels = rng.integers(3, size=240)
  pictures = patterns[labels] + .3 * rng.normal(size=(240, 8, 8, 1))
  mirrored = rng.integers(2, size=240).astype(bool)
  pictures[mirrored] = pictures[mirrored][:, :, ::-1]
  flat = pictures.reshape(240, -1).astype(np.float32)
  config = default_config()
  config.num_clusters, config.views.num, config.views.sets = 3, 4, 1
  assign = fit_start('neighbours', flat[:200], (8, 8, 1), config)
  assert adjusted_rand_score(labels, assign(flat, None).argmax(axis=1)) == 1
  config.views.update(flip=0., upside_down=0., quarter_turns=0.)
  assign = fit_start('neighbours', flat[:200], (8, 8, 1), config)
  assert adjusted_rand_score(labels, assign(flat, None).argmax(axis=1)) < .8
