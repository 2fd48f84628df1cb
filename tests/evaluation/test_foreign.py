"""Images of another kind: scores by hand, p-values by counting, and what they see."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance
from sklearn import datasets
from sklearn.decomposition import PCA

from jdiffclust import outputs
from jdiffclust.evaluation import foreign as f

NAMES = list(f.SCORES)
# In the place of features by JAX: the image's rows and columns, and its four quarters.
PLAIN = {'edges': lambda x: np.concatenate([x.mean(axis=1), x.mean(axis=2)],
                                           axis=1).reshape(len(x), -1),
         'texture': lambda x: np.stack([x[:, i::2, j::2].mean(axis=(1, 2, 3))
                                        for i in range(2) for j in range(2)], axis=1)}


def normal(count, seed, shape=(6, 5, 1)):
  """Images of independent pixels."""
  return np.random.default_rng(seed).normal(0, .3, (count, *shape)).astype(np.float32)


# ------------------------------------------------------------------------- statistics


def test_tail_by_hand():
  """Of 1..20 the quantile .9 is 18.1: below it ranks, beyond it mean excess 1.4."""
  reference = np.arange(20, 0, -1)
  found = f.tail(reference, [0, 1, 10.5, 18.1, 19.5, 30])
  np.testing.assert_allclose(found, [
      0, 0, -np.log(11 / 21), -np.log(3 / 21), (19.5 - 18.1) / 1.4 - np.log(.1),
      (30 - 18.1) / 1.4 - np.log(.1)], atol=1e-12)


def test_tail_of_exponential_numbers():
  """-log P(X >= s) = s, far beyond the largest of them too."""
  reference = -np.log((np.arange(100_000) + .5) / 100_000)
  np.testing.assert_allclose(f.tail(reference, [.5, 2., 5., 40.]), [.5, 2, 5, 40],
                             rtol=.01)


def test_tail_of_equal_numbers():
  """Rounding is no surprise, a thousandth of a logarithm is one unit."""
  found = f.tail(np.ones(50), [1, 1 + 1e-9, 1.001])
  np.testing.assert_allclose(found, [0, -np.log(.1), 1 - np.log(.1)], atol=1e-5)


@hypothesis.given(st.lists(st.integers(-9, 9), min_size=1),
                  st.lists(st.integers(-12, 12), min_size=2))
def test_tail_rises(reference, values):
  """Never less for a larger value, and never negative."""
  found = f.tail(reference, sorted(values))
  assert (np.diff(found) >= 0).all() and (found >= 0).all()


def test_two_sided_surprises():
  """Too little of 'detail' surprises as too much does; of 'edges' it does not."""
  reference = np.tile(np.arange(-10., 11)[:, None], len(NAMES))
  high, low = (f.surprises(reference, np.full((1, len(NAMES)), value), reference)
               for value in (40., -40.))
  of = dict(zip(NAMES, zip(high[0][0], low[0][0], low[1][0])))
  assert of['detail'][0] == of['detail'][1] > 5 and of['detail'][2]
  assert of['edges'][0] == pytest.approx(of['detail'][0] + np.log(2))
  assert of['edges'][1:] == (0, False) and not high[1].any()


def test_joint_distance_of_what_is_common_in_each_score():
  """Scores that rise together: one above and one below are far apart, jointly."""
  rng = np.random.default_rng(13)
  scores = rng.normal(size=(400, len(NAMES)))
  scores[:, 1] = scores[:, 0] + .1 * rng.normal(size=400)
  new = np.zeros((2, len(NAMES)))
  new[:, :2] = [[1, 1], [1, -1]]
  centre, deviation = scores.mean(axis=0), scores.std(axis=0) + f.FAINTEST
  ridged = np.cov(((scores - centre) / deviation).T) + f.SCORES_RIDGE * np.eye(len(NAMES))
  expected = [distance.mahalanobis(row, np.zeros(len(NAMES)), np.linalg.inv(ridged))
              for row in (new - centre) / deviation]
  found = f.joint_distances(scores, new)
  np.testing.assert_allclose(found, 2 * np.log(expected), atol=1e-5)
  found, _ = f.surprises(scores, new, scores)
  alone, jointly = found[:, :-1], found[:, -1]
  assert alone.max() < 3 and jointly[0] < 1 and jointly[1] > 10


@hypothesis.given(st.lists(st.integers(-5, 5), min_size=1), st.lists(st.integers(-5, 5)))
def test_p_values_are_counted(reference, values):
  """Against counting one by one, ties included."""
  expected = [(1 + sum(r >= v for r in reference)) / (len(reference) + 1) for v in values]
  np.testing.assert_allclose(f.p_values(np.array(reference), np.array(values, float)),
                             expected)


# ------------------------------------------------------------------------------ scores


def test_large_images_are_averaged():
  """70 x 34 pixels: blocks of 3 x 3, and the last row and column are cut."""
  images = np.arange(70 * 34, dtype=np.float32).reshape(1, 70, 34, 1)
  found = f.smaller(images)
  assert found.shape == (1, 23, 11, 1)
  assert found[0, 2, 5, 0] == images[0, 6:9, 15:18].mean()
  assert found[0, -1, -1, 0] == images[0, 66:69, 30:33].mean()
  np.testing.assert_array_equal(f.smaller(images[:, :32, :32]), images[:, :32, :32])


def test_a_line_of_pixels_is_averaged_along():
  """One pixel high: blocks of 1 x 2."""
  images = np.arange(64, dtype=np.float32).reshape(1, 1, 64, 1)
  np.testing.assert_allclose(f.smaller(images)[0, 0, :, 0], np.arange(.5, 64, 2))


def test_neighbours_by_brute_force():
  """The 3rd nearest of 40 places, for more points than one block has."""
  rng = np.random.default_rng(0)
  places, points = rng.normal(size=(40, 2)), rng.normal(size=(f.BLOCK + 7, 2))
  distances, nearest = f.kth_neighbours(places, points, 3)
  for i in (0, 5, f.BLOCK - 1, f.BLOCK, f.BLOCK + 6):
    away = np.linalg.norm(places - points[i], axis=1)
    assert set(nearest[i]) == set(np.argsort(away)[:3])
    assert distances[i] == pytest.approx(np.sort(away)[2])


@pytest.mark.parametrize('shape', [(60, 9), (9, 60)])
def test_subspace_is_that_of_scikit_learn(shape):
  """The components of more than the mean variance, of many images and of few."""
  rng = np.random.default_rng(1)
  pixels = rng.normal(size=shape) * np.linspace(.1, 2, shape[1]) + 3
  model = PCA(min(shape[0] - 1, shape[1]), svd_solver='full').fit(pixels)
  count = np.sum(model.explained_variance_ > model.explained_variance_.mean())
  mean, components = f.subspace(pixels)
  np.testing.assert_allclose(mean, model.mean_)
  assert components.shape == (count, shape[1])
  np.testing.assert_allclose(components @ components.T, np.eye(count), atol=1e-9)
  np.testing.assert_allclose(components.T @ components,
                             model.components_[:count].T @ model.components_[:count],
                             atol=1e-9)


def test_whitened_features():
  """Covariance 4 and 1 become unity, up to a ridge of .0025; the mean becomes 0."""
  rng = np.random.default_rng(2)
  features = rng.normal(size=(500, 2)) @ np.array([[2., 0], [1., 1]]) + 5
  centre, matrix = f.whitening(features)
  found = (features - centre) @ matrix
  np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
  np.testing.assert_allclose(np.cov(found.T), np.eye(2), atol=.01)


def score(name, half, images, maps=PLAIN):
  """One score of images."""
  return f.scores(half, images, maps)[:, NAMES.index(name)]


def test_detail_and_flatness_of_a_chessboard():
  """All steps are +-2: their mean square is 4, their geometric mean 2; of a flat 0."""
  half = f.make_half(normal(20, 0), normal(20, 1), PLAIN)
  board = (np.indices((6, 5)).sum(axis=0) % 2 * 2 - 1)[None, ..., None]
  images = np.concatenate([board, np.full_like(board, -1)]).astype(np.float32)
  np.testing.assert_allclose(score('detail', half, images),
                             np.log([4 + f.UNSEEN, f.UNSEEN]))
  np.testing.assert_allclose(score('flatness', half, images),
                             np.log([2 + f.FAINT, f.FAINT]))


def test_residual_and_neighbours_on_a_line():
  """Images on a line, 1 apart: off it by 3 is a residual of 9, beyond it is remote."""
  direction, across = np.zeros((2, 4, 4, 1), np.float32)
  direction[0, 0], across[3, 2] = 1, 1
  images = np.arange(21.)[:, None, None, None].astype(np.float32) * direction
  half = f.make_half(images, images[:3], PLAIN)
  assert half.components.shape == (1, 16)
  found = 10 * direction + np.array([0, 3.])[:, None, None, None] * across
  np.testing.assert_allclose(score('residual', half, found.astype(np.float32)),
                             np.log(np.array([0, 9]) / 16 + f.UNSEEN), rtol=1e-3)
  # The 5th nearest of 10 is 2 away (10 itself counts), that of the 10th other one 3.
  reach = np.sort([3, 3, 3, 3, 3])[:5].mean()
  np.testing.assert_allclose(
      score('neighbour', half, (10 * direction)[None]),
      np.log(2 / reach), atol=1e-3)
  # 30: the nearest are 20, 19, ..., 16; their own 5th others are 5, 4, 3, 3, 3 away.
  np.testing.assert_allclose(score('neighbour', half, (30 * direction)[None]),
                             np.log(14 / np.mean([5, 4, 3, 3, 3])), atol=1e-3)


def test_rarities_are_counted():
  """Red half of the time, blue a quarter, and colours that were not there."""
  red, blue, green = np.eye(3)[[0, 2, 1]] * 2 - 1
  images = np.array([[[red, red], [blue, red]], [[red, red], [blue, blue - .01]]])
  cells, count = f.colours(images)
  assert count == 12**3
  found = f.rarities(images)
  total = 8 + count / 2
  np.testing.assert_allclose(found[f.colours(red[None, None, None])[0][0]],
                             -np.log(5.5 / total))
  np.testing.assert_allclose(found[f.colours(green[None, None, None])[0][0]],
                             -np.log(.5 / total))
  np.testing.assert_allclose(np.sum(np.exp(-found)), 1)


def test_grey_images_have_no_colours():
  """One cell, which surprises nobody."""
  assert f.colours(normal(3, 0))[1] == 1
  assert f.rarities(normal(3, 0)) == 0


# --------------------------------------------------------------------------- reference


def test_p_values_by_both_halves():
  """Each image of the fit is counted once, by the half that it is not in."""
  reference = f.make_reference(normal(30, 3), PLAIN, 0)
  new = normal(8, 4) * np.linspace(.2, 2, 8, dtype=np.float32)[:, None, None, None]
  counts = np.zeros(8)
  for half, other in zip(reference, reference[::-1]):
    assert len(half.places) == len(half.others) == 15
    of = lambda values, half=half, other=other: [sum(v**2 for v in f.surprises(
        half.others, row[None], other.others)[0][0]) for row in values]
    scores = f.scores(half, new, PLAIN).astype(np.float32)
    counts += [sum(known >= s for known in of(half.others)) for s in of(scores)]
  found = f.judge(reference, new, PLAIN)
  np.testing.assert_allclose(found.p_values, (1 + counts) / 31)
  assert found.p_values[-1] == 1 / 31


def test_the_halves_are_all_images():
  """Odd numbers too; another seed halves otherwise."""
  images = normal(21, 5)
  halves = f.make_reference(images, PLAIN, 0)
  places = [len(half.places) for half in halves]
  assert sorted(places) == [10, 11] and [len(h.others) for h in halves] == places[::-1]
  np.testing.assert_allclose(np.average([h.mean for h in halves], axis=0, weights=places),
                             images.reshape(21, -1).mean(axis=0), atol=1e-6)
  assert not np.allclose(f.make_reference(images, PLAIN, 1)[0].mean, halves[0].mean)


def test_p_values_of_the_same_kind_are_uniform():
  """2,000 new images: the shares below .01, .1 and .5 are these, up to four deviations
  of a binomial with as many known images."""
  known, new = normal(1000, 6), normal(2000, 7)
  found = f.judge(f.make_reference(known, PLAIN, 0), new, PLAIN).p_values
  for alpha in (.01, .1, .5):
    deviation = np.sqrt(alpha * (1 - alpha) * (1 / 1000 + 1 / 2000))
    assert abs(np.mean(found <= alpha) - alpha) < 4 * deviation


def test_what_is_seen_among_digits():
  """Held-out digits pass; flat, inverted, turned and noisy ones do not, at 1%."""
  digits = datasets.load_digits().images.astype(np.float32)[..., None] / 8 - 1
  digits = np.random.default_rng(0).permutation(digits)
  maps = outputs.maps_of((8, 8, 1))
  reference = f.make_reference(digits[:1000], maps, 0)
  held = digits[1000:]
  share = lambda images: np.mean(f.judge(reference, images, maps).p_values <= .01)
  # 797 of them: 8 on average.
  assert stats.binom.cdf(round(share(held) * 797), 797, .01) < .999
  noise = np.random.default_rng(1).integers(0, 17, (100, 8, 8, 1)) / 8 - 1
  flat = np.linspace(-1, 1, 17)[:, None, None, None] * np.ones((17, 8, 8, 1))
  for name, images in {'inverted': -held, 'turned': np.rot90(held, axes=(1, 2)),
                       'noise': noise, 'flat': flat}.items():
    assert share(images.astype(np.float32)) > .95, name
  assert set(f.judge(reference, flat.astype(np.float32), maps).reasons) == {'too plain'}


def test_one_colour_is_strange():
  """Among brownish images a red one is; a brownish one is not."""
  rng = np.random.default_rng(8)
  brown = np.array([.3, 0, -.3]) + rng.normal(0, .2, (300, 1, 1, 1))
  images = np.clip(brown + rng.normal(0, .1, (300, 6, 5, 3)), -1, 1).astype(np.float32)
  reference = f.make_reference(images[:250], PLAIN, 0)
  red = np.clip(np.array([.9, -.9, -.9]) + rng.normal(0, .05, (1, 6, 5, 3)), -1, 1)
  found = f.judge(reference, np.concatenate([red.astype(np.float32), images[250:]]),
                  PLAIN)
  assert found.p_values[0] == 1 / 251 and np.median(found.p_values[1:]) > .2


def test_few_images():
  """Four are enough to ask; nothing is then rarer than a fifth."""
  reference = f.make_reference(normal(f.FEWEST_IMAGES, 9), PLAIN, 0)
  found = f.judge(reference, 50 * normal(3, 10), PLAIN)
  assert np.isfinite(found.p_values).all() and found.p_values.min() >= 1 / 5


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 5, 3), (70, 3, 1)])
def test_odd_shapes(shape):
  """A single pixel, a line, and a tall image have finite scores."""
  maps = {name: lambda x: x.reshape(len(x), -1)[:, :2] for name in f.MAPS}
  images = f.smaller(normal(12, 11, shape))
  found = f.judge(f.make_reference(images, maps, 0), images, maps)
  assert np.isfinite(found.p_values).all() and len(found.reasons) == 12


def test_reference_in_a_file(tmp_path):
  """What is read is what was written; no file or a damaged one is no reference."""
  path = tmp_path / 'foreign.npz'
  assert f.read_reference(path) is None
  reference = f.make_reference(normal(20, 12), PLAIN, 0)
  f.write_reference(path, reference)
  for half, found in zip(reference, f.read_reference(path)):
    for name in f.Half._fields:
      np.testing.assert_array_equal(getattr(half, name), getattr(found, name))
      assert getattr(found, name).dtype == np.float32
  assert list(tmp_path.iterdir()) == [path]
  path.write_bytes(path.read_bytes()[:-200])
  assert f.read_reference(path) is None


def test_a_reference_knows_its_features():
  """Features that another version makes otherwise are noticed; rounding is not."""
  reference = f.make_reference(normal(20, 12), PLAIN, 0)
  shape = normal(1, 12).shape[1:]
  assert f.is_of(reference, PLAIN, shape)
  near = {**PLAIN, 'texture': lambda x: PLAIN['texture'](x) * (1 + 1e-6)}
  assert f.is_of(reference, near, shape)
  other = {**PLAIN, 'texture': lambda x: PLAIN['texture'](x)[:, ::-1] + .1}
  assert not f.is_of(reference, other, shape)
  assert not f.is_of(reference, PLAIN, (*shape[:-1], shape[-1] + 1))


def test_a_reference_is_small():
  """As many images and components as there may be, of the largest size: below 6 MB."""
  per_half = (f.MOST_NUMBERS + f.MOST_IMAGES // 2 * (
      f.MOST_COMPONENTS + 1 + 128 + len(NAMES)) + 3 * f.LONGEST**2 + 64 * 65
      + f.MOST_COLOURS)
  assert 2 * 4 * per_half < 6e6


def test_members_are_ranked_in_their_half():
  """A share of them is called unusual whatever they are; a flat one first."""
  rng = np.random.default_rng(1)
  images = rng.normal(size=(61, 8, 8, 1)).astype(np.float32) / 3
  images[7] = 0.
  reference = f.make_reference(images, PLAIN, 0)
  halves = f.halves(61, 0)
  found = f.judge_members(reference)
  order = np.concatenate(halves)
  for half in halves:
    p = found.p_values[np.isin(order, half)]
    np.testing.assert_allclose(np.sort(p), (1 + np.arange(len(half))) / len(half))
  flat = order.tolist().index(7)
  assert found.p_values[flat] == min(found.p_values[np.isin(
      order, next(half for half in halves if 7 in half))])
  assert len(found.reasons) == 61
