"""Images that are arrays, in memory or mapped from a file."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jdiffclust import errors
from jdiffclust.data import preprocess
from jdiffclust.data.sources.common import (
    Raw, checked_labels, composited, constant_images_error, row_ids, with_channels)


def raw_array(images: ArrayLike, labels: ArrayLike | None = None,
              where: str = 'the array', labels_where: str = 'labels',
              name: str = 'array') -> Raw:
  """Makes an array what readers return.

  Args:
    images: [N, H, W] or [N, H, W, C] with C 1, 3 or 4, channels last; see `as_levels`.
    labels: N numbers or texts; None: unknown.
    where: what error messages call the images.
    labels_where: what error messages call the labels.
    name: of the data set.

  Returns:
    A Raw.

  Raises:
    UserError: a wrong shape or type, pixels as in `as_levels`, or a number of labels
      that is not N.
  """
  images, levels = as_levels(with_channels(np.asanyarray(images), where), where)
  names = None
  if labels is not None:
    labels, names = checked_labels(labels, len(images), labels_where)
  return Raw(images, row_ids(len(images)), labels, names, levels, name)


def as_levels(images: np.ndarray, where: str) -> tuple[np.ndarray, int | None]:
  """Converts images to grey levels, or to real numbers in [-1, 1].

  Truth values become 2 levels, and integers of 0..255 are 256 levels. Floats are mapped
  linearly from their own [min, max] to [-1, 1]. An alpha channel of integers (0..255) or
  floats (0..1) is composited on black first.

  Args:
    images: [N, H, W, C], C 1, 3 or 4.
    where: what error messages call the images.

  Returns:
    The images, [N, H, W, 1 or 3], and the number of their levels: uint8 and 2 or 256, or
    float32 and None.

  Raises:
    UserError: another type, integers beyond 0..255, NaN or infinite pixels, alpha beyond
      its range, or floats that are all equal.
  """
  if images.dtype == bool:
    return images.astype(np.uint8), 2
  if np.issubdtype(images.dtype, np.integer):
    if images.dtype != np.uint8 and images.size:
      low, high = images.min(), images.max()
      if low < 0 or high > 255:
        raise errors.UserError(
            f'{where}: integer pixels from {low} to {high}; 0 to 255 are allowed; '
            'save other ranges as floats, which are scaled from their own range')
      images = images.astype(np.uint8)
    return composited(images, 255), 256
  if not np.issubdtype(images.dtype, np.floating):
    raise errors.UserError(
        f'{where}: pixels of type {images.dtype}; truth values, integers and floats '
        'are allowed; convert the array')
  bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
  if bad.size:
    raise errors.UserError(
        f'{where}: {bad.size} of {len(images)} images have NaN or infinite pixels, '
        f'the first is index {bad[0]}; pixels must be finite; remove or mend them')
  if images.shape[-1] == 4:
    alpha = images[..., 3]
    if alpha.size and (alpha.min() < 0 or alpha.max() > 1):
      raise errors.UserError(
          f'{where}: alpha (the 4th channel) from {alpha.min():g} to '
          f'{alpha.max():g}; floats need it in 0 to 1; save 3 channels instead')
    images = preprocess.composite_on_black(images, 1)
  if not images.size:
    return images.astype(np.float32), None
  images = images.astype(np.float64)
  low, high = images.min(), images.max()
  if low == high:
    raise constant_images_error(low)
  return ((images - low) / (high - low) * 2 - 1).astype(np.float32), None
