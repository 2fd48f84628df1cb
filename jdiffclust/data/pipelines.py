"""From a source of images to batches on the devices.

`MemoryPipeline` keeps all images on the devices: minibatches are picked there, and the
training loop moves nothing. `GrainPipeline` reads them as they are needed, ahead of
the loop, by Grain. Both give the same minibatches, and provide

  training(step)                minibatches from gradient step `step` on, endlessly
  ordered(indices, batch_size)  the images of some indices once, in that order, as
                                (Batch, number of valid rows). All batches have one shape,
                                no larger than asked for but for the multiple of the
                                device count; the last repeats its last image.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

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


def epoch_order(key, epoch, num_images: int, batch_size: int) -> jax.Array:
  """The images of an epoch's minibatches, one after the other.

  Images that do not fill a last minibatch are left out; every epoch leaves out others.

  Args:
    key: a typed key.
    epoch: 0, 1, ...
    num_images: N.
    batch_size: B; where it exceeds N, images come again.

  Returns:
    int32 [steps B] of 0..N - 1, in an order that is random anew in every epoch.
  """
  order = jax.random.permutation(jax.random.fold_in(key, epoch), num_images)
  return jnp.resize(order, (steps_per_epoch(num_images, batch_size) * batch_size,))


def _take(images, indices, levels):
  return Batch(scale_to_model(images[indices], levels), indices)


# What pipelines do is compiled once for all of a kind: new images come few at a time,
# often, and searches fit many times.


@functools.lru_cache(16)
def _taking(levels, sharding):
  return jax.jit(functools.partial(_take, levels=levels), out_shardings=sharding)


@functools.lru_cache(16)
def _ordering(num_images, batch_size, sharding):
  return jax.jit(functools.partial(epoch_order, num_images=num_images,
                                   batch_size=batch_size), out_shardings=sharding)


@functools.lru_cache(16)
def _picking(num_images, batch_size, levels, sharding):
  @functools.partial(jax.jit, out_shardings=sharding)
  def minibatch(images, order, step):
    position = step % steps_per_epoch(num_images, batch_size) * batch_size
    indices = jax.lax.dynamic_slice_in_dim(order, position, batch_size)
    return _take(images, indices, levels)

  return minibatch


class MemoryPipeline:
  """All images in the memory of every device."""

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
    split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    whole = NamedSharding(mesh, PartitionSpec())
    self._epoch_order = _ordering(source.num_images, batch_size, whole)
    self._minibatch = _picking(source.num_images, batch_size, source.levels, split)
    self._take = _taking(source.levels, split)

  def training(self, step: int) -> Iterator[Batch]:
    """Minibatches from step `step` on, see `epoch_order`."""
    on_device = replicate(np.int32(step), self._mesh)
    order = None
    while True:
      epoch, position = divmod(step, self._steps_per_epoch)
      if order is None or position == 0:
        order = self._epoch_order(self._key, replicate(np.int32(epoch), self._mesh))
      yield self._minibatch(self._images, order, on_device)
      step, on_device = step + 1, _increment(on_device)

  def ordered(self, indices, batch_size: int) -> Iterator[tuple[Batch, int]]:
    """The images of some indices once, in their order."""
    for indices, valid in ordered_indices(indices, batch_size, self._mesh.size):
      rows = replicate(indices.astype(np.int32), self._mesh)
      yield self._take(self._images, rows), valid


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
    order = jax.jit(functools.partial(
        epoch_order, stream(seed, 'minibatches'), num_images=source.num_images,
        batch_size=batch_size))
    # Of few epochs: reading runs ahead of the loop, into the next one.
    self._order = functools.lru_cache(4)(lambda epoch: np.asarray(order(np.int32(epoch))))
    split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    self._scale = jax.jit(
        lambda images, indices: Batch(scale_to_model(images, source.levels), indices),
        out_shardings=split)

  def _reading(self, index_batches):
    def read(indices):
      mine = np.asarray(indices)[local_rows(len(indices))]
      return read_images(self._source, mine), mine.astype(np.int32)
    return index_batches.map(read).to_iter_dataset(self._read_options)

  def _to_devices(self, images, indices):
    return self._scale(*split_rows((images, indices), self._mesh))

  def _minibatch(self, step):
    """The images of gradient step `step`, int32 [B]."""
    epoch, position = divmod(step, steps_per_epoch(self.num_images, self._batch_size))
    return self._order(epoch)[position * self._batch_size:][:self._batch_size]

  def training(self, step: int) -> Iterator[Batch]:
    """Minibatches from step `step` on, see `epoch_order`."""
    steps = grain.MapDataset.range(int(step), ENDLESS)
    for images, indices in self._reading(steps.map(self._minibatch)):
      yield self._to_devices(images, indices)

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
