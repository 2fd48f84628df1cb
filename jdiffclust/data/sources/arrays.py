"""Images that are arrays, in memory or mapped from a file."""

from __future__ import annotations

import ml_collections
import numpy as np
from numpy.typing import ArrayLike

from jdiffclust import errors
from jdiffclust.data import preprocess
from jdiffclust.data.rendering import (
    FAINT, SAMPLE, Rendering, best_background, composited, contrast, faint_note,
    few_decide_note, inner, integer_range, kind_of, look_scaled, lost_note,
    some_faint_note, to_levels, unknown_floats, unknown_range)
from jdiffclust.data.sources.common import (
    Raw, checked_labels, constant_images_error, is_real, last_axis_is_rough, one_line,
    row_ids, with_channels)

BLOCK = 4096  # images that are looked at together for their range


def raw_array(images: ArrayLike, data: ml_collections.ConfigDict,
              rendering: Rendering | None = None, labels: ArrayLike | None = None,
              where: str = 'the array', labels_where: str = 'labels',
              name: str = 'array') -> Raw:
  """Makes an array what readers return.

  Truth values become 2 levels. Integers of 0..255 stay as they are, and have as many
  levels as their range: 17 for 0..16. Other integers become 256 levels, and floats are
  mapped linearly to [-1, 1], both from their range. An alpha channel, of integers 0..255
  or floats 0..1, is laid on a ground first.

  Args:
    images: [N, H, W] or [N, H, W, C] with C 1, 3 or 4, channels last.
    data: the `data` section of a config; the options range, percentile, background,
      image_size, fit and ground are used.
    rendering: of a fit, to be kept to; None: it is found.
    labels: N numbers or texts; None: unknown.
    where: what error messages call the images.
    labels_where: what error messages call the labels.
    name: of the data set.

  Returns:
    A Raw.

  Raises:
    UserError: a wrong shape or type, hidden, NaN or infinite pixels, alpha beyond its
      range, floats that are all equal, or a number of labels that is not N.
  """
  given = type(images).__name__
  try:
    images = np.asanyarray(preprocess.arrays_of(images))
  except (ValueError, TypeError, RuntimeError) as error:  # the last two: of PyTorch's
    raise errors.UserError(
        f'{where}: not an array ({one_line(error)}); images of one shape are needed'
    ) from None
  if not images.ndim:
    raise errors.UserError(f'{where}: of type {given}; an array [N, H, W] or '
                           '[N, H, W, C], or a list of equally large images is needed')
  check_whole(images, where)
  if isinstance(images, np.memmap) and data.pipeline != 'grain' and (
      images.nbytes <= data.memory_limit_mb * 1e6):
    images = np.array(images)  # the file may be written anew while a fit goes on
  images = with_channels(images, where)
  names = None
  if labels is not None:
    labels, names = checked_labels(labels, len(images), labels_where)
  if not is_real(images.dtype):
    raise errors.UserError(
        f'{where}: pixels of type {images.dtype}; truth values, integers and floats '
        'are allowed; convert the array')
  turned = [
      f'{where}: neighbours along the third axis of {images.shape} differ more than '
      'those along the first two, as images do: if they lie along it, give '
      'np.moveaxis(array, 2, 0)'] if images.shape[-1] > 1 and (
          last_axis_is_rough(images)) else []
  images = whole_numbers(images, rendering)
  images, background, lost = on_ground(images, data, rendering, where)
  finish = floats if kind_of(images.dtype) == 'real' else integers
  images, levels, found, notes = finish(images, data, rendering, where)
  fit = fit_of_array(images, data, rendering)
  ground = rendering.ground if rendering is not None else (
      ground_of_array(images, levels) if fit == 'pad' and data.ground == 'auto' else None)
  # What the fit cut off of its own images, it cuts off of others.
  beyond = (rendering.beyond if rendering is not None else
            finish is floats and not (data.range or data.percentile))
  return Raw(images, row_ids(len(images)), labels, names, levels, name,
             rendering=Rendering(found, background, fit, ground, beyond=beyond),
             notes=(*turned, *notes, *lost))


