"""From the data options to the images the model learns from.

    source = load_source(config.data)
    images = scale_to_model(read_images(source, [0, 1, 2]), source.levels)

A source holds images as their stored grey levels. `scale_to_model` is the one
place where levels become the [-1, 1] of the diffusion model.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeVar

import jax
import ml_collections
import numpy as np
from numpy.typing import ArrayLike

from jdiffclust import errors
from jdiffclust.data import preprocess
from jdiffclust.data.by_name import read_labels, read_metadata
from jdiffclust.data.embeddings import matched, opened
from jdiffclust.data.rendering import Rendering, asked_for, to_levels
from jdiffclust.data.sources.arrays import raw_array
from jdiffclust.data.sources.common import (
    LazyImages, Raw, Stored, alike_classes, constant_images_error, missing_classes,
    threaded_map)
from jdiffclust.data.sources.folder import read_files
from jdiffclust.registry import SOURCES

RESIZING = ('folder', 'files', 'tfds')  # sources that read images at data.image_size
LOOKED_AT = 1000  # images of an array, for whether they are coloured
_Array = TypeVar('_Array', np.ndarray, jax.Array)


@dataclasses.dataclass(frozen=True)
class ImageSource:
  """A set of images with random access.

  Attributes:
    name: for reports, such as 'digits' or 'folder:my_images'.
    images: N images, an array [N, H, W, C] or `sources.common.LazyImages`. images[i] is
      an array [H, W, C] of uint8 levels, or of float32 in [-1, 1] if `levels` is None.
    ids: N texts: the path in the folder, or the row number.
    labels: int64 [N], -1 where unknown; None: there are no labels.
    label_names: the name of label 0, 1, ...; None: labels have no names.
    levels: number of grey levels (17 for the digits, 256 for 8 bits); None: the pixels
      are real numbers.
    skipped: unreadable files that were left out.
    rendering: how stored pixels became these.
    notes: what the user should know of how the data were read, a line each.
    resized: which images were of another size, for a person; '': none.
    finer: the same images at more pixels, for those who tell what they show; None: there
      are no more.
    metadata: what else is known of the images, N cells by the name of a column; None: an
      empty cell.
    embeddings: a vector of each image that another network has made, real numbers [N, D],
      perhaps a memory map; None: there are none.
    thumbnail: from the number of an image and a number of pixels to the whole picture as
      it was given, in its proportions, uint8 [h, w, 1 or 3] with no side above that;
      None: there is no more of it than `seen` shows.
    stored: what the images were before they became these; None: that is not known.
  """

  name: str
  images: np.ndarray | LazyImages
  ids: Sequence[str]
  labels: np.ndarray | None
  label_names: tuple[str, ...] | None
  levels: int | None
  skipped: tuple[str, ...] = ()
  rendering: Rendering = Rendering()
  notes: tuple[str, ...] = ()
  resized: str = ''
  finer: 'ImageSource | None' = None
  metadata: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
  embeddings: np.ndarray | None = None
  thumbnail: Callable[[int, int], np.ndarray] | None = None
  stored: Stored | None = None

  @property
  def seen(self) -> 'ImageSource':
    """The images at as many pixels as there are, with their embeddings."""
    if self.finer is None or self.embeddings is None:
      return self.finer or self
    return dataclasses.replace(self.finer, embeddings=self.embeddings)

  @property
  def num_images(self) -> int:
    """N."""
    return len(self.images)

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, C), after resizing and padding."""
    return tuple(self.images.shape[1:])


