"""Arrays saved by NumPy: .npz and .npy files."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np

from jdiffclust import errors
from jdiffclust.data.rendering import Rendering
from jdiffclust.data.sources.arrays import raw_array
from jdiffclust.data.sources.common import Raw, cannot_read, existing_file, one_line

# The names that are tried, in this order; NumPy itself gives names like `arr_0`.
IMAGE_KEYS = ('images', 'x', 'x_train', 'arr_0')
LABEL_KEYS = ('labels', 'y', 'y_train', 'arr_1')
# What an array of images and that of its labels are called, as parts of their names.
PAIRS = (('images', 'labels'), ('image', 'label'), ('imgs', 'labels'), ('x', 'y'),
         ('data', 'labels'), ('data', 'target'), ('arr_0', 'arr_1'))


def read_npz(data: ml_collections.ConfigDict,
             rendering: Rendering | None = None) -> Raw:
  """Reads arrays saved by `np.savez` (.npz) or `np.save` (.npy, no labels).

  The images are the array named `image_key`. If that is empty, they are the first of
  IMAGE_KEYS that the file has, or else its only array. The labels are the array named
  `label_key`, or else the one that is called as the images are (`label_of`); if there is
  none, the images have no labels. Other arrays of as large images are told of.
  `arrays.raw_array` says what the pixels may be.

  Args:
    data: the `data` section of a config; the options path, image_key, label_key and
      use_labels are used, and those of `arrays.raw_array`.
    rendering: of a fit; None: it is found.

  Returns:
    A Raw. The images of an .npy file of uint8 are a memory map where they are beyond the
    memory allowed, or data.pipeline is 'grain', unless they have an alpha channel.

  Raises:
    UserError: the file or a named array is missing, or as in `arrays.raw_array`.
  """
  path, key = str(existing_file(data.path)), None
  notes: list[str] = []
  try:
    found = np.load(path, mmap_mode='r', allow_pickle=False)
    if isinstance(found, np.ndarray):
      images, labels = found, None
    else:
      with found:
        chosen = image_name(found, data.image_key, path)
        images, labels = found[chosen], None
        shapes = shapes_of(found)
        others = [name for name, shape in shapes.items()
                  if name != chosen and len(shape) > 2 and shape[1:] == images.shape[1:]]
        notes += [f'{path}: its images are those of {chosen!r}; of as large ones there '
                  f"are {', '.join(map(repr, others))}, which are not read "
                  f'(--config.data.image_key={others[0]})'] if others else []
        key = data.use_labels and (
            _asked_for(found, data.label_key, 'label_key', path) if data.label_key else
            label_of(chosen, [name for name in found if len(shapes.get(name, ())) < 3],
                     bool(others)))
        if key:
          labels = found[key]
  except errors.UserError:
    raise
  except OSError as error:
    raise cannot_read(path, error) from error
  # On a damaged file NumPy and zipfile raise nearly anything: ValueError, BadZipFile,
  # TokenError, OverflowError, MemoryError, ... Whatever it is, it is the reason to show.
  except Exception as error:  # pylint: disable=broad-except
    # NumPy advises how they may be read all the same, which runs what is in them.
    pickled = 'allow_pickle' in str(error) or 'Python objects' in str(error)
    why = 'it holds Python objects, or is no array' if pickled else one_line(error)
    raise errors.UserError(
        f'{path} is not a readable .npz or .npy file of numbers ({why}); '
        'write it with np.savez(path, images=..., labels=...)') from error
  raw = raw_array(images, data, rendering, labels, path, f'{path}, {key!r}',
                  f'npz:{pathlib.Path(path).name}')
  return raw._replace(notes=(*notes, *raw.notes))


def shapes_of(arrays: Any) -> dict[str, tuple[int, ...]]:
  """The shapes of the arrays in an open .npz file, by their headers."""
  read = {(1, 0): np.lib.format.read_array_header_1_0,
          (2, 0): np.lib.format.read_array_header_2_0}
  found = {}
  for name in arrays.zip.namelist():
    with arrays.zip.open(name) as file:
      version = np.lib.format.read_magic(file) if name.endswith('.npy') else None
      if version in read:
        found[name.removesuffix('.npy')] = read[version](file)[0]
  return found


def label_of(images: str, names: Iterable[str], several: bool) -> str | None:
  """Which array has the labels of an array of images, by what they are called.

  Args:
    images: the name of the array of images: x_test, say, whose labels are y_test.
    names: of the arrays that are no images.
    several: whether there are other images that labels might be of.

  Returns:
    Its name; None: there is none.
  """
  names = list(names)
  by_case = {name.lower(): name for name in reversed(names)}
  for own, other in PAIRS:
    called = re.sub(rf'(?<![a-z]){own}(?![a-z])', other, images.lower())
    if called != images.lower() and called in by_case:
      return by_case[called]
  return None if several else next((name for name in LABEL_KEYS if name in names), None)


def image_name(arrays: Mapping[str, Any], wanted: str, path: str) -> str:
  """The name of the array of images."""
  names = list(arrays)
  wanted = wanted or next((name for name in IMAGE_KEYS if name in names), '')
  if wanted or len(names) != 1:
    return _asked_for(arrays, wanted, 'image_key', path)
  return names[0]


def _asked_for(arrays: Mapping[str, Any], wanted: str, option: str,
               path: str) -> str:
  """The same name, if there is such an array."""
  if wanted not in arrays:
    tried = repr(wanted) if wanted else f'named {", ".join(IMAGE_KEYS)}'
    raise errors.UserError(
        f'{path} has no array {tried}; it has: {", ".join(arrays) or "none"}; set '
        f'--config.data.{option} to one of them')
  return wanted
