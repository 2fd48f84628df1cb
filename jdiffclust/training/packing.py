"""A tree of arrays as a few long vectors, and back.

Orbax hands every array of a checkpoint to TensorStore by itself, which takes some two
milliseconds of Python and a request each way. The state of a small U-Net has 600 arrays
of a few numbers: as long vectors it is saved in a twentieth of the time.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np

PIECE = 2**24  # numbers in one vector, at most: what is written and compressed at once


def on_host(leaf) -> np.ndarray:
  """An array of the host, or the copy of it that this process's first device has."""
  return np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)


def packed(tree) -> dict[str, list[np.ndarray]]:
  """The numbers of all arrays of a tree, by dtype, in the tree's order.

  Args:
    tree: arrays on the host or, copies of the whole, on all devices.

  Returns:
    {name of a dtype: vectors of PIECE numbers, the last one shorter}, new on the host.
  """
  found: dict[str, list[np.ndarray]] = {}
  for leaf in map(on_host, jax.tree.leaves(tree)):
    found.setdefault(str(leaf.dtype), []).append(leaf.ravel())
  return {name: _pieces(np.concatenate(parts)) for name, parts in found.items()}


def packed_like(like) -> dict[str, list[np.ndarray]]:
  """Room for what `packed` makes of a tree of the shapes and dtypes of `like`."""
  sizes: dict[str, int] = {}
  for leaf in jax.tree.leaves(like):
    name = str(leaf.dtype)
    sizes[name] = sizes.get(name, 0) + leaf.size
  return {name: _pieces(np.empty(size, name)) for name, size in sizes.items()}


def _pieces(vector):
  return [vector[begin:begin + PIECE] for begin in range(0, max(len(vector), 1), PIECE)]


def unpacked(vectors: dict[str, list[np.ndarray]], like) -> Any:
  """The tree that `packed` made vectors of.

  Args:
    vectors: those of `packed`.
    like: a tree of `jax.ShapeDtypeStruct` with shardings, as of the tree.

  Returns:
    The tree, its arrays where `like` says.
  """
  whole = {name: np.concatenate(pieces) for name, pieces in vectors.items()}
  begins = dict.fromkeys(whole, 0)

  def take(leaf):
    name = str(leaf.dtype)
    begin = begins[name]
    begins[name] = begin + leaf.size
    array = whole[name][begin:begin + leaf.size].reshape(leaf.shape)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding,
                                        lambda index: array[index])

  return jax.tree.map(take, like)


def structure(tree) -> int:
  """A checksum of the names, shapes and dtypes of a tree's arrays, in their order."""
  return zlib.crc32(repr([
      (jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype))
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]).encode())