def load_source(data: ml_collections.ConfigDict, for_fit: bool = True,
                rendering: Rendering | None = None,
                finest: int | tuple[int, int] = 0,
                embeddings: ArrayLike | str | os.PathLike | None = None,
                later: Container[str] = ()) -> ImageSource:
  """Opens the images that the data options describe.

  Args:
    data: the `data` section of a config, with the options
      source: 'digits', 'idx', 'npz', 'folder', 'files' or 'tfds'. `registry.SOURCES`
        names the function that reads each; the function says which of path,
        labels_path, name, split, image_key and label_key it uses.
      image_size: pixels a side, or (height, width). 0 leaves the images as they are;
        they must then be of one size.
      fit: how images of other proportions are resized, see `preprocess.resized`.
      channels: 1 (colour becomes luma), 3 (grey is repeated), 0 as found.
      padding: pixels of the lowest value added on every side, after resizing.
      use_labels: whether to read labels; False: `labels` is None.
      labels, metadata: tables of classes, in the place of those that the source has, and
        of what else is known, joined by the names of files (`data.by_name`), before
        max_images.
      unreadable: 'refuse' or 'skip' the damaged files of a folder.
      max_images: the number of images to keep, 0: all. They are chosen at random, the
        same ones each time, without regard to labels or order.
      range, percentile, background: how pixels are read, see `data.rendering`.
      memory_limit_mb, pipeline: files are decoded once if all their pixels, finished,
        take no more, and if Grain is not asked to read them.
      embeddings: a file of vectors, one of each image before max_images, see
        `data.embeddings`; '': none.
    for_fit: refuse fewer than two images and images that are all the same, since
      there is nothing to cluster. False: accept them, to be assigned to fitted clusters.
    rendering: of a fit, to be kept to; None: it is found.
    finest: where image_size reduces images, they are held as `finer`, too: with no side
      above so many pixels, nor above those that they have; or of just this size; 0: not,
      nor are images with padding.
    embeddings: an array [N, D], or a file, in the place of data.embeddings; None: that.
    later: ids of images that need no embeddings, since they were added to the run.

  Returns:
    An ImageSource. A plain idx or uint8 npy file is a memory map; the images of tfds,
    and of a folder beyond the limit, are decoded at each access; others are in memory.

  Raises:
    UserError: an unknown source; the data cannot be read; the images have no pixels;
      all are float images of one single value; or, for a fit, there are fewer than two
      images or all are the same.
  """
  data = copy.deepcopy(data)
  for name in ('path', 'labels_path'):
    data[name] = os.path.expanduser(data[name])
  read = lambda *args: _with_tables(SOURCES[data.source](*args), data)
  return _read(read, data, for_fit, rendering, finest, embeddings, later)


def _with_tables(raw: Raw, data: ml_collections.ConfigDict) -> Raw:
  """The images with the labels and metadata of the tables that the options name.

  All of them, since a row that may be of several is not of the one that max_images keeps.
  """
  notes = []
  if data.labels and data.use_labels:
    labels, note = read_labels(data.labels, raw.ids)
    raw = raw._replace(labels=labels.numbers, label_names=labels.names)
    notes.append(note)
  if data.metadata:
    columns, note = read_metadata(data.metadata, raw.ids)
    raw = raw._replace(metadata=columns)
    notes.append(note)
  return raw._replace(notes=(*raw.notes, *filter(None, notes)))


def files_source(paths: Sequence[str | os.PathLike], data: ml_collections.ConfigDict,
                 for_fit: bool = True, rendering: Rendering | None = None,
                 finest: int | tuple[int, int] = 0,
                 embeddings: ArrayLike | str | os.PathLike | None = None) -> ImageSource:
  """Makes image files a source of images, in their order.

  Args:
    paths: of N files.
    data: the `data` section of a config; as `load_source` of a folder, without labels.
    for_fit, rendering, finest, embeddings: as in `load_source`.

  Returns:
    An ImageSource.

  Raises:
    UserError: as in `load_source`.
  """
  data = copy.deepcopy(data)
  data.source, data.use_labels = 'folder', False
  return _read(functools.partial(read_files, paths), data, for_fit, rendering, finest,
               embeddings)


def _read(read: Callable[..., Raw], data: ml_collections.ConfigDict, for_fit: bool,
          rendering: Rendering | None, finest: int | tuple[int, int],
          embeddings: Any, later: Container[str] = ()) -> ImageSource:
  """An ImageSource of what a reader returns, see `load_source`."""
  rendering = asked_for(rendering, data.range, data.background, data.fit)
  size, finest = preprocess.size_of(data.image_size), finest if not data.padding else 0
  if isinstance(finest, int) and data.source in RESIZING:
    # Images of their own size are not resized at all.
    finest = (preprocess.finer_size(size, finest) or 0) if size else 0
  reading = copy.deepcopy(data)
  if finest and data.source in RESIZING:  # each file is decoded once
    reading.image_size = finest
  return finished(read(reading, rendering), data, for_fit, finest, embeddings, later)


