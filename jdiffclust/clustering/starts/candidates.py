"""Which images are near, by plain distance: of all, or of very many.

Up to EXACT images each is compared with each, by products of matrices. That grows as the
square of their number; beyond, neighbours are looked for in a graph (`graph_search.py`),
whose cost is of order N log N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust import graph_search
from jdiffclust.batch import in_blocks

EXACT = 20000  # images of a sample that each one is compared with
BLOCK = 64  # images compared with all at once


class Near(NamedTuple):
  """The images of a sample that lie near to others.

  Attributes:
    found: their indices in the sample, int [n, num], in no order.
    which: how each was placed when it was nearest: 0 as it is, 1 as the first of
      `placed`, ..., uint8 [n, num].
    squares: their squared distances, float32 [n, num].
  """

  found: np.ndarray
  which: np.ndarray
  squares: np.ndarray


def nearest(rows: np.ndarray, sample: np.ndarray, num: int,
            placed: Sequence[np.ndarray] = ()) -> Near:
  """The nearest images of a sample.

  Args:
    rows: images [n, D].
    sample: images [m, D].
    num: how many, at most m.
    placed: the sample mirrored or turned, [m, D] each: an image is as near as the nearest
      of its placings.
  """
  look = all_pairs if len(sample) <= EXACT else by_graph
  return look(np.asarray(rows, np.float32), [
      np.ascontiguousarray(part, np.float32) for part in (sample, *placed)], num)


@jax.jit
def _squares(rows, sample):
  return (jnp.sum(rows**2, axis=1)[:, None] + jnp.sum(sample**2, axis=1)[None]
          - 2 * rows @ sample.T)


def all_pairs(rows: np.ndarray, parts: Sequence[np.ndarray], num: int) -> Near:
  """`nearest`, each compared with each; `parts` are the sample and all its placings."""
  count = len(parts[0])
  sample = jnp.concatenate([jnp.asarray(part) for part in parts])

  def of_block(block):
    squares = np.asarray(_squares(jnp.asarray(rows[block]), sample))
    squares = squares.reshape(BLOCK, -1, count)
    smallest = squares[:, 0] if len(parts) == 1 else squares.min(axis=1)
    found = np.argpartition(smallest, num - 1, axis=1)[:, :num]
    which = np.take_along_axis(squares, found[:, None], axis=2).argmin(axis=1)
    away = np.maximum(np.take_along_axis(smallest, found, axis=1), 0)
    return Near(found.astype(np.int32), which.astype(np.uint8), away)

  return in_blocks(of_block, len(rows), BLOCK)


def by_graph(rows: np.ndarray, parts: Sequence[np.ndarray], num: int) -> Near:
  """`nearest` by a graph of each of `parts`, the sample and all its placings."""
  best = None
  for number, part in enumerate(parts):
    squares, found = _of_graph(rows, part, num)
    own = Near(found.astype(np.int32), np.full(found.shape, number, np.uint8), squares)
    best = own if best is None else _nearer(best, own)
  assert best is not None  # there is one number at least
  return best


def _of_graph(rows, sample, num):
  """Squared distances and indices [n, num] of those that are found in a graph."""
  squares, found = graph_search.search(rows, sample, num)
  short = np.flatnonzero((found < 0).any(axis=1))
  if len(short):
    exact = all_pairs(rows[short], [sample], num)
    squares[short], found[short] = exact.squares, exact.found
  return squares, found


def _nearer(one: Near, other: Near) -> Near:
  """The nearest of what two searches found, each image once."""
  num = one.found.shape[1]
  both = Near(*(np.concatenate(pair, axis=1) for pair in zip(one, other)))
  # By image, the nearer placing first; and then all but the first of an image go last.
  order = np.lexsort((both.squares, both.found), axis=1)
  both = Near(*(np.take_along_axis(part, order, axis=1) for part in both))
  again = both.found[:, 1:] == both.found[:, :-1]
  squares = both.squares.copy()
  squares[:, 1:][again] = np.inf
  order = np.argpartition(squares, num - 1, axis=1)[:, :num]
  return Near(*(np.take_along_axis(part, order, axis=1) for part in both))
