"""Symmetries of images: the statistic by brute force, and how often the rule errs."""

import itertools

import numpy as np
import pytest

from jdiffclust.config import default_config
from jdiffclust.data import symmetry as lib
from jdiffclust.data.symmetry import MAPS, Placing

NAMES = tuple(MAPS)


def turned(images, quarters):
  """NumPy's turns of each image."""
  return np.stack([np.rot90(image, quarters) for image in images])


def drawn(count, seed, kinds=3, side=6, channels=1, noise=.4):
  """Images near one of a few patterns that have no symmetry."""
  rng = np.random.default_rng(seed)
  patterns = np.random.default_rng(99).normal(size=(kinds, side, side, channels))
  images = patterns[rng.integers(kinds, size=count)]
  return (images + noise * rng.normal(size=images.shape)).astype(np.float32)


def at_random(images, seed, *names):
  """Each image moved by a random element of the group that the maps make."""
  rng, moved = np.random.default_rng(seed), []
  for image in images:
    if 'quarter_turns' in names:
      image = np.rot90(image, rng.integers(4))
    if 'flip' in names and rng.integers(2):
      image = image[:, ::-1]
    if 'upside_down' in names and rng.integers(2):
      image = image[::-1]
    moved.append(image)
  return np.stack(moved)


def by_loops(images, name):
  """Share and standard error, as the module's docstring defines them, pair by pair."""
  count = len(images)
  move = {'flip': lambda image, k: image[:, ::-1] if k % 2 else image,
          'upside_down': lambda image, k: image[::-1] if k % 2 else image,
          'quarter_turns': lambda image, k: np.rot90(image, k)}[name]
  order = 4 if name == 'quarter_turns' else 2
  square = lambda i, j, k: float(np.sum(
      (images[i].astype(float) - move(images[j], k))**2))
  pairs = set()
  for i in range(count):
    away = {j: min(square(i, j, k) for k in range(order)) for j in range(count) if j != i}
    nearest = sorted(away, key=away.get)[:lib.NEIGHBOURS]
    pairs |= {(min(i, j), max(i, j)) for j in nearest}
  won, weight = {}, {}
  for i, j in pairs:
    won[i, j] = weight[i, j] = 0
    for k in (1, order - 1):
      own, other = square(i, j, 0), square(i, j, k)
      w = abs(own - other) / (own + other) if own + other else 0.
      weight[i, j] += w
      won[i, j] += w * (other < own)
  total = sum(weight.values())
  share = sum(won.values()) / total
  rest = {pair: won[pair] - share * weight[pair] for pair in pairs}
  both = sum(rest[one] * rest[two] for one, two in itertools.product(pairs, pairs)
             if set(one) & set(two))
  variance = max(both, sum(value**2 for value in rest.values()))
  return share, variance**.5 / total


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('channels', [1, 3])
def test_share_and_error_are_those_of_loops(name, channels):
  """Also of colour images, one of them equal to its mirror image."""
  images = at_random(drawn(24, 0, channels=channels), 1, 'flip', 'quarter_turns')
  images[5] = (images[5] + images[5][:, ::-1]) / 2
  found = lib.judge(images, MAPS[name])
  np.testing.assert_allclose((found.share, found.error), by_loops(images, name),
                             rtol=1e-5)


def test_nearest_neighbours_of_mirror_images():
  """Ratio and share by brute force, an image's own mirror image left out."""
  images = at_random(drawn(40, 2), 3, 'flip')
  images[:5] = (images[:5] + images[:5, :, ::-1]) / 2  # their own mirror images
  far = lambda a, b: np.sqrt(np.sum((a.astype(float) - b)**2))
  nearest = lambda some: np.array([
      min(far(some[i], images[j]) for j in range(40) if j != i) for i in range(40)])
  own, mirrored = nearest(images), nearest(images[:, :, ::-1])
  found = lib.judge(images, MAPS['flip'])
  np.testing.assert_allclose(found.ratio, np.median(mirrored / own), rtol=1e-5)
  assert abs(found.nearer - np.mean(mirrored[5:] < own[5:]) * 35 / 40) < 5.5 / 40


@pytest.mark.parametrize('names', [
    (), ('flip',), ('upside_down',), ('flip', 'upside_down'), ('quarter_turns',),
    ('flip', 'quarter_turns')])
def test_exact_symmetries_are_found_and_no_others(names):
  """Of 400 images; quarter turns and one exchange make the other one, too."""
  found = lib.find(at_random(drawn(400, 4), 5, *names))
  wanted = set(NAMES) if len(names) == 2 and 'quarter_turns' in names else set(names)
  assert {name for name, one in found.items() if one.holds} == wanted
  for name, one in found.items():
    if name in wanted:
      assert abs(one.share - .5) < 4 * one.error < .2
      assert .9 < one.ratio < 1.1
    else:
      assert one.share < .1 and one.ratio > 1.2


def test_a_half_under_symmetry():
  """The mean share over samples is a half and its spread the stated error, whatever the
  images: patterns, or noise alone; turns of order four too (4 standard errors)."""
  for make, name in itertools.product(
      (lambda seed: drawn(60, seed), lambda seed: drawn(60, seed, 1, noise=3.)),
      ('flip', 'quarter_turns')):
    found = [lib.judge(at_random(make(seed), seed + 500, name), MAPS[name])
             for seed in range(200)]
    shares, errors = (np.array([getattr(one, key) for one in found])
                      for key in ('share', 'error'))
    assert abs(shares.mean() - .5) < 4 * shares.std() / 200**.5
    assert .8 < np.sqrt(np.mean(errors**2)) / shares.std() < 1.3


