"""From the data options to the images the model learns from.

    source = load_source(config.data)
    images = scale_to_model(read_images(source, [0, 1, 2]), source.levels)

A source holds images as their stored grey levels; `scale_to_model` is the one
place where levels become the [-1, 1] of the diffusion model.
"""

import dataclasses
import functools
from typing import Sequence

import numpy as np

from jdiffclust import errors
from jdiffclust.data import preprocess
from jdiffclust.data import sources


@dataclasses.dataclass(frozen=True)
class ImageSource:
  """A set of images with random access.

  Attributes:
    name: for reports, such as 'digits' or 'folder:my_images'.
    images: N images; [i] is an array [H, W, C] of uint8 levels, or of float32 in
      [-1, 1] if `levels` is None. An array [N, H, W, C], or `sources.LazyImages`.
    ids: N texts: the path in the folder, or the row number.
    labels: int64 [N], or None.
    label_names: the name of label 0, 1, ..., or None.
    levels: number of grey levels (17 for the digits, 256 for 8 bits), or None.
    skipped: unreadable files that were left out.
  """
  name: str
  images: Sequence
  ids: Sequence[str]
  labels: np.ndarray | None
  label_names: tuple[str, ...] | None
  levels: int | None
  skipped: tuple[str, ...] = ()

  @property
  def num_images(self):
    """N."""
    return len(self.images)

  @property
  def image_shape(self):
    """(H, W, C), after resizing and padding."""
    return tuple(self.images.shape[1:])


def load_source(data, for_fit=True):
  """Opens the images that the data options describe.

  Args:
    data: options by attribute.
      source: 'digits', 'idx', 'npz', 'folder' or 'tfds'; `sources.READERS` says what
        each reads, and which of path, labels_path, name, split, image_key and
        label_key it uses.
      image_size: pixels; the shorter side is scaled to this and the middle square
        kept. 0 leaves the images as they are, which must then be of one size.
      channels: 1 (colour becomes luma), 3 (grey is repeated), 0 as found.
      padding: pixels of the lowest value added on every side, after resizing.
      use_labels: whether to read labels; without, `labels` is None.
      unreadable: 'refuse' or 'skip' the damaged files of a folder.
      max_images: 0 for all, or how many to keep, without regard to labels: evenly
        spaced ones of a folder (its order goes class by class), else the first.
    for_fit: refuse a single image, or images that are all the same: nothing to
      cluster. False: they may still be assigned to fitted clusters.

  Returns:
    an ImageSource. Digits, npz and gzipped idx are held in memory; a plain idx or
    uint8 npy file is a memory map; a folder and tfds are decoded at each access.

  Raises:
    UserError: the data cannot be read, there is just one image, or all images are
      the same.
  """
  raw = sources.READERS[data.source](data)
  if for_fit and len(raw.images) < 2:
    raise errors.UserError(
        f'{raw.name} has {len(raw.images)} image(s); at least 2 are needed to cluster; '
        'check --config.data.path and --config.data.split')
  if 0 in raw.images.shape[1:]:
    raise errors.UserError(
        f'{raw.name} has images of height x width x channels {raw.images.shape[1:]}; '
        'each must be at least 1; write the file again')
  keep = _kept(len(raw.images), data.max_images, spread=raw.grouped)
  source = ImageSource(
      name=raw.name,
      images=_finished(raw.images, keep, data, raw.levels),
      ids=tuple(raw.ids[i] for i in keep),
      labels=None if raw.labels is None else raw.labels[keep],
      label_names=raw.label_names, levels=raw.levels, skipped=raw.skipped)
  if for_fit:
    _check_images_differ(source)
  return source


def scale_to_model(images, levels):
  """Maps grey levels 0..levels-1 to [-1, 1]; leaves real-valued images alone.

  Args:
    images: NumPy or JAX array of any shape.
    levels: number of grey levels, or None.

  Returns:
    float32 of the same shape and kind of array.
  """
  images = images.astype(np.float32)
  return images if levels is None else images / (levels - 1) * 2 - 1


def snap_to_levels(images, levels):
  """Brings generated images to what a file could hold.

  Args:
    images: NumPy array of any shape.
    levels: number of grey levels, or None.

  Returns:
    float32 of the same shape, in [-1, 1], on the levels if there are any.
  """
  images = np.clip(np.asarray(images, np.float32), -1, 1)
  if levels is None:
    return images
  return scale_to_model(np.round((images + 1) / 2 * (levels - 1)), levels)


def read_images(source, indices):
  """Reads images into memory, decoding in threads where they are files.

  Args:
    source: an ImageSource.
    indices: n integers in 0..N-1, in any order.

  Returns:
    [n, H, W, C], uint8 levels or float32 in [-1, 1] as the source has them.

  Raises:
    UserError: a file was removed or damaged since the source was loaded.
  """
  if isinstance(source.images, np.ndarray):
    return np.asarray(source.images[np.asarray(indices, np.int64)])
  indices = list(indices)
  images = np.empty((len(indices), *source.image_shape), source.images.dtype)

  def read(row):
    images[row] = source.images[indices[row]]

  sources.threaded_map(read, range(len(indices)))
  return images


def _kept(num_images, max_images, spread):
  """Returns the indices of the images to keep, int64, ascending."""
  if not max_images or max_images >= num_images:
    return np.arange(num_images)
  if not spread:
    return np.arange(max_images)
  return np.arange(max_images) * num_images // max_images


def _finished(images, keep, data, levels):
  """Returns the kept images with the model's size, channels and padding."""
  height, width, channels = images.shape[1:]
  channels = data.channels or channels
  finish = functools.partial(
      preprocess.finish, size=data.image_size, channels=channels,
      padding=data.padding, levels=levels)
  shape = (len(keep), (data.image_size or height) + 2 * data.padding,
           (data.image_size or width) + 2 * data.padding, channels)
  if isinstance(images, np.ndarray):
    images = images[:len(keep)]  # arrays keep their first: a view, not a copy
    if shape == images.shape:
      return images
    if not isinstance(images, np.memmap):
      return np.stack([finish(image) for image in images])
    images = sources.LazyImages(range(len(keep)), images.__getitem__, shape,
                                images.dtype)
  else:
    images = images.take(keep)
  return dataclasses.replace(
      images, read=functools.partial(_read_finished, images.read, finish),
      shape=shape)


def _read_finished(read, finish, key):
  """Reads one image and finishes it (a module function, so that it pickles)."""
  return finish(read(key))


def _check_images_differ(source):
  """Raises UserError if all images are the same; stops at the first difference."""
  first = source.images[0]
  if any(not np.array_equal(source.images[i], first)
         for i in range(1, source.num_images)):
    return
  if first.min() == first.max():
    raise sources.constant_images_error(first.min())
  raise errors.UserError(
      f'all {source.num_images} images of {source.name} are the same: nothing to '
      'cluster; images that differ are needed; check --config.data.path')
