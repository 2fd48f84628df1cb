"""The cores that this process may use, and work of other libraries shared among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar('Item')
Found = TypeVar('Found')


def num_cores() -> int:
  """How many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def in_threads(function: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
  """A function of each item, as many of them at once as there are cores.

  Each is computed on one thread, as it would be alone: the results are the same to the
  bit, whatever the number of cores.

  Args:
    function: of an item; one that leaves Python's lock alone most of the time.
    items: what it is called with.

  Returns:
    Its results, in the order of the items.
  """
  # BLAS has one limit for the process, OpenMP one for each thread.
  with threadpool_limits(1), futures.ThreadPoolExecutor(
      min(num_cores(), max(1, len(items))),
      initializer=lambda: threadpool_limits(1, user_api='openmp')) as pool:
    return list(pool.map(function, items))
