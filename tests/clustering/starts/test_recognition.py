"""The start by recognition: its parts against closed forms, the whole on noisy cells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from jdiffclust.clustering.starts import recognition as lib
from jdiffclust.clustering.starts.choose import modularity
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.clustering.starts.neighbours import (
    consensus, cuts, embeddings, find_neighbours, graphs, unit_rows)
from jdiffclust.config import default_config
from jdiffclust.data.views import transform
from jdiffclust.errors import UserError
from jdiffclust.evaluation.scores import accuracy
from jdiffclust.networks.recogniser import RecognitionNetwork

SHAPE = (12, 12, 1)


@pytest.fixture(autouse=True)
def promoting():
  """Optax promotes implicitly."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    with threadpool_limits(1):  # as `fit_start` does
      yield


def config_of(**recognition):
  config = default_config()
  config.update(num_clusters=3, seed=4)
  config.views.update(num=8, sets=1, flip=0., upside_down=0., quarter_turns=0.)
  config.recognition.update({'networks': 1, 'channels': 8, 'batch_size': 32,
                             'steps': 400, 'most_visits': 1000, **recognition})
  return config


def seeded(seed, networks=2):
  """Three steps from a seed, of 40 images."""
  config = config_of(steps=34, networks=networks)
  config.seed = seed
  return config


