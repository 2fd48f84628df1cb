"""A folder of image files."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np
from PIL import Image

from jdiffclust import errors
from jdiffclust.data import preprocess
from jdiffclust.data.sources.common import (
    Header, LazyImages, Raw, cannot_read, common_size, decode, one_line, threaded_map)


def read_folder(data: ml_collections.ConfigDict) -> Raw:
  """Reads the image files of a folder and its sub-folders, decoded when asked for.

  Files are those with an extension that Pillow reads, ordered by their path; hidden ones
  are left out. All are decoded once now, so that damaged ones are known.
  `preprocess.pixels_of` says how. The label of a file is the sub-folder of `data.path`
  that it lies under, at any depth; files outside of the sub-folders have the label -1.
  If there are fewer than two sub-folders, there are no labels.

  Args:
    data: the `data` section of a config; the options path, image_size, channels,
      use_labels and unreadable are used.

  Returns:
    A Raw of `LazyImages`, 256 levels. Unless `channels` says otherwise, the images are
    grey if every file is, else in colour.

  Raises:
    UserError: the folder does not exist or has no image; a file is unreadable and
      `unreadable` is 'refuse', or all are; or sizes differ while `image_size` is 0.
  """
  root = pathlib.Path(data.path)
  if not data.path or not root.is_dir():
    raise errors.UserError(
        f'--config.data.path={data.path!r} is not a folder; a folder of image files '
        'is needed; set it to an existing one')
  names = _image_names(root)
  headers = threaded_map(functools.partial(_verify, root), names)
  bad = [(n, h) for n, h in zip(names, headers) if not isinstance(h, Header)]
  if bad and (data.unreadable == 'refuse' or len(bad) == len(names)):
    what = ('use --config.data.unreadable=skip to leave them out, or remove them'
            if len(bad) < len(names) else 'give a folder with readable images')
    shown = ', '.join(f'{name} ({reason})' for name, reason in bad[:3])
    more = ', ...' * (len(bad) > 3)
    raise errors.UserError(
        f'{len(bad)} of {len(names)} image files in {root} cannot be read: '
        f'{shown}{more}; {what}')
  good = [(n, h) for n, h in zip(names, headers) if isinstance(h, Header)]
  names, headers = [n for n, _ in good], [h for _, h in good]
  height, width = common_size(names, headers, data.image_size, root)
  channels = data.channels or (1 if all(h.grey for h in headers) else 3)
  images = LazyImages(
      names, functools.partial(_decode_file, root, data.image_size),
      (len(names), height, width, channels), np.dtype(np.uint8))
  labels, label_names = _folder_labels(names) if data.use_labels else (None, None)
  # A name that is not UTF-8 must not break the writing of the results.
  ids = [name.encode('utf-8', 'backslashreplace').decode() for name in names]
  return Raw(images, ids, labels, label_names, 256, f'folder:{root.resolve().name}',
             tuple(name for name, _ in bad), grouped=True)


def _image_names(root: pathlib.Path) -> list[str]:
  """Returns the sorted image paths under a folder, relative to it, '/' between."""
  try:
    names = sorted(_walk(root))
  except OSError as error:
    raise cannot_read(root, error) from error
  readable = {extension for extension, form in Image.registered_extensions().items()
              if form in Image.OPEN}
  extensions = [pathlib.PurePosixPath(name).suffix.lower() for name in names]
  found = [n for n, extension in zip(names, extensions) if extension in readable]
  if not found:
    counts = ', '.join(f'{extensions.count(e)} {e or "without extension"}'
                       for e in sorted(set(extensions))) or 'none at all'
    raise errors.UserError(
        f'no image file in {root} (files seen: {counts}); .png, .jpg and the other '
        'types Pillow reads are allowed; set --config.data.path to where they are')
  return found


def _walk(folder: str | os.PathLike, prefix: str = '',
          above: tuple[str, ...] = ()) -> Iterator[str]:
  """Yields the paths of the files that are not hidden, following linked folders."""
  real = os.path.realpath(folder)
  if real in above:  # a link back to a folder we are in
    return
  for entry in os.scandir(folder):
    if entry.name.startswith('.'):
      continue
    if entry.is_dir():
      yield from _walk(entry.path, f'{prefix}{entry.name}/', (*above, real))
    else:
      yield prefix + entry.name


def _verify(root: pathlib.Path, name: str) -> Header | str:
  """Returns the Header of a file, or one line saying why it cannot be decoded."""
  try:
    with Image.open(root / name) as image:
      header = Header(preprocess.upright_size(image), preprocess.is_grey(image))
      image.draft(None, (1, 1))  # a JPEG is read to its end, at 1/8 of the work
      preprocess.pixels_of(image)
    return header
  # On a damaged file Pillow's many decoders raise nearly anything: OSError, SyntaxError,
  # struct.error, KeyError, DecompressionBombError, ... Whatever it is, the file is
  # unreadable, and the exception is the reason to show.
  except Exception as error:  # pylint: disable=broad-except
    return 'not an image' if isinstance(error, Image.UnidentifiedImageError) else (
        one_line(error))


def _decode_file(root: pathlib.Path, image_size: int, name: str) -> np.ndarray:
  """Returns the pixels [H, W, C] of an image file."""
  try:
    with Image.open(root / name) as image:
      return decode(image, image_size)
  except OSError as error:
    raise errors.UserError(
        f'{root / name} could be read when the data was loaded, but not any more '
        f'({one_line(error)}); put it back, or start again without it') from error


def _folder_labels(
    names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
  """Makes labels of the first part of each path.

  Args:
    names: N paths relative to the folder, '/' between their parts.

  Returns:
    The labels, int64 [N], and the names of the sub-folders that they count. A file
    outside of the sub-folders has the label -1. (None, None) if there are fewer than two
    sub-folders.
  """
  parts = [name.split('/')[0] if '/' in name else None for name in names]
  label_names = sorted({part for part in parts if part is not None})
  if len(label_names) < 2:
    return None, None
  number = {name: label for label, name in enumerate(label_names)}
  labels = np.array([number.get(part, -1) for part in parts], np.int64)
  return labels, tuple(label_names)