def fit_of_array(images: np.ndarray, data: ml_collections.ConfigDict,
                 rendering: Rendering | None) -> str:
  """How images are resized that are of other proportions than they shall have.

  Args:
    images: [N, H, W, 1 or 3].
    data: its options fit and image_size.
    rendering: of a fit, to be kept to; None: it is found.
  """
  if rendering is not None:
    return rendering.fit_for(data.fit)
  if data.fit != 'auto':
    return data.fit
  size = preprocess.size_of(data.image_size)
  if size is None or not images.size or preprocess.cropped(
      np.array([images.shape[1:3]], float), size)[0] <= preprocess.CROPPED:
    return 'crop'
  rows = preprocess.spread(range(len(images)), preprocess.LOOKED_AT)
  return preprocess.fit_of([preprocess.plain_border(images[row]) for row in rows])


def ground_of_array(images: np.ndarray, levels: int | None) -> tuple[float, ...] | None:
  """The ground that images share, see `preprocess.ground_of`.

  Args:
    images: [N, H, W, 1 or 3], levels or, if `levels` is None, from -1 to 1.
    levels: how many there are.
  """
  if not images.size:
    return None
  rows = preprocess.spread(range(len(images)), preprocess.LOOKED_AT)
  colours = np.stack([preprocess.border_colour(images[row]) for row in rows])
  low, high = (-1, 1) if levels is None else (0, levels - 1)
  return preprocess.ground_of(
      np.broadcast_to((colours - low) * (255 / (high - low)), (len(rows), 3)))


def check_whole(images, where: str) -> None:
  """Checks that no pixels are hidden: NumPy would show what is below a mask.

  Args:
    images: an array, perhaps a masked one.
    where: what error messages call it.

  Raises:
    UserError: some are.
  """
  hidden = int(np.ma.getmaskarray(images).sum()) if np.ma.isMA(images) else 0
  if hidden:
    raise errors.UserError(
        f'{where}: {hidden:,} pixels of a masked array are hidden, but images must be '
        'whole; give them a value, such as array.filled(0)')


def whole_numbers(images: np.ndarray, rendering: Rendering | None) -> np.ndarray:
  """Floats as the integers that a fit had, where that is what they are.

  Libraries hand out pixels of 0..255 or 0..16 as floats; a fit to integers would have no
  range for them. Floats between 0 and 1 stay what they are: they may be scaled.

  Args:
    images: of any shape.
    rendering: of the fit that they are for; None: of none.
  """
  if rendering is None or 'real' in rendering.ranges or not images.size or (
      kind_of(images.dtype) != 'real'):
    return images
  low, high = rendering.whole
  least, most = images.min(), images.max()
  if not low <= least <= most <= high or most <= 1 < high or (images % 1 != 0).any():
    return images  # NaN is not in any range
  return images.astype(np.int64)


def on_ground(images: np.ndarray, data: ml_collections.ConfigDict,
              rendering: Rendering | None,
              where: str) -> tuple[np.ndarray, str, list[str]]:
  """Lays images with an alpha channel on a ground.

  Args:
    images: [N, H, W, C].
    data: its option background.
    rendering: of a fit; None: the ground is the option's.
    where: what error messages call the images.

  Returns:
    [N, H, W, 1 or 3], the ground, and notes of images of which it leaves nothing.

  Raises:
    UserError: alpha is beyond its range.
  """
  background = data.background if rendering is None else rendering.background
  if images.shape[-1] < 4:
    return images, 'black' if background == 'auto' else background, []
  if images.dtype == bool:
    images = images.astype(np.uint8) * np.uint8(255)
  opaque = 1 if kind_of(images.dtype) == 'real' else 255
  alpha = images[..., 3]
  if alpha.size and not (0 <= alpha.min() and alpha.max() <= opaque):
    raise errors.UserError(
        f'{where}: alpha (the 4th channel) from {alpha.min():g} to {alpha.max():g}; 0 to '
        f'{opaque} is needed; save 3 channels instead')
  if background == 'auto':
    some = images[:BLOCK]
    background = best_background(*(contrast(some, opaque, ground)
                                   for ground in ('black', 'white')))
  found = composited(images, opaque, background)
  clear = alpha.min(axis=(1, 2)) < opaque if images.size else np.zeros(0, bool)
  lost = np.flatnonzero(clear)[np.ptp(found[clear], axis=(1, 2, 3)) == 0] if (
      clear.any()) else ()
  told = [f'{where}: the 4th channel is taken for transparency, which '
          f'{np.sum(clear):,} images have, and they are laid on {background}: if it is '
          'something else, give three channels'] if clear.any() else []
  return found, background, told + lost_note([f'{where}, image {row}' for row in lost],
                                             background)