def bars(count, seed=0):
  """Images of a bar somewhere, lying, standing or slanting, in noise; and which."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 3, count)
  rows, columns = np.indices(SHAPE[:2])
  along = np.stack([rows, columns, (rows + columns) / 1.4])[labels]
  centre = (rng.uniform(4, 8, count) * np.where(labels == 2, 1.4, 1))[:, None, None]
  images = np.where(np.abs(along - centre) < 1.2, .9, -.9)
  images = images + .2 * rng.normal(size=images.shape)
  return images[..., None].astype(np.float32), labels


@functools.cache
def learnt(seed, networks):
  """What networks have learnt of 40 images and their classes, in one round."""
  images, labels = bars(40)
  return lib.train(images, np.eye(3, dtype=np.float32)[labels], seeded(seed, networks))


@pytest.mark.parametrize('count, expected', [
    (5000, 650), (20000, 1300), (70000, round(650 * 14**.5)), (1250, 325), (96, 60),
    (1, 1)])
def test_steps_follow_the_collection(count, expected):
  """By the square root of the images; 60 visits of each, at most, by batches of 96."""
  assert lib.num_steps(count, default_config().recognition) == expected


def test_minibatches_take_all_in_turn():
  """Six batches of 4 of 8 rows: three times all rows; another seed, another order."""
  found = list(lib.minibatches(8, 4, 6, 1))
  for two in zip(found[::2], found[1::2], strict=True):
    assert sorted(np.concatenate(two)) == list(range(8))
  other = np.concatenate(list(lib.minibatches(8, 4, 6, 2)))
  assert (np.concatenate(found) != other).any()
  assert [len(rows) for rows in lib.minibatches(3, 7, 2, 0)] == [7, 7]


def test_views_are_scaled():
  """The maps, not the share that is mirrored."""
  views = default_config().views
  views.flip = .5
  twice = lib.scaled_views(views, 2.)
  for name in ('rotation', 'scale', 'shear', 'shift'):
    assert twice[name] == 2 * views[name]
  assert twice.flip == .5 and views.rotation == default_config().views.rotation


def test_weights_are_inverse_squares():
  """Distances 1, 2, 4 weigh 16 : 4 : 1, up to the bound; distance 0 is all."""
  tau = np.eye(3, dtype=np.float32)[None]
  np.testing.assert_allclose(lib.weighted(np.array([[1., 2., 4.]]), tau),
                             [[16 / 21, 4 / 21, 1 / 21]], atol=1e-5)
  np.testing.assert_allclose(lib.weighted(np.array([[0., 2., 4.]]), tau),
                             [[1, 0, 0]], atol=1e-5)
  np.testing.assert_allclose(lib.weighted(np.zeros((1, 3)), tau), [[1 / 3] * 3])


def test_features_are_standardised():
  """By the mean and deviation of others; what is constant stays."""
  rng = np.random.default_rng(0)
  of = rng.normal(3, 2, (50, 4))
  of[:, 3] = 7.
  found = lib.standardised(of, of)
  np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
  np.testing.assert_allclose(found.std(axis=0), [1, 1, 1, 0], atol=1e-12)
  np.testing.assert_allclose(lib.standardised(of[:2] + of.std(axis=0), of)[:, :3],
                             found[:2, :3] + 1)


def test_features_are_means_over_views():
  """By hand: the network's features of the image and of each of its views."""
  config, (images, _) = config_of(num_views=3), bars(5)
  network = RecognitionNetwork(4, 8)
  variables = network.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
  trained = lib.Trained(network, (variables,), lib.mild_views(config))
  show = jax.jit(transform)
  seen = [images] + [
      np.stack([show(image, jax.tree.map(lambda a: a[k], trained.maps))  # noqa: B023
                for image in images]) for k in range(1, 4)]
  apply = jax.jit(network.apply)
  expected = np.mean([apply(variables, some)[1] for some in seen], axis=0)
  np.testing.assert_allclose(lib.describe(trained, images)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize('shares, size', [
    ({'flip': .5}, 6), ({'quarter_turns': .75}, 8), ({'flip': .5, 'upside_down': .5}, 8),
    ({'flip': .5, 'quarter_turns': .75}, 8)])
def test_features_are_means_over_symmetries(shares, size):
  """Of views that move nothing, an image and all it may be placed as have the same."""
  config, (images, _) = config_of(view_size=0.), bars(3)
  config.views.update({'flip': 0., **shares})
  trained = lib.Trained(network := RecognitionNetwork(4, 8), (network.init(
      jax.random.key(0), jnp.zeros((1, *SHAPE))),), lib.mild_views(config))
  assert len(trained.maps.matrix) == size
  one = lib.describe(trained, images)
  placed = {'flip': [lambda x: x[:, :, ::-1]], 'upside_down': [lambda x: x[:, ::-1]],
            'quarter_turns': [lambda x: np.rot90(x, 1, (1, 2)),
                              lambda x: np.rot90(x, 2, (1, 2))]}
  for name in shares:
    for place in placed[name]:
      np.testing.assert_allclose(lib.describe(trained, place(images)), one, atol=1e-5)


def test_network_is_blind_to_places():
  """Features are means over places: a pattern of period 4, moved by 4, has the same."""
  network = RecognitionNetwork(4, 8)
  variables = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
  image = np.zeros((1, 48, 48, 1), np.float32)
  image[:, 16:24, 16:24] = np.random.default_rng(0).normal(size=(1, 8, 8, 1))
  one, two = (network.apply(variables, np.roll(image, shift, (1, 2)))[1]
              for shift in ((0, 0), (4, 8)))
  np.testing.assert_allclose(one, two, atol=1e-6)
  assert np.abs(one).max() > 1e-3


def test_normalisation_and_dropout_are_of_training_alone():
  """Without a key an image's answer does not depend on the others."""
  network, (images, _) = RecognitionNetwork(4, 8, dropout=.5), bars(6)
  variables = network.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
  together, alone = (network.apply(variables, x)[1] for x in (images, images[:1]))
  np.testing.assert_allclose(together[:1], alone, atol=1e-6)
  (logits, features), new = network.apply(variables, images, jax.random.key(1),
                                          mutable=['batch_stats'])
  dense = variables['params']['Dense_0']
  assert np.abs(features @ dense['kernel'] + dense['bias'] - logits).max() > 1e-3
  old = jax.tree.leaves(variables['batch_stats'])
  assert any((a != b).any() for a, b in zip(old, jax.tree.leaves(new), strict=True))


def test_what_is_learnt_is_more_than_what_was_told():
  """Of cells of which a quarter are wrong, features show the truth."""
  images, labels = bars(500)
  rng = np.random.default_rng(1)
  wrong = np.where(rng.random(500) < .25, rng.integers(0, 3, 500), labels)
  trained = lib.train(images, np.eye(3, dtype=np.float32)[wrong], config_of())
  tau = lib.cut(lib.describe(trained, images), 3, 0)
  told = adjusted_rand_score(labels, wrong)
  assert told < .65 and adjusted_rand_score(labels, tau.argmax(axis=1)) > .75


def test_each_partition_has_an_answer():
  """In its order; what a second round is told takes the place of what was told before."""
  images, labels = bars(120)
  told = lambda *moves: np.stack(
      [np.eye(3, dtype=np.float32)[(labels + move) % 3] for move in moves], axis=1)
  found = []

  def renewed(trained):
    found.append(trained)
    return told(0, 2)

  last = lib.train(images, told(0, 1), config_of(steps=1200), renewed=renewed)
  assert len(found) == 1
  for trained, moves in ((found[0], (0, 1)), (last, (0, 2))):
    answers = lib.over_views(trained, images)[0].reshape(-1, 2, 3).argmax(axis=2)
    for k, move in enumerate(moves):
      assert np.mean(answers[:, k] == (labels + move) % 3) > .9, moves


def test_a_further_round_goes_on(monkeypatch):
  """Weights are drawn once; rounds share the steps; each sees images in turn."""
  images, labels = bars(40)
  cells, drawn, seen = np.eye(3, dtype=np.float32)[labels], [], []
  draw, batches = lib._first, lib.minibatches
  monkeypatch.setattr(lib, '_first', lambda *args: drawn.append(1) or draw(*args))
  monkeypatch.setattr(lib, 'minibatches', lambda count, size, number, seed: (
      seen.append(rows) or rows for rows in batches(count, 20, number, seed)))
  config = config_of(steps=45, rounds=2)
  lib.train(images, cells, config, renewed=lambda trained: cells)
  assert len(drawn) == 1 and len(seen) == 4
  assert sorted(np.concatenate(seen[2:])) == list(range(40))
  assert (np.concatenate(seen[:2]) != np.concatenate(seen[2:])).any()


def test_better_cells_are_those_of_the_features():
  """Five heaps by both networks' features, of unlike units, are five cells; but only if
  what was learnt holds a tenth fewer of the neighbours together."""
  rng = np.random.default_rng(3)
  labels = np.arange(150) % 5
  heaps = rng.normal(size=(2, 5, 6))
  features = heaps[:, labels] + .05 * rng.normal(size=(2, 150, 6))
  features = np.moveaxis(features * [[[1.]], [[50.]]], 0, 1)
  one_hot = lambda cells: np.eye(5, dtype=np.float32)[cells]
  found = lib.better_cells(features, one_hot(rng.integers(0, 5, 150)), 0)
  assert adjusted_rand_score(labels, found.argmax(axis=1)) == 1
  np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
  # Neighbours are of one heap: m images elsewhere cost about 2 m / 150 of the edges.
  for wrong, kept in ((4, True), (25, False)):
    moved = labels.copy()
    moved[:wrong] = (moved[:wrong] + 1) % 5
    found = lib.better_cells(features, one_hot(moved), 0)
    assert (found.argmax(axis=1) == moved).all() == kept
    assert adjusted_rand_score(labels, found.argmax(axis=1)) == 1 or kept


def test_rounds_learn_the_start_s_cells_and_their_own(monkeypatch):
  """Both answers are the start's at first; then one is the better by the features."""
  images, labels = bars(60)
  cells, told, train = np.eye(3, dtype=np.float32)[labels], [], lib.train

  def spied(images, cells, config, advance, renewed=None):
    told.append(cells)
    if renewed is not None:
      trained = train(images, cells, config, advance)
      told.extend([renewed(trained), lib.describe(trained, images)])

  monkeypatch.setattr(lib, 'train', spied)
  monkeypatch.setattr(lib, 'cells_of', lambda *args: cells)
  monkeypatch.setattr(lib, 'BETTER', -1.)  # whatever they are
  config = seeded(1, networks=1)
  lib.recogniser(images.reshape(60, -1), SHAPE, config, 0)
  begun, second, features = told
  np.testing.assert_array_equal(begun, np.stack([cells, cells], axis=1))
  np.testing.assert_array_equal(second[:, 0], cells)
  np.testing.assert_array_equal(second[:, 1], lib.better_cells(features, cells, 0))
  assert (second[:, 1] != cells).any()
  config.recognition.rounds = 1
  lib.recogniser(images.reshape(60, -1), SHAPE, config, 0)
  np.testing.assert_array_equal(told[3], cells)
  assert len(told) == 4


def test_training_follows_seed():
  """The same seed the same weights, to the bit; another one others."""
  images, labels = bars(40)
  cells = np.eye(3, dtype=np.float32)[labels]
  percents = []
  again = lib.train(images, cells, seeded(1, 1), percents.append)
  one, two, other = (jax.tree.leaves(trained.variables) for trained in (
      learnt(1, 1), again, learnt(2, 1)))
  assert all((a == b).all() for a, b in zip(one, two, strict=True))
  assert any((a != b).any() for a, b in zip(one, other, strict=True))
  assert percents == [33, 33, 34]


def test_networks_are_trained_each_for_itself():
  """The first as if it were alone, the second not as the first; whatever the devices."""
  images, labels = bars(40)
  cells = np.eye(3, dtype=np.float32)[labels]

  def in_rounds(networks, num_devices=0):
    config = seeded(1, networks)
    config.num_devices = num_devices
    return lib.train(images, cells, config, renewed=lambda trained: cells)  # two rounds

  two, one, on_one = in_rounds(2), in_rounds(1), in_rounds(2, num_devices=1)
  assert len(jax.local_devices()) > 1
  jax.tree.map(np.testing.assert_array_equal, two.variables, on_one.variables)
  jax.tree.map(np.testing.assert_array_equal, two.variables[:1], one.variables)
  first, second = map(jax.tree.leaves, two.variables)
  assert all((a != b).any() for a, b in zip(first, second) if a.ndim > 1)


def test_networks_have_the_same_say():
  """Features side by side, logits on average, of what each network says alone."""
  (images, _), both = bars(40), learnt(1, 2)
  logits, features = lib.over_views(both, images)
  alone = [lib.over_views(both._replace(variables=(own,)), images)
           for own in both.variables]
  np.testing.assert_allclose(logits, (alone[0][0] + alone[1][0]) / 2, atol=1e-6)
  np.testing.assert_array_equal(features, np.concatenate(
      [alone[0][1], alone[1][1]], axis=1))
  assert np.abs(features[:, 0] - features[:, 1]).max() > 1e-3
  on_one = lib.over_views(both._replace(num_devices=1), images)
  jax.tree.map(np.testing.assert_array_equal, on_one, (logits, features))


def test_progress_of_learning_and_looking():
  """Whole percents, of both together; never backwards, and to the end."""
  images, _ = bars(40)
  told = []
  config = seeded(1, networks=1)
  lib.of_recognition(images.reshape(40, -1), SHAPE, config, 0, told.append)
  assert all(type(percent) is int and percent > 0 for percent in told)
  assert 99 <= sum(told) <= 100
  learn = lib.PASSES * lib.num_steps(40, config.recognition) * (
      config.recognition.batch_size)
  look = 40 * (1 + config.recognition.num_views)
  assert told[-1] >= int(100 * look / (learn + look)) > 0  # the one block of images



def test_arrays_of_before_are_of_one_network():
  """Their features are [n, D], their weights have no number before their names."""
  images, labels = bars(40)
  config = seeded(1, networks=1)
  trained, cells = learnt(1, 1), np.eye(3, dtype=np.float32)[labels]
  start = lib.Recognised(trained, lib.describe(trained, images), cells, SHAPE, 32)
  arrays = {name.removeprefix('0/'): array for name, array in start.arrays().items()}
  assert 'params/Dense_0/bias' in arrays
  arrays['features'] = arrays['features'][:, 0]
  new = bars(20, seed=9)[0].reshape(20, -1)
  np.testing.assert_array_equal(lib.from_arrays(arrays, config)(new, None),
                                start(new, None))


def test_a_diverged_network_is_refused():
  """The option to change is named."""
  images, labels = bars(40)
  with pytest.raises(UserError, match='recognition.learning_rate below 1e\\+30'):
    lib.train(images, np.eye(3, dtype=np.float32)[labels],
              config_of(steps=90, learning_rate=1e30))
  with pytest.raises(UserError, match='recognition.learning_rate below 1e\\+30'):
    lib.recogniser(images.reshape(40, -1), SHAPE,
                   config_of(steps=180, learning_rate=1e30), 0)


def test_cut_is_of_the_best_modularity():
  """Of consensuses of two networks, by distance, angle, both; or joined cells, if by .01.
  """
  rng = np.random.default_rng(2)
  centres = rng.normal(size=(6, 2, 5)) * 2
  features = centres[rng.integers(0, 6, 150)] + rng.normal(size=(150, 2, 5))
  rows = lib.standardised(features, features).astype(np.float32)
  every, fine, found = [], [], {}
  for way in 'distance', 'angle':
    for network in (0, 1):
      one = rows[:, network] if way == 'distance' else unit_rows(rows[:, network])
      own = graphs(next(find_neighbours(one[:, None, None])))
      every += own
      vectors = embeddings(own, 8, 0)
      found.setdefault(way, []).extend(cuts(vectors, 4, 0))
      fine += cuts(vectors, 8, 0)
  ways = [consensus(cells, 4, 0) for cells in (
      found['distance'], found['angle'], found['distance'] + found['angle'])]
  ways.append(lib.rejoined(consensus(fine, 8, 0), sum(every), 4, rows.reshape(150, 10)))
  scores = [np.mean([modularity(graph, tau.argmax(axis=1)) for graph in every])
            for tau in ways]
  assert np.ptp(scores) > 0
  best = int(np.argmax(scores[:3]))
  best = 3 if scores[3] > scores[best] + .01 else best
  np.testing.assert_array_equal(lib.cut(features, 4, 0), ways[best])


def test_joined_cells_take_the_place_of_wrong_cuts(monkeypatch):
  """Cuts that halve two of four heaps and join the others: the heaps are found."""
  labels = np.repeat(np.arange(4), 60)
  features = 9. * np.eye(4)[labels] + np.random.default_rng(0).normal(size=(240, 4))
  features = features[:, None]
  wrong = np.repeat([0, 1, 2, 3, 3, 3, 3, 3], 30)

  def some(cells, number, seed):
    return np.eye(4, dtype=np.float32)[wrong] if number == 4 else consensus(
        cells, number, seed)

  monkeypatch.setattr(lib, 'consensus', some)
  tau = lib.cut(features, 4, 0)
  assert adjusted_rand_score(labels, tau.argmax(axis=1)) == 1


def test_fitted_images_keep_their_clusters():
  """As new images, too; and after the way through arrays, to the bit."""
  images, labels = bars(300)
  config, flat = config_of(), images.reshape(300, -1)
  number = config.get_ref('num_clusters')  # as the command line holds it
  start = fit_start('recognition', flat, SHAPE, config)
  assert adjusted_rand_score(labels, start.tau.argmax(axis=1)) > .6
  assert number.get() == 3
  as_new = start(flat, None)
  assert (as_new.argmax(axis=1) == start.tau.argmax(axis=1)).all()
  again = lib.from_arrays(start.arrays(), config)
  new, of = bars(100, seed=9)
  new = new.reshape(100, -1)
  np.testing.assert_array_equal(start(new, None), again(new, None))
  assert adjusted_rand_score(of, start(new, None).argmax(axis=1)) > .6


def test_fitted_images_are_not_described_again(monkeypatch):
  """Networks look at those of other bytes only, each of which keeps its place."""
  images, _ = bars(50)
  flat, looked = images.reshape(50, -1), []

  def describe(trained, images):
    looked.append(images)
    return np.full((len(images), 2, 3), 7.)

  monkeypatch.setattr(lib, 'describe', describe)
  features = np.random.default_rng(0).normal(size=(40, 2, 3))
  start = lib.Recognised(None, features, np.ones((40, 1)), SHAPE, 32,
                         lib.content_keys(flat[:40]))
  expected = (features - features.mean(0)) / features.std(0)
  np.testing.assert_allclose(start.described(flat[:40]), expected.reshape(40, 6))
  assert not looked
  found = start.described(flat[[44, 3, 0, 41]])
  np.testing.assert_allclose(found[1:3], expected.reshape(40, 6)[[3, 0]])
  np.testing.assert_allclose(
      found[[0, 3]], [((7 - features.mean(0)) / features.std(0)).ravel()] * 2)
  np.testing.assert_array_equal(*looked, images[[44, 41]])


def test_one_cluster_needs_no_network():
  """All images are its members."""
  config, (images, _) = config_of(), bars(20)
  config.num_clusters = 1
  flat = images.reshape(20, -1)
  np.testing.assert_array_equal(fit_start('recognition', flat, SHAPE, config)(flat, None),
                                np.ones((20, 1)))


@pytest.mark.parametrize('count,clusters,multiple,expected', [
    (5000, 10, 2., 20), (400, 40, 2., 40), (400, 10, 2., 20), (390, 10, 2., 19),
    (60, 3, 2., 3), (12, 12, 2., 12), (12, 5, 1., 5), (400, 7, 1.5, 10)])
def test_cells_have_20_images_or_are_as_many_as_clusters(count, clusters, multiple,
                                                         expected):
  """Of 400 faces of 40 people, cells of five images each taught networks little."""
  assert lib.num_cells(count, clusters, multiple) == expected


def test_the_default_start_finds_the_digits():
  """An accuracy of .96 on the 1,797 of them, which the defaults must reach, is reached by
  one network in a fifth of its steps, from cells of a fifth of their views.

  (By the defaults, over seeds: docs/benchmarks.md.)
  """
  config, digits = default_config(), datasets.load_digits()
  config.num_clusters = 10
  assert config.start.kind == 'recognition'
  # Of two networks, 390 steps each, and five sets: these would take ten times as long.
  config.recognition.update(networks=1, most_visits=4)
  config.views.sets = 1
  sample = (digits.data / 8 - 1).astype(np.float32)
  tau = fit_start('recognition', sample, (8, 8, 1), config).tau
  assert accuracy(digits.target, tau.argmax(axis=1)) >= .96