def test_false_alarms():
  """Where a fifth of the evidence is of images without the symmetry, so that the share is
  LEAST, the rule takes it for one in ALPHA of all samples (4 standard errors)."""
  shares, holds = [], []
  for seed in range(300):
    both = at_random(drawn(103, seed, 1, noise=1.), seed, 'flip')
    alone = 20 + drawn(17, seed, 1, noise=1.) + 9 * np.eye(6)[..., None]
    one = lib.judge(np.concatenate([both, alone]).astype(np.float32), MAPS['flip'])
    shares.append(one.share)
    holds.append(one.holds)
  assert lib.LEAST - .02 < np.mean(shares) <= lib.LEAST
  assert np.mean(holds) <= lib.ALPHA + 4 * (lib.ALPHA / 300)**.5


def test_images_that_are_their_own_mirror_images_say_nothing():
  """Half of them beside others: the share is that of the others; alone: there is none."""
  images = drawn(60, 7)
  own = np.concatenate([images, 50 + images + images[:, :, ::-1]])
  np.testing.assert_allclose(lib.judge(own, MAPS['flip'])[:2],
                             lib.judge(images, MAPS['flip'])[:2], rtol=1e-4)
  found = lib.judge(images + images[:, :, ::-1], MAPS['flip'])
  assert np.isnan(found.share) and not found.holds
  assert lib.as_dict({'flip': found})['flip']['share'] is None


@pytest.mark.parametrize('count', [1, 2, 5, lib.FEWEST_IMAGES - 1])
def test_few_images_have_no_symmetry(count):
  """However they look; a single one cannot be compared."""
  images = at_random(drawn(count, 8), 9, 'flip')
  found = lib.find(images)
  assert not any(one.holds for one in found.values())
  assert set(found) == (set(NAMES) if count > 1 else set())


def test_equal_images_say_nothing():
  """Nothing is divided by zero."""
  for images in (np.zeros((30, 4, 4, 1)), np.repeat(drawn(1, 0), 30, axis=0)):
    assert not any(one.holds for one in lib.find(images).values())


def test_images_that_are_not_square():
  """No quarter turns."""
  assert set(lib.find(drawn(30, 0)[:, :4])) == {'flip', 'upside_down'}


def test_large_images_are_reduced_alike():
  """Reducing commutes with every map; small ones stay."""
  images = np.random.default_rng(0).normal(size=(3, 45, 45, 2)).astype(np.float32)
  small = lib.reduced(images, 32)
  assert small.shape == (3, 32, 32, 2)
  for by in MAPS.values():
    np.testing.assert_allclose(lib.reduced(by.placing(images), 32), by.placing(small),
                               atol=1e-5)
  assert lib.reduced(small, 32) is small


def test_many_images_are_a_sample_of_the_seed(monkeypatch):
  """The same seed, the same answer."""
  monkeypatch.setattr(lib, 'MOST_IMAGES', 50)
  images = drawn(200, 0)
  assert lib.find(images, seed=1) == lib.find(images, seed=1)
  assert lib.find(images, seed=1) != lib.find(images, seed=2)


PLACINGS = [Placing(mirrored, quarters) for mirrored in (False, True)
            for quarters in range(4)]


def test_placings_are_numpys():
  """Mirrored first, then turned; and one after another is what `after` says."""
  images = np.random.default_rng(0).normal(size=(2, 5, 5, 1))
  for one in PLACINGS:
    mirrored = images[:, :, ::-1] if one.mirrored else images
    np.testing.assert_array_equal(one(images), turned(mirrored, one.quarters))
    for other in PLACINGS:
      np.testing.assert_array_equal(one.after(other)(images), one(other(images)))


def views(**shares):
  """The section `views`, its shares 0 but for those."""
  config = default_config()
  config.views.update({**dict.fromkeys(NAMES, 0.), **shares})
  return config.views


@pytest.mark.parametrize('names, size', [
    ((), 0), (('flip',), 1), (('upside_down',), 1), (('flip', 'upside_down'), 3),
    (('quarter_turns',), 3), (('flip', 'quarter_turns'), 7), (NAMES, 7)])
def test_groups(names, size):
  """All products of the maps, each once, without the identity."""
  found = lib.group(views(**dict.fromkeys(names, .1)))
  assert len(found) == len(set(found)) == size
  whole = {Placing(False, 0), *found}
  assert all(one.after(other) in whole for one in whole for other in whole)
  assert all(MAPS[name].placing in found for name in names)


def test_what_is_given_stays():
  """auto becomes numbers, of the views that make all powers as likely; others stay."""
  images = at_random(drawn(300, 4), 5, 'flip')
  config = default_config()
  config.views.upside_down = .2
  found_config, found = lib.settled(config, images.reshape(300, -1), (6, 6, 1))
  assert set(found) == {'flip', 'quarter_turns'}
  assert [found_config.views[name] for name in NAMES] == [.5, .2, 0.]
  assert config.views.flip == 'auto'
  again, found = lib.settled(found_config, images.reshape(300, -1), (6, 6, 1))
  assert again is found_config and found == {}
