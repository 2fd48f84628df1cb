"""Nearest images, copies and places, against counting one by one."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jdiffclust.evaluation import gallery

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('own', [False, True])
def test_nearest(own):
  """By SciPy's distances; far from the origin, where differences lose digits."""
  known = RNG.normal(size=(50, 6)).astype(np.float32) + 30
  rows = known if own else RNG.normal(size=(20, 6)).astype(np.float32) + 30
  expected = cdist(rows.astype(float), known.astype(float))
  if own:
    np.fill_diagonal(expected, np.inf)
  found, away = gallery.nearest(rows, known, 4, np.arange(50) if own else None)
  np.testing.assert_array_equal(found, np.argsort(expected, axis=1)[:, :4])
  np.testing.assert_allclose(away, np.sort(expected, axis=1)[:, :4], rtol=1e-6)


@pytest.mark.parametrize('own', [False, True])
def test_nearest_of_many(own, monkeypatch):
  """By the graph, of which hardly any are missed; an image itself is left out, also of a
  heap of equal ones."""
  monkeypatch.setattr(gallery, 'EXACT', 100)
  known = RNG.normal(size=(600, 6)).astype(np.float32)
  known[:40] = 9.
  rows = known if own else RNG.normal(size=(150, 6)).astype(np.float32)
  places = np.arange(600) if own else None
  found, away = gallery.nearest(rows, known, 4, places)
  expected = cdist(rows.astype(float), known.astype(float))
  if own:
    np.fill_diagonal(expected, np.inf)
    assert (found != places[:, None]).all()
  np.testing.assert_allclose(away, np.take_along_axis(expected, found, axis=1))
  assert np.mean(away[:, 3] <= np.sort(expected, axis=1)[:, 3] + 1e-5) > .99


def test_few_images():
  """Fewer neighbours than asked for, down to none."""
  one = np.zeros((1, 2))
  assert gallery.nearest(one, one, 5, np.arange(1))[0].shape == (1, 0)
  assert gallery.nearest(one, np.zeros((3, 2)), 5)[0].shape == (1, 3)
  assert gallery.spread(np.zeros((2, 3)), 0).shape == (2, 2)


def test_places():
  """An image of the map lies there; one amid three lies at their mean."""
  known = np.array([[0., 0.], [2., 0.], [1., 3.**.5], [50., 50.]])
  points = np.array([[1., 2.], [4., 8.], [-2., 5.], [9., 9.]])
  np.testing.assert_allclose(gallery.placed(known, known, points), points, atol=1e-4)
  middle = np.array([[1., 1 / 3**.5]])
  np.testing.assert_allclose(gallery.placed(middle, known, points), [[1., 5.]], atol=1e-5)


def test_a_map_of_more_images_than_are_mapped():
  """All lie amid those that are mapped, each of two far groups by itself."""
  groups = np.repeat([0, 1], 30)
  features = RNG.normal(size=(60, 4)) + 40 * groups[:, None]
  points = gallery.spread(features, 0, most=30)
  assert points.shape == (60, 2) and np.isfinite(points).all()
  nearest = np.argsort(cdist(points, points), axis=1)[:, 1]
  assert (groups[nearest] == groups).all()


def pictures():
  """40 different ones of smooth blobs, [40, 12, 12, 1] in [-1, 1]."""
  places = np.stack(np.meshgrid(*[np.linspace(-1, 1, 12)] * 2), -1)
  centres = RNG.uniform(-1, 1, (40, 3, 2))
  away = np.linalg.norm(places[None, None] - centres[:, :, None, None], axis=-1)
  return np.tanh(3 * np.exp(-8 * away**2).sum(axis=1) - 1)[..., None].astype(np.float32)


def looks(images):
  return gallery.signatures(images), gallery.digests(images)


def test_copies():
  """To the pixel, brighter, noisy, and noisy of that: of the first; a shifted one and
  images of one level are none."""
  base = pictures()
  noisy = lambda image: image + .01 * RNG.normal(size=image.shape).astype(np.float32)
  flat = np.ones_like(base[0])
  images = np.stack([*base, base[3], .7 * base[5] + .2, noisy(base[6]),
                     noisy(noisy(base[6])), np.roll(base[7], 2, axis=1), flat,
                     .5 * flat, flat])
  found = gallery.copies_among(*looks(images))
  expected = dict.fromkeys(range(48), -1) | {40: 3, 41: 5, 42: 6, 43: 6, 47: 45}
  assert dict(enumerate(found.of.tolist())) == expected
  assert np.flatnonzero(found.exact).tolist() == [40, 47]
  marks, pixels = looks(base)
  known = gallery.Gallery(np.arange(40).astype(str), None, None, marks, pixels, None,
                          None)
  later = gallery.copies_of(*looks(images[40:]), known)
  assert later.of.tolist() == [3, 5, 6, 6, -1, -1, -1, -1]
  assert later.exact.tolist() == [True] + [False] * 7


def test_copies_of_a_near_copy_are_exact():
  """Each of that image, which is near the first one; told to the pixel."""
  base = pictures()
  near = .7 * base[5] + .2
  found = gallery.copies_among(*looks(np.stack([*base, near, near, base[5], near])))
  assert found.of[40:].tolist() == [5, 40, 5, 40] and (found.of[:40] == -1).all()
  assert found.exact[40:].tolist() == [False, True, True, True]


@pytest.mark.parametrize('times', [1, 9, 10, 30])
def test_how_often_an_image_is_there_hides_no_near_copy(times):
  """Among the known images, as among those of one collection."""
  base = pictures()
  images = np.concatenate([base, np.repeat(base[:1], times, axis=0)])
  new = .7 * base[:1] + .2
  marks, pixels = looks(images)
  known = gallery.Gallery(np.arange(len(images)).astype(str), None, None, marks, pixels,
                          None, None)
  later = gallery.copies_of(*looks(new), known)
  assert later.of.tolist() == [0] and not later.exact.any()
  together = gallery.copies_among(*looks(np.concatenate([images, new])))
  assert together.of.tolist() == [-1] * 40 + [0] * (times + 1)
  assert together.exact.tolist() == [False] * 40 + [True] * times + [False]


def test_kept_and_read_again(tmp_path):
  marks, pixels = looks(pictures())
  known = gallery.Gallery(np.array(['a/ü.png'] * 40), np.ones((40, 2)), np.ones((40, 2)),
                          marks, pixels, np.zeros(0), np.zeros((0, 0)))
  gallery.write(tmp_path / 'x.npz', known)
  for one, other in zip(known, gallery.read(tmp_path / 'x.npz')):
    np.testing.assert_array_equal(one, other)
  (tmp_path / 'x.npz').write_bytes(b'damaged')
  assert gallery.read(tmp_path / 'x.npz') is None
