"""Masks, kernels and matrices from files: what `restore` is told of the damage."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from jdiffclust.data.preprocess import stored_pixels
from jdiffclust.data.rendering import composited
from jdiffclust.data.sources.common import one_line
from jdiffclust.errors import UserError


def read_npy(path: str) -> np.ndarray:
  """The array of an npy file; objects are not loaded.

  Raises:
    UserError: it cannot be read, or holds no numbers.
  """
  try:
    found = np.load(os.path.expanduser(path), allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise UserError(f'{path!r} cannot be read as an npy file: {one_line(error)}'
                    ) from None
  if not isinstance(found, np.ndarray) or found.dtype.kind not in 'biuf':
    raise UserError(f'{path!r} holds no array of numbers: save one by numpy.save.')
  return found


def read_mask(path: str, shape: tuple[int, int, int], padding: int = 0) -> np.ndarray:
  """A mask of images: true where pixels are known.

  Args:
    path: an image, white (brighter than half, and not transparent) where pixels are
      known; or an npy file, above 0 there.
    shape: (H, W, C) of the model's images.
    padding: of their border, which is known and which the mask may lack.

  Returns:
    bool [H, W, 1 or C].

  Raises:
    UserError: no path, a file that cannot be read, or of another size.
  """
  if not path:
    raise UserError("config.restore.operator = 'mask' needs one: name an image that is "
                    'white where pixels are known by config.restore.mask, or choose '
                    'another operator.')
  if path.lower().endswith('.npy'):
    mask = read_npy(path) > 0
  else:
    try:
      with Image.open(os.path.expanduser(path)) as image:
        mask = stored_pixels(image)
    # On a damaged file Pillow's decoders raise nearly anything.
    except Exception as error:  # pylint: disable=broad-except
      raise UserError(f'The mask {path!r} cannot be read as an image: '
                      f'{one_line(error)}') from None
    mask = composited(mask, 255, 'black').max(axis=-1, keepdims=True)
    # White is 1, 255 or 65535, whatever the type of the file.
    most = next((top for top in (1, 255) if mask.max() <= top), 65535)
    mask = mask > most / 2
  if mask.ndim not in (2, 3):
    raise UserError(f'The mask {path!r} is an array of shape {mask.shape}: [H, W] or '
                    '[H, W, C] is needed.')
  mask = mask[..., None] if mask.ndim == 2 else mask
  inner = tuple(side - 2 * padding for side in shape[:2])
  if mask.shape[:2] == inner:
    mask = with_border(mask, padding)
  if mask.shape[:2] != tuple(shape[:2]):
    raise UserError(f'The mask {path!r} is of {mask.shape[0]}x{mask.shape[1]} pixels, '
                    f'but the model sees images of {inner[0]}x{inner[1]}: make it of '
                    'that size, whatever size your files have.')
  return mask


def with_border(mask: np.ndarray, padding: int) -> np.ndarray:
  """A mask [H, W, C] with a border of known pixels."""
  border = (padding, padding)
  return np.pad(mask, (border, border, (0, 0)), constant_values=True)
