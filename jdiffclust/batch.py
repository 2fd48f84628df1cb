"""A minibatch, as the pipelines make it and the steps take it; and blocks of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np


class Batch(NamedTuple):
  """Images on their way through a step.

  Attributes:
    images: x_0 in [-1, 1], float32 [B, H, W, C].
    indices: their places in the data set, or of new images numbers of their pixels,
      int32 [B].
    start: their responsibilities in the starting partition, float32 [B, Q], for an
      E-step that pools them; None: unknown.
    repeated: of a minibatch in which images come again, int32 [B], what is added to
      `indices` to tell them apart; None: none does.
  """

  images: jax.Array
  indices: jax.Array
  start: jax.Array | None = None
  repeated: jax.Array | None = None

  @property
  def numbers(self) -> jax.Array:
    """What every random draw for an image follows from, int32 [B].

    So results do not depend on how a batch is split.
    """
    return self.indices if self.repeated is None else self.indices + self.repeated


def blocks(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
  """Rows 0..count - 1 in blocks of one size, so that there is one shape to compile.

  Args:
    count: n, at least 1.
    size: B, of a block.

  Yields:
    Rows, int [B], and how many of them count: the last block is filled up with row n - 1.
  """
  for start in range(0, count, size):
    rows = np.minimum(np.arange(start, start + size), count - 1)
    yield rows, min(size, count - start)


def in_blocks(function: Callable[[np.ndarray], Any], count: int, size: int) -> Any:
  """Applies a function to all rows, block by block.

  Args:
    function: from rows int [B] to a tree of arrays [B, ...].
    count: n, at least 1.
    size: B.

  Returns:
    A tree of NumPy arrays [n, ...].
  """
  # Filled as they come: kept one by one, they would lie between what blocks free.
  whole, done = None, 0
  for rows, valid in blocks(count, size):
    part = jax.tree.map(np.asarray, function(rows))
    if whole is None:
      whole = jax.tree.map(lambda a: np.empty((count, *a.shape[1:]), a.dtype), part)

    def fill(into, array, done=done, valid=valid):
      into[done:done + valid] = array[:valid]

    jax.tree.map(fill, whole, part)
    done += valid
  return whole