def array_source(images: ArrayLike, data: ml_collections.ConfigDict,
                 for_fit: bool = True, labels: ArrayLike | None = None,
                 rendering: Rendering | None = None,
                 finest: int | tuple[int, int] = 0,
                 embeddings: ArrayLike | str | os.PathLike | None = None) -> ImageSource:
  """Makes an array a source of images.

  Args:
    images: [N, H, W] or [N, H, W, C], channels last; see `sources.arrays.raw_array`.
    data: the `data` section of a config; of its options image_size, fit, channels,
      padding, max_images, range, percentile, background and embeddings are used, as in
      `load_source`.
    for_fit: as in `load_source`.
    labels: N numbers or texts, only ever used to score a result; None: unknown.
    rendering: of a fit, to be kept to; None: it is found.
    finest, embeddings: as in `load_source`.

  Returns:
    An ImageSource.

  Raises:
    UserError: as in `load_source`.
  """
  listed = isinstance(images, (list, tuple)) and len(images) > 0
  first = images[0] if listed else images  # type: ignore[index]
  if isinstance(first, (str, os.PathLike)):
    raise errors.UserError(
        f'{os.fspath(first)!r} is a path, where an array of images is needed: leave it '
        "out and set config.data.source = 'folder' and config.data.path; or take "
        'DiffusionClustering, or its load(workdir), which read paths')
  rendering = asked_for(rendering, data.range, data.background, data.fit)
  return finished(raw_array(images, data, rendering, labels), data, for_fit, finest,
                  embeddings)


def finished(raw: Raw, data: ml_collections.ConfigDict, for_fit: bool = True,
             finest: int | tuple[int, int] = 0,
             embeddings: ArrayLike | str | os.PathLike | None = None,
             later: Container[str] = ()) -> ImageSource:
  """Makes what a reader returned an ImageSource.

  Args:
    raw: the images as stored.
    data: the `data` section of a config; of its options image_size, fit, channels,
      padding, max_images and embeddings are used, as in `load_source`.
    for_fit, finest, embeddings, later: as in `load_source`.

  Returns:
    An ImageSource.

  Raises:
    UserError: the images have no pixels; or, for a fit, there are fewer than two or all
      are the same; or the embeddings are not those of the images.
  """
  if for_fit and len(raw.images) < 2:
    raise errors.UserError(
        f'{raw.name} has {len(raw.images)} image(s); at least 2 are needed to cluster; '
        'check --config.data.path and --config.data.split')
  if 0 in raw.images.shape[1:]:
    raise errors.UserError(
        f'{raw.name} has images of height x width x channels {raw.images.shape[1:]}; '
        'each must be at least 1; write the file again')
  data = copy.deepcopy(data)
  data.fit, ground = raw.rendering.fit, raw.rendering.ground  # known by now
  keep = _kept(len(raw.images), data.max_images)
  notes, size = raw.notes, preprocess.size_of(data.image_size)
  vectors, told = _vectors(raw, data, for_fit, embeddings, later)
  classes = raw.label_names or ()
  notes = (*notes, *told, *alike_classes(classes), *missing_classes(classes))
  if vectors is not None and len(keep) < len(vectors):
    vectors = vectors[keep]
  stored, resized = tuple(raw.images.shape[1:3]), raw.resized
  ready = size in (None, stored) or (  # or the reader has resized them
      data.source in RESIZING and stored == finest)
  base, base_keep, base_levels = raw.images, keep, raw.levels
  larger = _finer_size_of(size, stored, finest) if not data.padding else None
  finer = None
  if larger:
    fine = copy.deepcopy(data)
    fine.image_size = larger
    pixels, fine_levels = _finished(raw.images, keep, fine, raw.levels, ground)
    finer = ImageSource(
        name=raw.name, images=_in_memory(pixels, data), ids=tuple(
            raw.ids[i] for i in keep), labels=None, label_names=None, levels=fine_levels,
        rendering=raw.rendering)
    if larger == stored:
      base, base_keep, base_levels = finer.images, np.arange(len(keep)), fine_levels
  images, levels = _finished(base, base_keep, data, base_levels, ground)
  if not ready:
    resized = f'all images ({stored[0]}x{stored[1]})'
  if not for_fit and not ready and size is not None:
    notes = (*notes, f'{raw.name}: images of {stored[0]}x{stored[1]} are resized to '
             f'{size[0]}x{size[1]}, those of the fit (data.fit={data.fit})')
  if not for_fit and ready and size is not None:
    notes += _cropped_note(raw, keep, size, data.fit)
    notes += _enlarged_note(raw, keep, size)
  if not for_fit and data.channels == 1:
    notes += _coloured_note(raw)
  source = ImageSource(
      name=raw.name, images=_in_memory(images, data),
      ids=tuple(raw.ids[i] for i in keep),
      labels=None if raw.labels is None else raw.labels[keep],
      label_names=raw.label_names, levels=levels, skipped=raw.skipped,
      rendering=raw.rendering, notes=notes, resized=resized, finer=finer,
      metadata={name: [cells[i] for i in keep] for name, cells in raw.metadata.items()},
      embeddings=vectors, stored=raw.stored and raw.stored.take(keep),
      thumbnail=_thumbnail_of(raw, keep, data))
  if for_fit:
    _check_images_differ(source)
  return source


