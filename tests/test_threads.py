"""Work shared among cores: the same results, one thread each, limits as before."""

import threading

import numpy as np
import pytest
import threadpoolctl
from sklearn.cluster import KMeans

from jdiffclust import threads


@pytest.fixture
def three_cores(monkeypatch):
  monkeypatch.setattr(threads, 'num_cores', lambda: 3)


def test_all_items_are_at_work_at_once(three_cores):
  together = threading.Barrier(3, timeout=30)

  def wait(item):
    together.wait()  # breaks unless three come at once
    return item, threading.get_ident()

  found = threads.in_threads(wait, [5, 3, 4])
  assert [item for item, _ in found] == [5, 3, 4]
  assert len({thread for _, thread in found}) == 3
  assert threads.in_threads(wait, []) == []


def test_each_is_computed_on_one_thread_and_limits_stay(three_cores):
  np.ones((2, 2)) @ np.ones((2, 2))
  limits = lambda: {(row['user_api'], row['prefix']): row['num_threads']
                    for row in threadpoolctl.threadpool_info()}
  with threadpoolctl.threadpool_limits(2):
    before = limits()
    assert {'openmp', 'blas'} <= {api for api, _ in before}
    for inside in threads.in_threads(lambda _: limits(), range(4)):
      assert set(inside.values()) == {1}
    assert limits() == before


def test_results_are_those_of_one_after_the_other(three_cores):
  rows = np.random.default_rng(0).normal(size=(3000, 6))
  cells = lambda k: KMeans(k, n_init=2, random_state=0).fit(rows).labels_
  with threadpoolctl.threadpool_limits(1):
    expected = [cells(k) for k in range(2, 12)]
  for found, one in zip(threads.in_threads(cells, range(2, 12)), expected, strict=True):
    np.testing.assert_array_equal(found, one)


def test_an_error_is_raised(three_cores):
  with pytest.raises(ZeroDivisionError):
    threads.in_threads(lambda item: 1 // item, [1, 0, 2])
