"""Passes over all images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.sharding import InFlight, to_host


def over_images(function: Callable, pipeline, indices, batch_size: int,
                done: Callable[[list], None] = lambda parts: None) -> Any:
  """Applies a function to images, batch by batch.

  Args:
    function: from a `Batch` of B images to a tree of arrays [B, ...], on the devices.
    pipeline: of the images.
    indices: of the images, [n].
    batch_size: images at once, at most.
    done: called after each batch with the results so far, a tree of arrays for each.

  Returns:
    A tree of NumPy arrays [n, ...], complete in every process.
  """
  parts = []
  for batch, valid in pipeline.ordered(indices, batch_size):
    found = to_host(function(batch))
    parts.append(jax.tree.map(lambda a: a[:valid], found))
    done(parts)
  return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def weighted_means(pipeline, indices, responsibilities, batch_size: int) -> jax.Array:
  """mu_q, the responsibility-weighted mean image of each cluster.

  Args:
    pipeline: of the images.
    indices: of the images to average, [n].
    responsibilities: their tau on the devices, [n, Q].
    batch_size: images summed at once, at most.

  Returns:
    [Q, H, W, C]; an empty cluster gets the mean of all images.
  """
  sums, begin, in_flight = None, 0, InFlight()
  for batch, valid in pipeline.ordered(indices, batch_size):
    part = _sums(batch, responsibilities, begin, valid)
    sums = part if sums is None else sums + part
    in_flight.add(sums)
    begin += valid
  return _means(sums, responsibilities)


@jax.jit
def _sums(batch, responsibilities, begin, valid):
  rows = jnp.arange(len(batch.indices))
  tau = responsibilities[jnp.minimum(begin + rows, len(responsibilities) - 1)]
  tau = jnp.where((rows < valid)[:, None], tau, 0)
  return jnp.einsum('bq,bhwc->qhwc', tau, batch.images)


@jax.jit
def _means(sums, responsibilities):
  sizes = jnp.sum(responsibilities, axis=0)[:, None, None, None]
  overall = jnp.sum(sums, axis=0) / jnp.sum(sizes)
  return jnp.where(sizes > 1e-3, sums / jnp.maximum(sizes, 1e-3), overall)