def _cropped_note(raw: Raw, keep: np.ndarray, size: tuple[int, int],
                  fit: str) -> tuple[str, ...]:
  """Tells of new files that lose a part of themselves at the size of the fit's."""
  if fit != 'crop' or raw.stored is None:
    return ()
  lost = preprocess.cropped(raw.stored.sizes[keep].astype(np.float64), size)
  rows = np.flatnonzero(lost > preprocess.CROPPED)
  if not len(rows):
    return ()
  height, width = raw.stored.sizes[keep[rows[0]]]
  return (f'{raw.name}: {len(rows):,} of {len(keep):,} pictures are cropped to the shape '
          f'of those of the fit, {size[0]}x{size[1]}, by more than '
          f'{preprocess.CROPPED:.0%} ({raw.ids[keep[rows[0]]]}, {height}x{width}: by '
          f'{lost[rows[0]]:.0%}; config.data.fit = {fit!r})',)


def _enlarged_note(raw: Raw, keep: np.ndarray, size: tuple[int, int]) -> tuple[str, ...]:
  """Tells of new files that are far smaller than those of the fit."""
  if raw.stored is None:
    return ()
  sizes = raw.stored.sizes[keep]
  rows = np.flatnonzero((preprocess.ENLARGED * sizes < size).any(axis=1))
  if not len(rows):
    return ()
  height, width = sizes[rows[0]]
  return (f'{raw.name}: {len(rows):,} of {len(keep):,} pictures are enlarged to the size '
          f'of those of the fit, {size[0]}x{size[1]}, more than {preprocess.ENLARGED} '
          f'times ({raw.ids[keep[rows[0]]]}, {height}x{width}): they have no more detail '
          'than before, and look blurred beside others',)


def _coloured_note(raw: Raw) -> tuple[str, ...]:
  """Tells of new arrays in colour of which a fit to grey images sees the brightness."""
  some = raw.images[:LOOKED_AT] if isinstance(raw.images, np.ndarray) else None
  if some is None or some.shape[3] < 3 or (some[..., 1:] == some[..., :1]).all():
    return ()  # readers of files tell of theirs
  return (f'{raw.name}: the images are coloured, but the fit was to grey images: their '
          'brightness alone is seen',)


def _thumbnail_of(raw: Raw, keep: np.ndarray, data: ml_collections.ConfigDict):
  """`ImageSource.thumbnail` of what a reader returned.

  An array that is larger than the memory allowed is not held for this alone.
  """
  if raw.thumbnail is not None:
    return functools.partial(chosen_thumbnail, raw.thumbnail, keep)
  images = raw.images
  if not isinstance(images, np.ndarray) or (
      not isinstance(images, np.memmap) and images.nbytes > data.memory_limit_mb * 1e6):
    return None
  return functools.partial(
      chosen_thumbnail, functools.partial(_array_thumbnail, images, raw.levels), keep)


