"""The search for near images: the graph against brute force, rerun, on many threads."""

import faiss
import numpy as np
import pytest

from jdiffclust.clustering.starts import candidates as lib


def rows_of(count, seed=0, size=16):
  """Random rows."""
  return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def brute(rows, parts, num):
  """Indices of the nearest, and all squared distances to the nearest placing."""
  away = np.min([((rows[:, None].astype(np.float64) - part)**2).sum(axis=2)
                 for part in parts], axis=0)
  return np.argsort(away, axis=1, kind='stable')[:, :num], away


def recall(found, wanted):
  """The share of what is wanted that was found; nothing is found twice."""
  assert all(len(set(row)) == len(row) for row in found)
  return np.mean([len(set(one) & set(other)) / len(other)
                  for one, other in zip(found.tolist(), wanted.tolist())])


def test_the_graph_finds_the_nearest():
  """Nearly all of 40, all of the first 10, at their distances."""
  sample, rows = rows_of(3000), rows_of(300, 1)
  near = lib.by_graph(rows, [sample], 40)
  wanted, away = brute(rows, [sample], 40)
  assert recall(near.found, wanted) > .98
  assert np.mean([set(first) <= set(row) for first, row in
                  zip(wanted[:, :10].tolist(), near.found.tolist())]) > .97
  np.testing.assert_allclose(near.squares, np.take_along_axis(away, near.found, 1),
                             rtol=1e-4)
  assert not near.which.any()


@pytest.mark.parametrize('look', (lib.by_graph, lib.all_pairs))
def test_each_image_is_as_near_as_its_nearest_placing(look):
  """Two of three parts hold a near copy of each image: it is found once, and which."""
  sample, rows = rows_of(200), rows_of(70, 1)
  parts = [sample, sample[:, ::-1].copy(), -sample]
  near = look(rows, parts, 12)
  wanted, away = brute(rows, parts, 12)
  assert recall(near.found, wanted) > .99
  np.testing.assert_allclose(near.squares, np.take_along_axis(away, near.found, 1),
                             rtol=1e-4)
  placed = np.stack(parts)[near.which, near.found]
  np.testing.assert_allclose(((rows[:, None] - placed)**2).sum(axis=2), near.squares,
                             rtol=1e-4)


def test_bits_do_not_hang_on_threads_or_runs():
  """Built and searched by one thread, and by more threads than there are cores."""
  sample = rows_of(2000)
  before, found = faiss.omp_get_max_threads(), []
  try:
    for threads in (1, 4, 4, 7):
      faiss.omp_set_num_threads(threads)
      found.append(lib.by_graph(sample, [sample, sample[::-1].copy()], 30))
      assert faiss.omp_get_max_threads() == threads
  finally:
    faiss.omp_set_num_threads(before)
  for other in found[1:]:
    for one, two in zip(found[0], other):
      np.testing.assert_array_equal(one, two)


def test_heaps_of_equal_images():
  """More equal images than a graph links: as many others are found all the same."""
  sample = np.concatenate([np.zeros((400, 16), np.float32), rows_of(100) + 5])
  near = lib.by_graph(sample, [sample], 120)
  assert near.found.min() >= 0 and near.found.max() < 500
  wanted, away = brute(sample, [sample], 120)
  np.testing.assert_allclose(np.sort(near.squares, axis=1),
                             np.take_along_axis(away, wanted, 1), rtol=1e-3, atol=1e-3)


def test_few_images_are_compared_with_each(monkeypatch):
  """Up to EXACT of them, whatever a graph would miss; beyond, by the graph."""
  sample = rows_of(90)
  monkeypatch.setattr(lib, 'EXACT', 90)
  near = lib.nearest(sample, sample, 7)
  assert recall(near.found, brute(sample, [sample], 7)[0]) == 1
  monkeypatch.setattr(lib, 'by_graph', lambda *given: 'graph')
  assert lib.nearest(sample, rows_of(91), 7) == 'graph'
  assert lib.nearest(sample, sample, 7) != 'graph'
