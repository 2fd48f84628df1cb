"""Encoded images: what they hold, and their way to pixels of one size.

A picture is decoded once: brought to its final size before the range of all pixels is
known, which is then applied to what was kept. Whether kept or decoded again, it becomes
the same levels.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from PIL import Image

from jdiffclust import errors
from jdiffclust.data import preprocess
from jdiffclust.data.rendering import (
    BACKGROUNDS, CONTAINERS, FAINT, Rendering, best_background, composited,
    Inner, faint_note, few_decide_note, inner, integer_range, kind_of, lost_note,
    some_faint_note, to_levels, unknown_range)

# Pixels of a picture by which percentiles are found.
SAMPLE = 4096
LOOKED_AT = 2**16  # by which it is known where most of them lie
AUTO_FITS = ('crop', 'pad')  # between which the pictures decide
SPREAD = 256  # pixels of a side by which the variance of a picture is known
Open = Callable[[], Image.Image]


class Decoding(NamedTuple):
  """How pictures are decoded.

  Attributes:
    size: (height, width) in pixels that they are brought to; None: they stay as they are.
    fits: how, see `preprocess.resized`; of several one is chosen later.
    ranges: by the kind of number, as far as they are known before all pixels are seen.
    grounds: those under transparent pixels that come into question.
    frames: 'first' or 'all' of the pictures of a file.
    percentile: percentage of pixels beyond the range at either end.
  """

  size: tuple[int, int] | None = None
  fits: tuple[str, ...] = ('crop',)
  ranges: Mapping[str, tuple[float, float]] = {}
  grounds: tuple[str, ...] = BACKGROUNDS
  frames: str = 'first'
  percentile: float = 0.

  def by(self, rendering: Rendering) -> Decoding:
    """The same, when all is known of how pixels become levels."""
    return self._replace(ranges=rendering.ranges, grounds=(rendering.background,),
                         fits=(rendering.fit,))


def decoding_of(data: ml_collections.ConfigDict, rendering: Rendering | None) -> Decoding:
  """The `Decoding` of the data options.

  Args:
    data: the options image_size, fit, range, background, frames and percentile.
    rendering: of a fit, to be kept to; None: it is to be found.
  """
  fits = AUTO_FITS if data.fit == 'auto' else (data.fit,)
  found = Decoding(preprocess.size_of(data.image_size), fits, frames=data.frames,
                   percentile=data.percentile)
  if rendering is not None:
    return found.by(rendering)
  if data.range:
    found = found._replace(
        ranges=dict.fromkeys((*CONTAINERS, 'real'), tuple(data.range)))
  return found if data.background == 'auto' else found._replace(
      grounds=(data.background,))


class Header(NamedTuple):
  """What is remembered of an image file that was opened once.

  Attributes:
    size: (height, width) in pixels, after its EXIF orientation is applied.
    grey: whether it has no colour.
    kind: of its numbers, see `rendering.CONTAINERS`.
    low: its smallest stored pixel.
    high: its largest.
    seen: where it has transparent pixels, the standard deviation of what is seen on
      black and on white; None: it has none.
    frames: the pictures that the file holds.
    sample: some of its pixels, if percentiles are asked for.
    transparent: whether some of its pixels are.
    narrowed: whether only the upper 8 bits of its 16-bit colours are read.
    coloured: whether some of its pixels are of a colour that is no grey.
    contrast: see `common.Stored`; 1 where it is not decoded for good yet.
    border: `preprocess.plain_border` where its proportions are others than those of the
      size that it is brought to, and how is still to be chosen; else None.
    edges: of `edges_of`, of each picture that is used.
    most: where most of its pixels lie, of the first picture; None: of 8 bits.
  """

  size: tuple[int, int]
  grey: bool
  kind: str = 'byte'
  low: float = 0
  high: float = 255
  seen: tuple[float, float] | None = None
  frames: int = 1
  sample: np.ndarray | None = None
  transparent: bool = False
  narrowed: bool = False
  coloured: bool = False
  contrast: float = 1.
  border: float | None = None
  edges: tuple[tuple[np.ndarray, ...], ...] = ()
  most: Inner | None = None


class Picture(NamedTuple):
  """A decoded picture of its final size, whose range is not applied yet.

  Attributes:
    kind: of its numbers.
    planes: [H, W, 1 or 3], uint8 or float32, by the grounds of the `Decoding`, one only
      if nothing is transparent; and by its `fits`, one only if all come to the same.
      What is to be padded is not yet.
    edges: of `edges_of`.
  """

  kind: str
  planes: tuple[tuple[np.ndarray, ...], ...]
  edges: tuple[np.ndarray, ...] = ()

  @property
  def nbytes(self) -> int:
    """Bytes of memory."""
    return sum(plane.nbytes for own in self.planes for plane in own)


class Kept:
  """Decoded pictures that wait to be used, as many as there is room for."""

  def __init__(self, room: float):
    """Keeps nothing yet.

    Args:
      room: bytes.
    """
    self.room, self._lock = room, threading.Lock()
    self._pictures: dict[Any, Any] = {}

  def put(self, key: Hashable, picture: Picture) -> None:
    """Keeps a picture, if there is room."""
    with self._lock:
      if picture.nbytes <= self.room:
        self.room -= picture.nbytes
        self._pictures[key] = picture

  def pop(self, key: Hashable) -> Picture | None:
    """Hands a picture over, which is not kept any longer; None: it is not here."""
    return self._pictures.pop(key, None)


def room_for(shape: tuple[int, ...], data: ml_collections.ConfigDict) -> float:
  """Bytes of decoded pictures that may be kept until they are used.

  Args:
    shape: (N, H, W, C) of all of them, when finished.
    data: the options pipeline, memory_limit_mb and percentile.

  Returns:
    0 if they are read as they are needed, or if pixels beyond a percentile are cut off
    before pictures are resized, so that they must be decoded a second time.
  """
  limit = data.memory_limit_mb * 1e6
  no = data.pipeline == 'grain' or data.percentile or np.prod(shape, dtype=float) > limit
  return 0. if no else limit


def look(open_image: Open, decoding: Decoding,
         keep: bool) -> tuple[Header, list[Picture]]:
  """Decodes a file for the first time.

  Args:
    open_image: opens it.
    decoding: how.
    keep: whether the pictures are wanted, or only what they hold.

  Returns:
    The `Header`, and the pictures, [] if they are not wanted.

  Raises:
    ValueError: NaN or infinite pixels, or frames that differ in size.
    Exception: whatever Pillow raises on a damaged file.
  """
  with open_image() as image:
    size, frames = preprocess.upright_size(image), getattr(image, 'n_frames', 1)
    used = frames if decoding.frames == 'all' else 1
  # Borders decide how it is resized: they are looked at as they will be then.
  exact = keep or 'pad' in decoding.fits
  stored = [_stored(open_image, decoding if exact else None, k) for k in range(used)]
  if any(one.size != size for one in stored):
    raise ValueError('its pictures differ in size')
  extents = [_extent(one.pixels, decoding.percentile) for one in stored]
  kinds, low, high, seen, samples = zip(*extents)
  if len(set(kinds)) > 1:  # which one range cannot be of
    raise ValueError('its pictures hold numbers of different types (of 8 bits, more, or '
                     'floats): save them as files of their own')
  header = Header(
      size, all(one.grey for one in stored), kinds[0], min(low), max(high),
      next((both for both in seen if both), None), frames,
      np.concatenate(samples) if samples[0] is not None else None,
      any(one.pixels.shape[-1] == 4 and one.pixels[..., 3].min() < 255 for one in stored),
      any(one.narrowed for one in stored), any(_coloured(one.pixels) for one in stored),
      border=_border_of(stored[0].pixels, size, decoding),
      edges=tuple(edges_of(one.pixels, decoding) for one in stored),
      most=None if kinds[0] == 'byte' else inner(stored[0].pixels, LOOKED_AT))
  if not keep:
    return header, []
  pictures = [_shrunk(*one[:2], decoding) for one in stored]
  return header._replace(contrast=_left_of(stored[0].pixels, pictures[0])), pictures


def _border_of(pixels: np.ndarray, size: tuple[int, int],
               decoding: Decoding) -> float | None:
  """`Header.border` of a picture of a size, which shall have another one."""
  wanted = decoding.size
  if wanted is None or len(decoding.fits) == 1 or preprocess.cropped(
      np.array([size], float), wanted)[0] <= preprocess.CROPPED:
    return None
  return preprocess.plain_border(composited(pixels, 255, 'black'))


def edges_of(pixels: np.ndarray, decoding: Decoding) -> tuple[np.ndarray, ...]:
  """The colours of the border of a picture that may be padded.

  Args:
    pixels: as they are stored, [H, W, C].
    decoding: how it is decoded.

  Returns:
    `preprocess.border_colour`, [1 or 3], by the grounds, one only if nothing is
    transparent; () if it is not padded in any case.
  """
  if 'pad' not in decoding.fits:
    return ()
  border = preprocess.border_of(pixels)
  grounds = decoding.grounds if pixels.shape[-1] == 4 else decoding.grounds[:1]
  return tuple(np.median(composited(border, 255, ground), axis=0) for ground in grounds)


def _left_of(pixels: np.ndarray, picture: Picture) -> float:
  """The share of the variance of pixels [H, W, C] that is left at the final size."""
  seen = picture.planes[0][0]
  if seen.shape[:2] == pixels.shape[:2] or pixels.shape[-1] == 4:
    return 1.
  steps = [max(1, side // SPREAD) for side in pixels.shape[:2]]
  some = pixels[::steps[0], ::steps[1]].astype(np.float64)
  before, after = (np.mean(np.var(plane, axis=(0, 1))) for plane in (
      some, seen.astype(np.float64)))
  return float(min(1., after / before)) if before > 0 else 1.


def decode(open_image: Open, decoding: Decoding, rendering: Rendering,
           frame: int = 0) -> np.ndarray:
  """Decodes a picture.

  Args:
    open_image: opens its file.
    decoding: how.
    rendering: how its pixels become levels.
    frame: its number in the file.

  Returns:
    uint8 [H, W, 1] for a grey picture, [H, W, 3] for any other.

  Raises:
    UserError: its pixels have no known scale.
    OSError: the file is damaged.
  """
  decoding = decoding.by(rendering)
  stored = _stored(open_image, decoding, frame)
  return levels_of(_shrunk(stored.pixels, stored.grey, decoding), decoding, rendering)


def thumbnail(open_image: Open, rendering: Rendering, side: int,
              frame: int = 0) -> np.ndarray:
  """Decodes a picture once more, whole, in its own proportions, small.

  Args:
    open_image: opens its file.
    rendering: how its pixels become levels.
    side: pixels that no side of the result exceeds; smaller pictures stay as they are.
    frame: its number in the file.

  Returns:
    uint8 [h, w, 1 or 3].

  Raises:
    As `decode`.
  """
  with open_image() as image:
    if frame:
      image.seek(frame)
    stored = preprocess.upright_size(image)
  size = preprocess.small_size(stored, side)
  rendering = dataclasses.replace(rendering, fit='squash')
  return decode(open_image, Decoding(size), rendering, frame)


def levels_of(picture: Picture, decoding: Decoding, rendering: Rendering) -> np.ndarray:
  """Applies a range and a ground to a decoded picture.

  Args:
    picture: of `look`, by this decoding.
    decoding: how it was decoded.
    rendering: how its pixels become levels.

  Returns:
    uint8 [H, W, 1 or 3].

  Raises:
    UserError: its pixels are floats of no known range.
  """
  found = rendering.range_of(picture.kind)
  if found is None:
    raise errors.UserError('float pixels have no known range: set --config.data.range')
  which = (decoding.grounds.index(rendering.background)
           if len(picture.planes) > 1 else 0)
  own = picture.planes[which]
  plane = own[decoding.fits.index(rendering.fit)] if len(own) > 1 else own[0]
  levels = to_levels(plane, *found)
  if rendering.fit != 'pad' or decoding.size in (None, levels.shape[:2]):
    return levels
  edge = to_levels(picture.edges[which][:levels.shape[-1]], *found)
  return preprocess.framed(levels, edge, decoding.size, rendering.ground)


class _Stored(NamedTuple):
  """A picture as it is stored.

  Attributes:
    pixels: of `preprocess.stored_pixels`; of 16-bit colours all bits where that can be.
    grey: whether it has no colour.
    size: (height, width).
    narrowed: see `Header`.
  """

  pixels: np.ndarray
  grey: bool
  size: tuple[int, int]
  narrowed: bool


def _stored(open_image: Open, decoding: Decoding | None, frame: int) -> _Stored:
  """Reads a frame; a JPEG that is to become much smaller at a fraction of its size.

  Its averages may be faint where it is not itself: then it is read as it is.

  Args:
    open_image: opens the file.
    decoding: its size counts; None: no more than an idea of the pixels is wanted.
    frame: its number.
  """
  smallest = None if decoding is None else decoding.size
  with open_image() as image:
    if frame:
      image.seek(frame)
    deep = preprocess.is_deep(image)
    size = preprocess.upright_size(image)
    if decoding is None or smallest:
      side = 1 if smallest is None else 2 * max(smallest)
      image.draft(None, (side, side))  # JPEGs only, others ignore
    grey, drafted = preprocess.is_grey(image), image.format == 'JPEG'
    pixels = preprocess.stored_pixels(image)
  if deep:
    lower = _lower_bytes(open_image, frame, pixels)
    if lower is not None:
      pixels = pixels[..., :3].astype(np.int64) * 256 + lower
    return _Stored(pixels, grey, size, lower is None)
  if drafted and np.ptp(pixels) < FAINT * 255:
    with open_image() as image:
      pixels = preprocess.stored_pixels(image)
  return _Stored(pixels, grey, size, False)


def _lower_bytes(open_image: Open, frame: int, upper: np.ndarray) -> np.ndarray | None:
  """The lower bytes [H, W, 3] of 16-bit colours; None: they cannot be read.

  Args:
    open_image: opens the file.
    frame: its number.
    upper: their upper bytes, uint8 [H, W, 3 or 4]. Transparent pixels stay 8 bits: what
      is seen of them is mixed with a ground of 8 bits.
  """
  if upper.shape[-1] not in (3, 4) or upper.shape[-1] == 4 and upper[..., 3].min() < 255:
    return None
  with open_image() as image:
    if frame:
      image.seek(frame)
    if not preprocess.look_at_lower_bytes(image):
      return None
    return preprocess.stored_pixels(image)[..., :3]


def _shrunk(pixels: np.ndarray, grey: bool, decoding: Decoding) -> Picture:
  """Brings stored pixels [H, W, C] to their final size, on each possible ground.

  8 bits that fill their range stay 8 bits; others become floats, so that a range which
  is found later loses nothing.
  """
  kind = kind_of(pixels.dtype)
  known = decoding.ranges.get(kind)
  whole = kind == 'byte' and known in (None, CONTAINERS['byte'])
  if pixels.shape[-1] == 4:
    planes = [composited(pixels, 255, ground) for ground in decoding.grounds]
  else:
    planes = [pixels]
    whole = whole and np.ptp(pixels) >= FAINT * 255
  if grey:
    planes = [plane[..., :1] for plane in planes]
  if not whole:
    planes = [plane.astype(np.float32) for plane in planes]
    if known is not None:
      planes = [np.clip(plane, *known) for plane in planes]
  size, fits, edges = decoding.size, decoding.fits, edges_of(pixels, decoding)
  if size is None:
    return Picture(kind, tuple((plane,) for plane in planes))
  limits = (0, 255) if whole else (-np.inf, np.inf) if known is None else known
  if pixels.shape[0] * size[1] == pixels.shape[1] * size[0]:
    fits = fits[:1]  # of the same proportions
  inner = preprocess.inside(pixels.shape[0], pixels.shape[1], size)
  return Picture(kind, tuple(tuple(
      preprocess.resized(plane, inner, 'squash', *limits) if fit == 'pad' else
      preprocess.resized(plane, size, fit, *limits) for fit in fits)
      for plane in planes), edges)


def _extent(pixels: np.ndarray, percentile: float):
  """What Header says of stored pixels: kind, low, high, seen, sample.

  Raises:
    ValueError: NaN or infinite pixels.
  """
  kind = kind_of(pixels.dtype)
  if not np.isfinite(pixels).all():
    raise ValueError('NaN or infinite pixels')
  if pixels.shape[-1] == 4:
    seen = tuple(float(np.std(composited(pixels, 255, ground).astype(np.float64)))
                 for ground in ('black', 'white'))
    return kind, 0, 255, seen, None
  sample = None
  if percentile and kind != 'byte':
    sample = pixels.ravel()
    if sample.size > SAMPLE:
      sample = np.random.default_rng(0).choice(sample, SAMPLE)
  return kind, pixels.min().item(), pixels.max().item(), None, sample


def _coloured(pixels: np.ndarray) -> bool:
  """Whether red, green and blue of a pixel [H, W, C] differ by more than is faint."""
  if pixels.shape[-1] < 3:
    return False
  # Plane by plane: along three numbers NumPy takes twenty times as long.
  red, green, blue = (pixels[..., channel] for channel in range(3))
  most = np.maximum(np.maximum(red, green), blue)
  apart = most - np.minimum(np.minimum(red, green), blue)
  return bool(apart.max() > FAINT * most.max())


def find_rendering(names: Sequence[str], headers: Sequence[Header],
                   data: ml_collections.ConfigDict) -> tuple[Rendering, list[str]]:
  """Finds the range of the pixels, the ground of transparent ones, and how to resize.

  Args:
    names: of N files.
    headers: N.
    data: its options range, percentile, background, fit and ground.

  Returns:
    The `Rendering`, and notes.
  """
  ranges, notes = {}, []
  for kind in sorted({header.kind for header in headers}):
    own = [header for header in headers if header.kind == kind]
    low, high = min(h.low for h in own), max(h.high for h in own)
    samples = [h.sample for h in own if h.sample is not None]
    if samples:  # of all pictures together: one with nothing but noise decides nothing
      low, high = np.percentile(np.concatenate(samples),
                                (data.percentile, 100 - data.percentile)).tolist()
    if data.range:
      ranges[kind] = tuple(data.range)
      told = faint_note(low, high, ranges[kind])
      notes += [told] if told else []
    elif kind == 'real' or samples and low < high:
      ranges[kind] = (low, high if high > low else low + 1)
    else:
      ranges[kind], note = integer_range(int(low), int(high))
      notes += [note] if note else []
    if not data.range and not samples and kind != 'byte':
      told = few_decide_note(most_of(own), ranges[kind])
      notes += [told] if told else []
  background = data.background
  clear = [(name, header.seen) for name, header in zip(names, headers) if header.seen]
  if background == 'auto':
    sums = np.sum([seen for _, seen in clear], axis=0) if clear else (0, 0)
    background = best_background(*sums)
  fit = data.fit if data.fit != 'auto' else preprocess.fit_of(
      [header.border for header in headers if header.border is not None])
  found = Rendering(ranges, background, fit)
  if fit == 'pad' and data.ground == 'auto':
    found = dataclasses.replace(found, ground=shared_ground(headers, found))
  return (found,
          notes + dark_note(names, headers, ranges) + lost_on(names, headers, background)
          + narrowed_note(names, headers))


def most_of(headers: Sequence[Header]) -> Inner:
  """Where most pixels of files lie that are not of 8 bits."""
  lows, highs, outside = zip(*(h.most for h in headers if h.most is not None))
  return Inner(min(lows), max(highs), float(np.mean(outside)))


def shared_ground(headers: Sequence[Header],
                  rendering: Rendering) -> tuple[float, ...] | None:
  """The ground that pictures share, see `preprocess.ground_of`.

  Args:
    headers: of the files, which may be padded.
    rendering: how their pixels become levels.
  """
  colours = []
  for header in headers:
    low, high = rendering.range_of(header.kind) or (0, 1)  # all kinds of theirs have one
    for own in header.edges:
      which = 0 if len(own) == 1 else BACKGROUNDS.index(rendering.background)
      level = (own[which].astype(np.float64) - low) * (255 / (high - low))
      colours.append(np.broadcast_to(np.clip(level, 0, 255), 3))
  return preprocess.ground_of(np.array(colours))


def lost_on(names: Sequence[str], headers: Sequence[Header],
            background: str) -> list[str]:
  """Tells of transparent files of which a ground leaves nothing."""
  return lost_note([name for name, header in zip(names, headers)
                    if header.seen and not header.seen[background == 'white']],
                   background)


def narrowed_note(names: Sequence[str], headers: Sequence[Header]) -> list[str]:
  """Tells of files of whose 16-bit colours 8 bits are read."""
  found = [name for name, header in zip(names, headers) if header.narrowed]
  return [f'{len(found)} files store colours or transparency in 16 bits ({found[0]}), of '
          'which the upper 8 are read: where that is too coarse, save them without '
          'transparency, as PNG or TIFF files of 16-bit RGB or grey'] if found else []


def dark_note(names: Sequence[str], headers: Sequence[Header],
              ranges: Mapping[str, tuple[float, float]]) -> list[str]:
  """Tells of files that are nearly of one colour in a range that others fill.

  Args:
    names: of N files.
    headers: N.
    ranges: by the kind of number.
  """
  faint = [name for name, header in zip(names, headers)
           if faint_note(header.low, header.high, ranges[header.kind])]
  return some_faint_note(len(faint), len(names), 'files', *faint[:1])


def colours_note(names: Sequence[str], headers: Sequence[Header]) -> list[str]:
  """Tells of coloured files of which a fit to grey images sees the brightness alone."""
  found = [name for name, header in zip(names, headers) if header.coloured]
  return [f'{len(found)} of {len(names)} files are coloured ({found[0]}), but the fit '
          'was to grey images: their brightness alone is seen'] if found else []


def kept_to(rendering: Rendering, names: Sequence[str],
            headers: Sequence[Header]) -> tuple[Rendering, list[str]]:
  """The rendering of a fit for new files, by what these hold.

  Args:
    rendering: of the fit.
    names: of N files.
    headers: N.

  Returns:
    The `Rendering`, which has the kinds of number that the fit lacked, and notes of files
    whose pixels go beyond its range, or hardly use it, or vanish on its ground.

  Raises:
    UserError: nothing tells what range the pixels have.
  """
  notes = lost_on(names, headers, rendering.background) + narrowed_note(names, headers)
  ranges, faint = {}, []
  for kind in sorted({header.kind for header in headers}):
    own = [header for header in headers if header.kind == kind]
    low, high = min(h.low for h in own), max(h.high for h in own)
    rendering = rendering.for_others(kind, low, high)
    found = rendering.range_of(kind)
    if found is None or kind not in rendering.ranges and (
        low < found[0] or high > found[1]):
      first = next(n for n, header in zip(names, headers) if header.kind == kind)
      what = 'floats' if kind == 'real' else 'integers'
      raise errors.UserError(
          unknown_range(f'{len(own)} files have {what}', low, high, first))
    ranges[kind] = found
    faint.append(faint_note(low, high, found))
  if not any(faint):
    notes += dark_note(names, headers, ranges)
  beyond = [name for name, header in zip(names, headers)
            if header.low < ranges[header.kind][0]
            or header.high > ranges[header.kind][1]]
  if not beyond:
    return rendering, notes + list(filter(None, faint))
  return rendering, notes + [
      f'{len(beyond)} files have pixels beyond the range of the fit ({beyond[0]}): they '
      'are clipped (--config.data.range sets another one)']


def common_size(names: Sequence[str], headers: Sequence[Header],
                asked: tuple[int, int] | None, where: Any) -> tuple[int, int]:
  """Finds the size that all images have, or will be given.

  Args:
    names: of the images, for the error message, N >= 1.
    headers: N, one for each image.
    asked: (height, width) that images will be brought to; None: they will not be.
    where: what the error message calls the data.

  Returns:
    (height, width) in pixels.

  Raises:
    UserError: the sizes differ while none is asked for.
  """
  if asked is not None:
    return asked
  first = headers[0].size
  other = next((i for i, h in enumerate(headers) if h.size != first), None)
  if other is not None:
    (h0, w0), (h1, w1) = first, headers[other].size
    raise errors.UserError(
        f'images of {where} differ in size: {names[0]} is {h0}x{w0}, {names[other]} '
        f'is {h1}x{w1} (height x width); one size is needed; set '
        '--config.data.image_size=N to resize all to NxN')
  return first