def chosen_thumbnail(thumbnail: Callable[[int, int], np.ndarray], rows: np.ndarray,
                     row: int, side: int) -> np.ndarray:
  """`ImageSource.thumbnail` of some images, int [n], of those of another function."""
  return thumbnail(int(rows[row]), side)


def _array_thumbnail(images: np.ndarray, levels: int | None, row: int,
                     side: int) -> np.ndarray:
  """An image of an array as 8 bits, small."""
  image = np.asarray(images[row])
  if levels is None:
    image = to_levels(image, -1, 1)
  elif levels != 256:
    image = to_levels(image, 0, levels - 1)
  return preprocess.resized(
      image, preprocess.small_size(image.shape[:2], side), 'squash', 0, 255)


def _vectors(raw: Raw, data: ml_collections.ConfigDict, for_fit: bool, given: Any,
             later: Container[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
  """The embeddings of all images of a reader, [N, D] or None, and notes."""
  if given is None and not data.embeddings:
    return None, ()
  if given is not None and data.embeddings:
    raise errors.UserError(
        f'embeddings are given, and config.data.embeddings = {data.embeddings!r}, too: '
        'give one of them.')
  found = opened(data.embeddings if given is None else given)
  own = np.array([row for row, name in enumerate(raw.ids) if name not in later], int)
  every = len(raw.ids)
  if len(own) == every or found.names is None and len(found.values) == every:
    return matched(found, raw.ids, for_fit)
  vectors, notes = matched(found, [raw.ids[row] for row in own], for_fit)
  spread = np.zeros((every, vectors.shape[1]), vectors.dtype)
  spread[own] = vectors
  return spread, notes


def embeddings_at(source: ImageSource,
                  indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
  """The embeddings of images, float32 [n, D]; None: there are none.

  Args:
    source: an ImageSource.
    indices: n integers in 0..N - 1, in any order.
  """
  if source.embeddings is None:
    return None
  return np.asarray(source.embeddings[np.asarray(indices, np.int64)], np.float32)


def _finer_size_of(size: tuple[int, int] | None, stored: tuple[int, int],
                   finest: int | tuple[int, int]) -> tuple[int, int] | None:
  """The size of `ImageSource.finer`, as `load_source` describes it; None: it is none."""
  if not (size and finest):
    return None
  if isinstance(finest, tuple):
    return finest
  longest = max(size)
  wanted: Any = tuple(finest * side / longest for side in size)  # not yet whole
  return preprocess.within(wanted, stored, size)


def scale_to_model(images: _Array, levels: int | None) -> _Array:
  """Maps grey levels 0..levels - 1 to [-1, 1]; leaves real-valued images alone.

  Args:
    images: NumPy or JAX array of any shape.
    levels: number of grey levels; None: the images are real-valued.

  Returns:
    float32 of the same shape and kind of array.
  """
  images = images.astype(np.float32)
  return images if levels is None else images / (levels - 1) * 2 - 1


def snap_to_levels(images: ArrayLike, levels: int | None) -> np.ndarray:
  """Rounds generated images to the values that an image file could hold.

  Args:
    images: numbers of any shape; those outside [-1, 1] are clipped.
    levels: number of grey levels; None: any number in [-1, 1] is allowed.

  Returns:
    float32 of the same shape, in [-1, 1], on the levels if there are any.
  """
  images = np.clip(np.asarray(images, np.float32), -1, 1)
  if levels is None:
    return images
  return scale_to_model(np.round((images + 1) / 2 * (levels - 1)), levels)


def read_images(source: ImageSource, indices: Sequence[int] | np.ndarray) -> np.ndarray:
  """Reads images into memory, decoding in threads where they are files.

  Args:
    source: an ImageSource.
    indices: n integers in 0..N - 1, in any order.

  Returns:
    [n, H, W, C], uint8 levels or float32 in [-1, 1] as the source has them.

  Raises:
    UserError: a file was removed or damaged since the source was loaded.
  """
  if isinstance(source.images, np.ndarray):
    return np.asarray(source.images[np.asarray(indices, np.int64)])
  return _read_lazy(source.images, list(indices))


def _read_lazy(lazy: LazyImages, indices: Sequence[int]) -> np.ndarray:
  """Reads images in threads, [n, H, W, C]."""
  images = np.empty((len(indices), *lazy.shape[1:]), lazy.dtype)

  def read(row: int) -> None:
    images[row] = lazy[indices[row]]

  threaded_map(read, range(len(indices)))
  return images


def images_at(source: ImageSource, indices: Sequence[int] | np.ndarray) -> np.ndarray:
  """Reads images as the model sees them.

  Args:
    source: an ImageSource.
    indices: n integers in 0..N - 1, in any order.

  Returns:
    float32 [n, H, W, C] in [-1, 1].

  Raises:
    UserError: as in `read_images`.
  """
  return np.asarray(scale_to_model(read_images(source, indices), source.levels))


def _kept(num_images: int, max_images: int) -> np.ndarray:
  """Returns the indices of the images to keep, int64, ascending.

  Files and arrays are often ordered by class: the first ones would be of one class, and
  evenly spaced ones would have the classes' proportions, which nobody has told us.
  """
  if not max_images or max_images >= num_images:
    return np.arange(num_images)
  return np.sort(np.random.default_rng(0).choice(num_images, max_images, replace=False))


def _finished(images: np.ndarray | LazyImages, keep: np.ndarray,
              data: ml_collections.ConfigDict, levels: int | None,
              ground: Sequence[float] | None,
              ) -> tuple[np.ndarray | LazyImages, int | None]:
  """Returns the kept images with the model's size, channels and padding, and levels.

  Few levels become 256 where images are resized: a thin line of a mask shall get fainter,
  not vanish.
  """
  stored, channels = images.shape[1:3], data.channels or images.shape[3]
  size = preprocess.size_of(data.image_size)
  few = levels if levels and levels < 256 and size not in (None, stored) else None
  levels = 256 if few else levels
  finish = functools.partial(
      preprocess.finish, size=size, fit=data.fit, channels=channels,
      padding=data.padding, levels=levels, few=few, ground=ground)
  shape = (len(keep), *(side + 2 * data.padding for side in size or stored), channels)
  if isinstance(images, np.ndarray):
    if len(keep) < len(images):
      images = images[keep]
    if shape == images.shape:
      return images, levels
    if not isinstance(images, np.memmap):
      done = [finish(image) for image in images]
      return np.stack(done) if done else np.empty(shape, images.dtype), levels
    images = LazyImages(range(len(keep)), images.__getitem__, shape, images.dtype)
  else:
    images = images.take(keep)
  return dataclasses.replace(
      images, read=functools.partial(_read_finished, images.read, finish),
      shape=shape), levels


def _in_memory(images: np.ndarray | LazyImages,
               data: ml_collections.ConfigDict) -> np.ndarray | LazyImages:
  """Decodes files once and for all, if their pixels fit into the memory allowed."""
  size = np.prod(images.shape) * np.dtype(images.dtype).itemsize
  if isinstance(images, np.ndarray) or data.pipeline == 'grain' or (
      size > data.memory_limit_mb * 1e6):
    return images
  return _read_lazy(images, range(len(images)))


def _read_finished(read: Callable[[Any], np.ndarray],
                   finish: Callable[[np.ndarray], np.ndarray], key: Any) -> np.ndarray:
  """Reads one image and finishes it (a module function, so that it pickles)."""
  return finish(read(key))


def _check_images_differ(source: ImageSource) -> None:
  """Raises UserError if all images are the same; stops at the first difference."""
  first = source.images[0]
  if any(not np.array_equal(source.images[i], first)
         for i in range(1, source.num_images)):
    return
  if first.min() == first.max():
    raise constant_images_error(first.min())
  raise errors.UserError(
      f'all {source.num_images} images of {source.name} are the same: nothing to '
      'cluster; images that differ are needed; check --config.data.path')