def integers(images: np.ndarray, data: ml_collections.ConfigDict,
             rendering: Rendering | None, where: str):
  """Truth values and integers as levels.

  Args:
    images: [N, H, W, C].
    data: its options range and percentile.
    rendering: of a fit; None: the range is found.
    where: what notes call the images.

  Returns:
    uint8 images, the number of their levels, their ranges by kind, and notes.

  Raises:
    UserError: they lie beyond all that the fit tells of such integers.
  """
  if images.dtype == bool:
    return images.astype(np.uint8), 2, {'truth': (0, 1)}, ()
  kind, finding = kind_of(images.dtype), rendering is None and not data.range
  low, high = span(images, FAINT * 255 if finding and kind == 'byte' else np.inf)
  note = ''
  if rendering is not None:
    rendering = rendering.for_others(kind, low, high)
    found = rendering.range_of(kind) or (low, high)  # integers have one
    if kind not in rendering.ranges and (low < found[0] or high > found[1]):
      raise errors.UserError(unknown_range(f'{where}: integers', low, high) + (
          ', or give them in the units of those of the fit'))
    if low < found[0] or high > found[1]:
      note = (f'pixels from {low} to {high}, but the fit had {found[0]:g} to '
              f'{found[1]:g}: what lies beyond is clipped (--config.data.range sets '
              'another range)')
  elif data.range:
    found = data.range[0], data.range[1]
  elif kind != 'byte' and data.percentile:
    found = percentiles(images, data.percentile)
  else:
    found, note = integer_range(low, high)
    if kind != 'byte' and images.size:
      note = '; '.join(filter(None, (note, few_decide_note(inner(images), found))))
  if not finding:
    note = note or faint_note(low, high, found)
  notes = (f'{where}: {note}',) if note else some_dark(images, found, where, data)
  if found[0] == 0 and found[1] <= 255 and float(found[1]).is_integer():
    # Exactly the levels that there are, as the decoder counts them.
    clipped = images if high <= found[1] and low >= 0 else np.clip(images, *found)
    return clipped.astype(np.uint8, copy=False), int(found[1]) + 1, {kind: found}, notes
  return to_levels(images, *found), 256, {kind: found}, notes


