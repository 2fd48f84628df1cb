"""A minibatch, as the pipelines make it and the steps take it."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Batch(NamedTuple):
  """Images on their way through a step.

  Attributes:
    images: x_0 in [-1, 1], float32 [B, H, W, C].
    indices: their places in the data set, int32 [B]; every random draw for an image
      follows from it, so that results do not depend on how a batch is split.
    start: their responsibilities in the starting partition, float32 [B, Q], for an
      E-step that pools them; None: unknown.
  """

  images: jax.Array
  indices: jax.Array
  start: jax.Array | None = None
