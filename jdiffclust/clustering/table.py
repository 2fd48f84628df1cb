"""Responsibilities by image: of all images, or of some."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class SampleTable(NamedTuple):
  """Responsibilities of some images.

  Attributes:
    images: their indices, rising, int32 [n].
    values: [n, Q].
  """

  images: jax.Array
  values: jax.Array


def responsibilities_of(table, indices) -> jax.Array:
  """Responsibilities [B, Q] of images; 1 / Q where a `SampleTable` has not got them.

  Args:
    table: of all images [N, Q], or a `SampleTable`.
    indices: int32 [B].
  """
  if not isinstance(table, SampleTable):
    return table[indices]
  rows = jnp.searchsorted(table.images, indices)
  rows = jnp.minimum(rows, len(table.images) - 1)
  known = (table.images[rows] == indices)[:, None]
  return jnp.where(known, table.values[rows], 1 / table.values.shape[1])