def some_dark(images: np.ndarray, given: tuple[float, float], where: str,
              data: ml_collections.ConfigDict) -> list[str]:
  """Tells of images that are nearly of one colour in a range that others fill.

  Args:
    images: [N, H, W, C]; of a file beyond the memory allowed some, evenly spaced.
    given: the range.
    where: what notes call them.
    data: its option memory_limit_mb.
  """
  if not images.size:
    return []
  step = int(-(-images.nbytes // (data.memory_limit_mb * 10**6)) or 1)
  lows, highs = [], []
  for start in range(0, len(images), BLOCK * step):
    block = np.asarray(images[start:start + BLOCK * step:step])
    block = block.reshape(len(block), -1)
    lows.append(block.min(axis=1))
    highs.append(block.max(axis=1))
  spans = np.concatenate(highs).astype(np.float64) - np.concatenate(lows)
  rows = np.flatnonzero((spans > 0) & (spans < FAINT * (given[1] - given[0])))
  return some_faint_note(len(rows), len(spans), f'images of {where}',
                         *(f'index {row * step}' for row in rows[:1]))


def percentiles(images: np.ndarray, percentage: float) -> tuple[float, float]:
  """The range of all pixels but a percentage at either end; of many some are taken."""
  some = images.ravel()[::max(1, images.size // SAMPLE)]
  if not some.size:
    return 0, 255
  low, high = np.percentile(some, (percentage, 100 - percentage)).tolist()
  return (low, high) if low < high else (float(some.min()), float(some.max()))


def span(images: np.ndarray, enough: float) -> tuple[int, int]:
  """The smallest and largest pixel; (0, 255) as soon as they are `enough` apart."""
  low, high = np.inf, -np.inf
  for start in range(0, len(images), BLOCK):
    block = images[start:start + BLOCK]
    if block.size:
      # Of Python's integers: a difference of small ones may be too large for their type.
      low, high = min(low, int(block.min())), max(high, int(block.max()))
    if high - low >= enough:
      return 0, 255
  return (0, 255) if low > high else (int(low), int(high))


def floats(images: np.ndarray, data: ml_collections.ConfigDict,
           rendering: Rendering | None, where: str):
  """Floats mapped linearly from their range to [-1, 1], or to levels like a fit's.

  Args:
    images: [N, H, W, C].
    data: its options range and percentile.
    rendering: of a fit; None: the range is found.
    where: what error messages and notes call the images.

  Returns:
    float32 images, None (no levels), their ranges by kind, and notes; for a fit to
    images that have levels, uint8 images and 256.

  Raises:
    UserError: NaN or infinite pixels; or, for a fit, all are equal; or it had integers,
      and nothing says what is black and white in floats.
  """
  bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
  if bad.size:
    raise errors.UserError(
        f'{where}: {bad.size} of {len(images)} images have NaN or infinite pixels, '
        f'the first is index {bad[0]}; pixels must be finite; remove or mend them')
  if not images.size:
    return images.astype(np.float32), None, {}, ()
  images, notes = images.astype(np.float64), []
  least, most = float(images.min()), float(images.max())
  kept = None if rendering is None else rendering.range_of('real')
  # A range of 0..255 that the fit was given is not that of floats of 0..1.
  in_levels = rendering is not None and rendering.in_levels
  beyond = rendering is not None and rendering.beyond
  if rendering is not None and in_levels and (
      kept is None or look_scaled(least, most, kept)):
    raise errors.UserError(
        unknown_floats(f'{where}: floats', least, most, rendering.whole))
  if kept is not None:
    low, high = kept
    if least < low or most > high:
      notes.append(f'{where}: pixels from {least:g} to {most:g}, but the fit had {low:g} '
                   f'to {high:g}: '
                   + ('the images go beyond [-1, 1]' if beyond else
                      'what lies beyond is clipped'))
    told = '' if notes else faint_note(least, most, kept)
    notes += [f'{where}: {told}'] if told else []
  elif data.range:
    low, high = map(float, data.range)
    told = faint_note(least, most, (low, high))
    notes += [f'{where}: {told}'] if told else []
  else:
    low, high = least, most
    if data.percentile:
      low, high = percentiles(images, data.percentile)
    told = few_decide_note(inner(images), (low, high))
    notes += [f'{where}: {told}'] if told else []
  if low == high:
    if rendering is None:
      raise constant_images_error(low)
    high = low + 1
  if not notes:
    notes += some_dark(images, (low, high), where, data)
  if in_levels:
    return to_levels(images, low, high), 256, {'real': (low, high)}, tuple(notes)
  scaled = (images - low) / (high - low) * 2 - 1
  if not beyond:
    scaled = np.clip(scaled, -1, 1)
  return scaled.astype(np.float32), None, {'real': (low, high)}, tuple(notes)
