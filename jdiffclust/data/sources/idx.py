"""IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import os
import pathlib
import re
import zlib
from typing import Any, BinaryIO

import ml_collections
import numpy as np

from jdiffclust import errors
from jdiffclust.data.rendering import Rendering
from jdiffclust.data.sources.arrays import raw_array
from jdiffclust.data.sources.common import (
    Labels, Raw, cannot_read, checked_labels, existing_file, with_channels)

_IDX_TYPES = {0x08: 'u1', 0x09: 'i1', 0x0B: '>i2', 0x0C: '>i4', 0x0D: '>f4',
              0x0E: '>f8'}


def read_idx(path: str | os.PathLike) -> np.ndarray:
  """Reads one array of the IDX format (MNIST's), gzipped or not.

  Args:
    path: the file. Its first bytes, not its name, tell whether it is gzipped.

  Returns:
    The array, of the type and shape that its header names. It is a read-only memory map
    if the file is not gzipped.

  Raises:
    UserError: the file does not exist, cannot be read, is not IDX, is truncated, or is
      longer than its header says.
  """
  path = existing_file(path)
  try:
    with open(path, 'rb') as file:
      gzipped = file.read(2) == b'\x1f\x8b'
    opened: Any = gzip.open if gzipped else open
    with opened(path, 'rb') as file:
      dtype, shape, start = _idx_header(file, path)
      expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
      if gzipped:
        pixels = file.read(expected + 1)  # one more shows that there is too much
        found = len(pixels)
      else:
        found = os.path.getsize(path) - start
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise errors.UserError(
        f'{path} is a damaged or truncated gzip file ({error}); fetch it again'
    ) from error
  except (MemoryError, OverflowError) as error:
    raise errors.UserError(
        f'{path} is damaged, or too large to be unpacked in memory: its header announces '
        f'{expected} bytes; fetch it again, or unpack it with gunzip') from error
  except OSError as error:
    raise cannot_read(path, error) from error
  if found != expected:
    what = 'truncated' if found < expected else 'longer than its header says'
    raise errors.UserError(
        f'{path} is {what}: its header announces {expected} bytes for the shape '
        f'{shape}, {"at least " * (gzipped and found > expected)}{found} follow; '
        'fetch or write the file again')
  if gzipped or not expected:
    return np.frombuffer(pixels if gzipped else b'', dtype).reshape(shape)
  return np.memmap(path, dtype, 'r', start, shape)


def _idx_header(file: BinaryIO,
                path: str | os.PathLike) -> tuple[np.dtype, tuple[int, ...], int]:
  """Returns (dtype, shape, bytes of header) of an IDX file open at its start."""
  magic = file.read(4)
  if len(magic) < 4 or magic[:2] != b'\0\0' or magic[2] not in _IDX_TYPES:
    raise errors.UserError(
        f'{path} is not an IDX file: it starts with the bytes {magic.hex(" ")!r}, '
        'where 00 00, a type (08 for images) and the number of axes belong; give '
        'the *-idx3-ubyte file, or set --config.data.source')
  axes = file.read(4 * magic[3])
  if len(axes) < 4 * magic[3] or not axes:
    raise errors.UserError(
        f'{path} is truncated: {len(axes)} of the {4 * magic[3]} bytes of its shape '
        'are there; fetch or write the file again')
  shape = tuple(int(n) for n in np.frombuffer(axes, '>u4'))
  return np.dtype(_IDX_TYPES[magic[2]]), shape, 4 + len(axes)


def read_idx_images(path: str | os.PathLike) -> np.ndarray:
  """Reads an IDX file of images.

  Args:
    path: an idx3 (grey) or idx4 (channels last) file of unsigned bytes.

  Returns:
    uint8 [N, H, W, C], C 1, 3 or 4.

  Raises:
    UserError: as in `read_idx`, or the array is not one of images.
  """
  images = read_idx(path)
  if images.dtype != np.uint8 or images.ndim not in (3, 4):
    raise errors.UserError(
        f'{path} holds {images.dtype} of shape {images.shape}, not images: unsigned '
        'bytes [N, H, W] (idx3) or [N, H, W, C] (idx4) are needed; give the '
        'images file (a labels file goes to --config.data.labels_path)')
  # The format has images first: an axis of channels says that there is no doubt.
  return with_channels(images if images.ndim == 4 else images[..., None], path)


def read_idx_labels(path: str | os.PathLike, num_images: int) -> Labels:
  """Reads an IDX file of labels.

  Args:
    path: an idx1 file of whole numbers.
    num_images: N, the number of labels that there must be.

  Returns:
    `Labels` of N images.

  Raises:
    UserError: as in `read_idx`, or there is not one whole number for each image.
  """
  return checked_labels(read_idx(path), num_images, path)


def read_idx_source(data: ml_collections.ConfigDict,
                    rendering: Rendering | None = None) -> Raw:
  """Reads the images of `data.path`, and labels from files beside them.

  A folder stands for all image files in it, one after the other: see `image_files`.

  The labels file is `data.labels_path`. If that is empty, it is the file in the same
  folder whose name has 'labels' in place of 'images' and 'idx1' in place of 'idx3' or
  'idx4', with or without '.gz'. If there is none, the images have no labels.

  Args:
    data: the `data` section of a config; the options path, labels_path and use_labels
      are used, and those of `arrays.raw_array`.
    rendering: of a fit; None: it is found.

  Returns:
    A Raw. The images are a memory map unless they are of several files, or the file is
    gzipped or has an alpha channel.

  Raises:
    UserError: as in `read_idx_images` and `read_idx_labels`; a folder has no image
      files, or those in it differ in their shape.
  """
  paths: list[Any] = (image_files(data.path) if os.path.isdir(data.path)
                      else [data.path])
  parts = [read_idx_images(path) for path in paths]
  for path, part in zip(paths, parts):
    if part.shape[1:] != parts[0].shape[1:]:
      raise errors.UserError(
          f'{paths[0]} has images of height x width x channels {parts[0].shape[1:]}, '
          f'{path} of {part.shape[1:]}: those of a folder must be of one shape; give one '
          'of the files as --config.data.path')
  images = parts[0] if len(parts) == 1 else np.concatenate(parts)
  name = pathlib.Path(os.path.abspath(data.path) if len(parts) > 1 else paths[0]).name
  raw = raw_array(images, data, rendering, where=data.path, name=f'idx:{name}')
  if os.path.isdir(data.path):
    read = [f'{len(part):,} of {path.name}' for path, part in zip(paths, parts)]
    raw = raw._replace(notes=(*raw.notes, f"{data.path}: {', then '.join(read)}"))
  if data.use_labels:
    labels = _labels(data, paths, [len(part) for part in parts])
    if labels is not None:
      raw = raw._replace(labels=labels.numbers, label_names=labels.names)
  return raw


def image_files(folder: str | os.PathLike) -> list[pathlib.Path]:
  """The IDX files of images in a folder, not in its sub-folders.

  Args:
    folder: it is told by their first bytes which files are IDX files of images.

  Returns:
    Their paths: those with 'train' in their names first, then in the order of the names.
    Of a file and its gzipped copy beside it, the former alone.

  Raises:
    UserError: there is none, or a file cannot be read.
  """
  found = sorted((path for path in pathlib.Path(folder).iterdir() if _of_images(path)),
                 key=lambda path: ('train' not in path.name, path.name))
  if not found:
    raise errors.UserError(
        f'{str(folder)!r} is a folder without IDX files of images (such as '
        'train-images-idx3-ubyte.gz); check --config.data.path, or set '
        '--config.data.source=folder for pictures')
  return [path for path in found if path.suffix != '.gz'
          or path.with_suffix('') not in found]


def _of_images(path: pathlib.Path) -> bool:
  """Whether a file begins as an IDX file of unsigned bytes with three or four axes."""
  if not path.is_file():
    return False
  try:
    with open(path, 'rb') as file:
      head = file.read(4)
    if head[:2] == b'\x1f\x8b':
      with gzip.open(path, 'rb') as file:
        head = file.read(4)
  except (EOFError, zlib.error, gzip.BadGzipFile):
    return False
  except OSError as error:
    raise cannot_read(path, error) from error
  return head in (b'\0\0\x08\x03', b'\0\0\x08\x04')


def _labels(data: ml_collections.ConfigDict, paths: list[str | os.PathLike],
            counts: list[int]) -> Labels | None:
  """`Labels` of the images of some files, None if there are none.

  Images of a file without labels, where others have them, are of unknown class.
  """
  if data.labels_path:
    return read_idx_labels(data.labels_path, sum(counts))
  beside = [_idx_labels_path(path) for path in paths]
  if not any(beside):
    return None
  numbers, unknown = [], []
  for path, count in zip(beside, counts):
    own = np.zeros(count, np.uint8) if path is None else read_idx(path)
    checked_labels(own, count, path)
    numbers.append(own)
    unknown.append(np.full(count, path is None))
  return checked_labels(np.concatenate(numbers), sum(counts), data.path,
                        np.concatenate(unknown))


def _idx_labels_path(images_path: str | os.PathLike) -> pathlib.Path | None:
  """Returns the labels file that belongs to an images file, None if there is none."""
  path = pathlib.Path(images_path)
  name = re.sub('idx[34]', 'idx1', path.name.replace('images', 'labels'))
  if name == path.name:  # the images' own, or its copy
    return None
  stem = name.removesuffix('.gz')
  for candidate in (name, stem, f'{stem}.gz'):
    if candidate != path.name and os.path.isfile(path.with_name(candidate)):
      return path.with_name(candidate)
  return None
