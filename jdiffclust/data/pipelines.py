"""From a source of images to batches on the devices.

`MemoryPipeline` keeps all images on the devices: minibatches are picked there, and the
training loop moves nothing. `GrainPipeline` reads them as they are needed, ahead of
the loop, by Grain. Both give the same minibatches, and provide

  training(step)                minibatches from gradient step `step` on, endlessly
  ordered(indices, batch_size)  the images of some indices once, in that order, as
                                (Batch, number of valid rows). All batches have one shape,
                                no larger than asked for but for the multiple of the
                                device count; the last repeats its last image.
  waiting_share                 the share of the time of `training`, from its second
                                minibatch on, in which the loop waited for images to be
                                read; None: it does not read, or has not trained
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdiffclust.batch import Batch
from jdiffclust.data.dataset import ImageSource, read_images, scale_to_model
from jdiffclust.sharding import DATA_AXIS, local_rows, replicate, split_rows
from jdiffclust.streams import stream

# More gradient steps than any run takes.
ENDLESS = 2**31


def even_batch_size(num_images: int, at_most: int, multiple: int) -> int:
  """The batch size that covers the images in as few batches with the least filling.

  Args:
    num_images: N.
    at_most: the largest batch size allowed, itself a multiple.
    multiple: the devices that share a batch.

  Returns:
    The smallest multiple of `multiple` that needs no more batches than `at_most` does.
  """
  num_batches = -(-num_images // at_most)
  share = -(-num_images // num_batches)
  return -(-share // multiple) * multiple


def ordered_indices(indices, at_most: int, multiple: int) -> Iterator[tuple]:
  """Yields (indices [B], valid rows), B even; the last batch repeats the last image."""
  count = len(indices)
  batch_size = even_batch_size(count, at_most, multiple)
  for start in range(0, count, batch_size):
    rows = np.minimum(np.arange(start, start + batch_size), count - 1)
    yield np.asarray(indices)[rows], min(batch_size, count - start)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
  """Minibatches of an epoch: those that are full, and at least one."""
  return max(1, num_images // batch_size)


def repeats(num_images: int, batch_size: int) -> np.ndarray | None:
  """What tells the images of a minibatch apart that stand in it several times.

  Args:
    num_images: N.
    batch_size: B.

  Returns:
    0 for the first N rows, N for the next ones, and so on, int32 [B]; None: B <= N.
  """
  if batch_size <= num_images:
    return None
  return np.arange(batch_size, dtype=np.int32) // num_images * num_images


def epoch_order(key, epoch, num_images: int, batch_size: int) -> jax.Array:
  """The images of an epoch's minibatches, one after the other.

  Images that do not fill a last minibatch are left out; every epoch leaves out others.

  Args:
    key: a typed key.
    epoch: 0, 1, ...
    num_images: N.
    batch_size: B; where it exceeds N, images come again, see `repeats`.

  Returns:
    int32 [steps B] of 0..N - 1, in an order that is random anew in every epoch.
  """
  order = jax.random.permutation(jax.random.fold_in(key, epoch), num_images)
  return jnp.resize(order, (steps_per_epoch(num_images, batch_size) * batch_size,))


_order = jax.jit(epoch_order, static_argnums=(2, 3))


class _Programs(NamedTuple):
  """What a pipeline compiles; of equal settings they are the same."""

  order: Callable
  minibatch: Callable
  take: Callable
  scale: Callable


@functools.lru_cache(64)
def _programs(num_images: int, batch_size: int, levels: int | None,
              mesh: Mesh) -> _Programs:
  split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
  whole = NamedSharding(mesh, PartitionSpec())
  steps = steps_per_epoch(num_images, batch_size)

  again = repeats(num_images, batch_size)

  def scale(images, indices, repeated=None):
    return Batch(scale_to_model(images, levels), indices, repeated=repeated)

  def take(images, indices):
    return scale(images[indices], indices)

  def minibatch(images, order, step):
    position = step % steps * batch_size
    found = take(images, jax.lax.dynamic_slice_in_dim(order, position, batch_size))
    return found if again is None else found._replace(repeated=jnp.asarray(again))

  return _Programs(
      jax.jit(lambda key, epoch: epoch_order(key, epoch, num_images, batch_size),
              out_shardings=whole),
      *(jax.jit(function, out_shardings=split) for function in (minibatch, take, scale)))


class MemoryPipeline:
  """All images in the memory of every device."""

  waiting_share = None

  def __init__(self, source: ImageSource, batch_size: int, seed: int, mesh: Mesh):
    """Copies the images to the devices.

    Args:
      source: the images.
      batch_size: of the minibatches; may exceed the number of images.
      seed: the config's; decides the order.
      mesh: the devices.
    """
    self.num_images = source.num_images
    images = read_images(source, np.arange(source.num_images))
    self._images = replicate(images, mesh)
    self._mesh = mesh
    self._key = replicate_key(stream(seed, 'minibatches'), mesh)
    self._steps_per_epoch = steps_per_epoch(self.num_images, batch_size)
    self._programs = _programs(self.num_images, batch_size, source.levels, mesh)

  def training(self, step: int) -> Iterator[Batch]:
    """Minibatches from step `step` on, see `epoch_order`."""
    on_device = replicate(np.int32(step), self._mesh)
    order = None
    while True:
      epoch, position = divmod(step, self._steps_per_epoch)
      if order is None or position == 0:
        order = self._programs.order(self._key, replicate(np.int32(epoch), self._mesh))
      yield self._programs.minibatch(self._images, order, on_device)
      step, on_device = step + 1, _increment(on_device)

  def ordered(self, indices, batch_size: int) -> Iterator[tuple[Batch, int]]:
    """The images of some indices once, in their order."""
    for indices, valid in ordered_indices(indices, batch_size, self._mesh.size):
      rows = replicate(indices.astype(np.int32), self._mesh)
      yield self._programs.take(self._images, rows), valid


@jax.jit
def _increment(step):
  return step + 1


def replicate_key(key, mesh: Mesh):
  """Copies a typed key to all devices."""
  return jax.random.wrap_key_data(replicate(jax.random.key_data(key), mesh))


class GrainPipeline:
  """Images read by Grain's threads, ahead of the loop."""

  def __init__(self, source: ImageSource, batch_size: int, seed: int, mesh: Mesh,
               workers: int = 8):
    """Prepares the reading; nothing is read yet.

    Args:
      source: the images.
      batch_size: of the minibatches.
      seed: the config's; decides the order.
      mesh: the devices.
      workers: reading threads.
    """
    self.num_images = source.num_images
    self._source, self._mesh, self._batch_size = source, mesh, batch_size
    self._read_options = grain.ReadOptions(
        num_threads=workers, prefetch_buffer_size=max(1, 2 * workers))
    key = stream(seed, 'minibatches')
    # Of few epochs: reading runs ahead of the loop, into the next one.
    self._order = functools.lru_cache(4)(lambda epoch: np.asarray(
        _order(key, np.int32(epoch), source.num_images, batch_size)))
    self._scale = _programs(source.num_images, batch_size, source.levels, mesh).scale
    again = repeats(source.num_images, batch_size)
    self._repeated = () if again is None else (again[local_rows(batch_size)],)
    self._waited = self._trained = 0.  # seconds

  @property
  def waiting_share(self) -> float | None:
    """See the module's text."""
    return self._waited / self._trained if self._trained else None

  def _reading(self, index_batches):
    def read(indices):
      mine = np.asarray(indices)[local_rows(len(indices))]
      return read_images(self._source, mine), mine.astype(np.int32)
    return index_batches.map(read).to_iter_dataset(self._read_options)

  def _to_devices(self, *arrays):
    return self._scale(*split_rows(arrays, self._mesh))

  def _minibatch(self, step):
    """The images of gradient step `step`, int32 [B]."""
    epoch, position = divmod(step, steps_per_epoch(self.num_images, self._batch_size))
    return self._order(epoch)[position * self._batch_size:][:self._batch_size]

  def training(self, step: int) -> Iterator[Batch]:
    """Minibatches from step `step` on, see `epoch_order`."""
    steps = grain.MapDataset.range(int(step), ENDLESS)
    reading = iter(self._reading(steps.map(self._minibatch)))
    # While threads start and programs compile:
    yield self._to_devices(*next(reading), *self._repeated)
    returned = time.perf_counter()
    while True:
      asked = time.perf_counter()
      images, indices = next(reading)
      began, returned = returned, time.perf_counter()
      self._waited += returned - asked
      self._trained += returned - began
      yield self._to_devices(images, indices, *self._repeated)

  def ordered(self, indices, batch_size: int) -> Iterator[tuple[Batch, int]]:
    """The images of some indices once, in their order."""
    batches = list(ordered_indices(indices, batch_size, self._mesh.size))
    dataset = grain.MapDataset.source([indices for indices, _ in batches])
    for (images, indices), (_, valid) in zip(self._reading(dataset), batches):
      yield self._to_devices(images, indices), valid


def make_pipeline(source: ImageSource, options, batch_size: int, seed: int, mesh: Mesh):
  """The pipeline that the `data` section of a config asks for.

  Args:
    source: the images.
    options: pipeline, memory_limit_mb, workers.
    batch_size: of the minibatches.
    seed: the config's.
    mesh: the devices.

  Returns:
    A `MemoryPipeline` or a `GrainPipeline`.
  """
  megabytes = source.num_images * np.prod(source.image_shape) * (
      1 if source.levels else 4) / 1e6
  fits = megabytes <= options.memory_limit_mb
  if options.pipeline == 'memory' or options.pipeline == 'auto' and fits:
    return MemoryPipeline(source, batch_size, seed, mesh)
  return GrainPipeline(source, batch_size, seed, mesh, options.workers)
