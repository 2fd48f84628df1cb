"""Arrays saved by NumPy: .npz and .npy files."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from jdiffclust import errors
from jdiffclust.data.rendering import Rendering
from jdiffclust.data.sources.arrays import raw_array
from jdiffclust.data.sources.common import Raw, cannot_read, existing_file, one_line

# The names that are tried, in this order; NumPy itself gives names like `arr_0`.
IMAGE_KEYS = ('images', 'x', 'x_train', 'arr_0')
LABEL_KEYS = ('labels', 'y', 'y_train', 'arr_1')


def read_npz(data: ml_collections.ConfigDict,
             rendering: Rendering | None = None) -> Raw:
  """Reads arrays saved by `np.savez` (.npz) or `np.save` (.npy, no labels).

  The images are the array named `image_key`. If that is empty, they are the first of
  IMAGE_KEYS that the file has, or else its only array. The labels are the array named
  `label_key`, or else the first of LABEL_KEYS that the file has; if it has none, the
  images have no labels. `arrays.raw_array` says what the pixels may be.

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
  try:
    found = np.load(path, mmap_mode='r', allow_pickle=False)
    if isinstance(found, np.ndarray):
      images, labels = found, None
    else:
      with found:
        key = _array_name(found, data.image_key, IMAGE_KEYS, 'image_key', path)
        images, labels = found[key], None
        key = data.use_labels and _array_name(
            found, data.label_key, LABEL_KEYS, 'label_key', path)
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
  return raw_array(images, data, rendering, labels, path, f'{path}, {key!r}',
                   f'npz:{pathlib.Path(path).name}')


def _array_name(arrays: Mapping[str, np.ndarray], wanted: str, automatic: Sequence[str],
                option: str, path: str) -> str | None:
  """Returns the name of the array to read, None if labels are asked for and missing."""
  names = list(arrays)
  if not wanted:
    wanted = next((name for name in automatic if name in names), '')
    if not wanted and option == 'label_key':
      return None
    if not wanted and len(names) == 1:
      wanted = names[0]
  if wanted not in names:
    tried = repr(wanted) if wanted else f'named {", ".join(automatic)}'
    raise errors.UserError(
        f'{path} has no array {tried}; it has: {", ".join(names) or "none"}; set '
        f'--config.data.{option} to one of them')
  return wanted
