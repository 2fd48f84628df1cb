"""Masks, kernels and matrices from files: what `restore` is told of the damage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jdiffclust.data import preprocess
from jdiffclust.data.preprocess import opened, stored_pixels
from jdiffclust.data.rendering import composited
from jdiffclust.data.sources.common import no_pipe, one_line
from jdiffclust.errors import UserError

# What hidden pixels weigh, at most, in a resized one that is called known: .16 in the one
# beside a straight border of what is hidden, .013 in the next.
FAINT = .02


def read_npy(path: str) -> np.ndarray:
  """The array of an npy file; objects are not loaded.

  Raises:
    UserError: it cannot be read, or holds no numbers.
  """
  try:
    found = np.load(no_pipe(path), allow_pickle=False)
  # On a damaged file NumPy and zipfile raise nearly anything.
  except Exception as error:  # pylint: disable=broad-except
    # NumPy takes all that it does not know for pickles, and says how to load them.
    why = ('it is none, or holds objects' if 'allow_pickle' in str(error) else
           one_line(error))
    raise UserError(f'{path!r} cannot be read as an npy file: {why}') from None
  if not isinstance(found, np.ndarray) or found.dtype.kind not in 'biuf':
    raise UserError(f'{path!r} holds no array of numbers: save one by numpy.save.')
  return found


def read_mask(path: str, warn: Callable[[str], None]) -> np.ndarray:
  """A mask of images: true where pixels are known.

  Args:
    path: an image, white (brighter than half, and not transparent) where pixels are
      known; or an npy file, above 0 there.
    warn: is told of grey pixels.

  Returns:
    bool [H, W, 1 or C].

  Raises:
    UserError: no path, or a file that cannot be read.
  """
  if not path:
    raise UserError("config.restore.operator = 'mask' needs one: name an image that is "
                    'white where pixels are known by config.restore.mask, or choose '
                    'another operator.')
  if path.lower().endswith('.npy'):
    mask = read_npy(path)
    if not np.isfinite(mask).all():
      raise UserError(f'The mask {path!r} has NaN or infinite numbers: a number above 0 '
                      'says that a pixel is known, any other that it is not.')
    mask = mask > 0
  else:
    try:
      with opened(no_pipe(path)) as image:
        pages = getattr(image, 'n_frames', 1)
        mask = stored_pixels(image)
    # On a damaged file Pillow's decoders raise nearly anything.
    except Exception as error:  # pylint: disable=broad-except
      raise UserError(f'The mask {path!r} cannot be read as an image: '
                      f'{one_line(error)}') from None
    if pages > 1:
      raise UserError(f'The mask {path!r} holds {pages} pictures: save the one that is '
                      'meant by itself.')
    # What is coloured is not white: it marks what is lost.
    mask = composited(mask, 255, 'black').min(axis=-1, keepdims=True)
    # White is 1, 255 or 65535, whatever the type of the file.
    most = next((top for top in (1, 255) if mask.max() <= top), 65535)
    grey = np.mean(np.abs(mask / most - .5) < .25)
    if grey > .01:  # more than the edges of a JPEG
      warn(f'The mask {path!r} is grey in {grey:.0%} of its pixels, neither white nor '
           'black: those brighter than half count as known, the others as lost.')
    mask = mask > most / 2
  if mask.ndim not in (2, 3) or not mask.size:
    raise UserError(f'The mask {path!r} is an array of shape {mask.shape}: [H, W] or '
                    '[H, W, C] is needed.')
  return mask[..., None] if mask.ndim == 2 else mask


def known_of(mask: np.ndarray, shape: tuple[int, int, int], padding: int,
             fit: str) -> np.ndarray:
  """The pixels that are known of images at the size that a model sees.

  Args:
    mask: of the images as they are stored, or of that size, with their border or
      without; bool [h, w, 1 or C].
    shape: (H, W, C) of the model's images.
    padding: of their border, which is known.
    fit: how images are resized (`preprocess.resized`).

  Returns:
    bool [H, W, 1 or C]: of resized images those pixels are known in which hidden ones
    weigh less than `FAINT`.
  """
  if mask.shape[:2] == tuple(shape[:2]):
    return mask
  inner = shape[0] - 2 * padding, shape[1] - 2 * padding
  shares = [preprocess.share_of(~mask[..., c], inner, fit)
            for c in range(mask.shape[-1])]
  return with_border(np.stack(shares, -1) < FAINT, padding)


def with_border(mask: np.ndarray, padding: int) -> np.ndarray:
  """A mask [H, W, C] with a border of known pixels."""
  border = (padding, padding)
  return np.pad(mask, (border, border, (0, 0)), constant_values=True)
