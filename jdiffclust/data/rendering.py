"""How stored pixels become grey levels.

A container says little of its pixels: microscopes store 12 bits in 16-bit files, masks
are 0 and 1 in 8 bits, floats have any range. So the range is looked at, once for all
images of a data set (one factor keeps their differences of brightness). What a fit has
found is kept with it, and new images are treated by the same rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# The kinds of numbers in which pixels are stored, and the range of their container.
CONTAINERS = {'byte': (0, 255), 'wide': (0, 65535)}
BITS = (8, 10, 12, 14, 16)
# Integers, the truth values among them.
COUNTED = (*CONTAINERS, 'truth')
# Images that span less than this share of their range are stretched to it.
FAINT = .1
# Most pixels: all but this percentage at either end; and so many are looked at.
TAIL, SAMPLE = .1, 2**20
# Black and white as programs store them.
USUAL = ((0, 1), (-1, 1), (0, 255), (0, 65535))
BACKGROUNDS = ('black', 'white')


@dataclasses.dataclass(frozen=True)
class Rendering:
  """How stored pixels become grey levels.

  Attributes:
    ranges: by the kind of number, 'byte', 'wide' (integers of more than 8 bits), 'real'
      or 'truth' (truth values): the stored values that become the lowest and the highest
      level. A kind that is not named has the range of its container.
    background: what is seen through transparent pixels: 'black' or 'white'.
    fit: how images of other proportions are resized, see `preprocess.resized`.
    ground: what surrounds padded ones, three numbers of 0..255; None: each one's own, see
      `preprocess.framed`.
    in_levels: whether floats of an array become 256 levels, too: those of a fit to
      images that have levels.
    beyond: whether floats of an array keep what lies beyond their range: of a fit that
      has cut off nothing of its own; and noise, which is no part of an image.
  """

  ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
  background: str = 'black'
  fit: str = 'crop'
  ground: tuple[float, ...] | None = None
  in_levels: bool = False
  beyond: bool = False

  def range_of(self, kind: str) -> tuple[float, float] | None:
    """The range of a kind of number; None: it is not known ('real' only)."""
    found = self.ranges.get(kind, CONTAINERS.get(kind))
    return None if found is None else (found[0], found[1])

  def fit_for(self, asked: str) -> str:
    """How images of other proportions are resized, data.fit being what is asked for."""
    return self.fit if asked == 'auto' else asked

  def counted(self) -> list[tuple[float, float]]:
    """The ranges of the kinds of integers that are named."""
    return [(self.ranges[kind][0], self.ranges[kind][1])
            for kind in COUNTED if kind in self.ranges]

  @property
  def whole(self) -> tuple[float, float]:
    """The range of the integers; of several kinds the one that goes furthest."""
    return max(self.counted(), key=lambda found: found[1], default=CONTAINERS['byte'])

  def for_others(self, kind: str, low: float, high: float) -> Rendering:
    """The rendering of a fit for new images, of a kind of number that it may lack.

    Integers that lie in the range of the fit's are of the same units, whatever type
    holds them: 0..16 in 64 bits, of a fit to 0..16 in 8 bits. Others have the range of
    their container; so have 8 bits for which a range beyond these would be read.

    Args:
      kind: of the new images.
      low: their smallest pixel.
      high: their largest.
    """
    if kind not in CONTAINERS or kind in self.ranges:
      return self
    top = CONTAINERS[kind][1]
    found = next((own for own in self.counted()
                  if own[0] <= low and high <= own[1] <= top), None)
    return self if found is None else dataclasses.replace(
        self, ranges={**self.ranges, kind: found})

  def to_json(self) -> dict[str, Any]:
    """What JSON can hold."""
    return {'ranges': {kind: list(found) for kind, found in self.ranges.items()},
            'background': self.background, 'fit': self.fit,
            'ground': None if self.ground is None else list(self.ground),
            'beyond': self.beyond}


def from_json(stored: Mapping[str, Any] | None) -> Rendering | None:
  """The `Rendering` of what `to_json` returned; None of None."""
  if stored is None:
    return None
  ground = stored.get('ground')
  return Rendering({kind: tuple(found) for kind, found in stored['ranges'].items()},
                   stored['background'], stored.get('fit', 'crop'),
                   None if ground is None else tuple(ground),
                   # Before that was kept, nothing of other images was cut off.
                   beyond=stored.get('beyond', True))


def asked_for(rendering: Rendering | None, asked, background: str,
              fit: str) -> Rendering | None:
  """The rendering of a fit, but for what is asked for now.

  Args:
    rendering: of the fit, or None.
    asked: data.range of the new images, (low, high) or ().
    background, fit: the options of these names; 'auto': as in the fit.
  """
  if rendering is None:
    return None
  if asked:
    rendering = dataclasses.replace(
        rendering, ranges=dict.fromkeys((*CONTAINERS, 'real'), tuple(asked)))
  rendering = dataclasses.replace(rendering, fit=rendering.fit_for(fit))
  return rendering if background == 'auto' else dataclasses.replace(
      rendering, background=background)


def kind_of(dtype: np.dtype) -> str:
  """The kind of number of a type of array: 'byte', 'wide' or 'real'."""
  if np.issubdtype(dtype, np.floating):
    return 'real'
  return 'byte' if dtype in (np.uint8, np.bool_) else 'wide'


def integer_range(low: int, high: int) -> tuple[tuple[int, int], str]:
  """The range of stored integers: of the bits that they use, or their own.

  Args:
    low: the smallest pixel of all images.
    high: the largest.

  Returns:
    The values that become black and white, and what to tell the user: '' if the
    container is filled.
  """
  bits = next((b for b in BITS if high < 2**b), None)
  top = high if bits is None else 2**bits - 1
  if low < 0:
    return (low, high), (f'the pixels are integers from {low} to {high}: they are scaled '
                         'from this range')
  if low < high < FAINT * top + low:
    bottom = 0 if low < FAINT * high else low
    return (bottom, high), (
        f'all pixels lie in {low}..{high}, under a tenth of 0..{top}: they are scaled '
        f'from {bottom}..{high} (--config.data.range="(0,{top})" leaves them as stored)')
  return (0, top), ''


def unknown_range(what: str, low: float, high: float, first: str = '',
                  usual: tuple[float, float] | None = None) -> str:
  """What to tell of new pixels of a kind whose range a fit does not tell.

  Args:
    what: they are, such as 'x.npy: floats'.
    low: the smallest of them.
    high: the largest.
    first: an image that has such pixels.
    usual: what is likely to be black and white in pixels that go beyond all that is
      usual, such as by noise; None: their own range.
  """
  own = _usual(low, high)
  usual = usual if usual is not None and own == (low, high) else own
  shown = f' ({first})' if first else ''
  return (f'{what} from {low:g} to {high:g}{shown}, but the fit had none from which '
          'their range is known: set --config.data.range to what is black and white in '
          f'them, such as --config.data.range="({usual[0]:g},{usual[1]:g})"')


def _usual(low: float, high: float) -> tuple[float, float]:
  """What is likely to be black and white in pixels of a range; else that range.

  It is not their own one: a faint picture would become a bright one.
  """
  return next((known for known in USUAL if known[0] <= low and high <= known[1]),
              (low, high))


def look_scaled(low: float, high: float, known: tuple[float, float]) -> bool:
  """Whether floats go from 0 to 1, as programs scale them, in a range such as 0..255.

  Args:
    low: the smallest.
    high: the largest.
    known: what is black and white as far as is known.
  """
  return known[0] <= 0 <= low <= high <= 1 < known[1]


def unknown_floats(what: str, low: float, high: float, whole: tuple[float, float]) -> str:
  """What to tell of an array of floats where a fit had integers alone.

  Args:
    what: they are, such as 'x.npy: floats'.
    low: the smallest of them.
    high: the largest.
    whole: the range of the fit's integers.
  """
  black, white = _usual(low, high)
  scale, known = (whole[1] - whole[0]) / (white - black or 1), 'x'
  if black != 0:
    known = f"(x {'-' if black > 0 else '+'} {abs(black):g})"
  if scale != 1:
    known = f'{known} * {scale:g}'
  if whole[0] != 0:
    known = f"{known} {'+' if whole[0] > 0 else '-'} {abs(whole[0]):g}"
  return (f'{what} from {low:g} to {high:g}, but the fit had whole numbers of '
          f'{whole[0]:g} to {whole[1]:g}: say what is black and white in yours, by such '
          f'as --config.data.range="({black:g},{white:g})", or give whole numbers, such '
          f'as np.rint({known})')


def faint_note(low: float, high: float, given: tuple[float, float]) -> str:
  """What to tell of images that hardly use a range that was given.

  Args:
    low: the smallest pixel of all images.
    high: the largest.
    given: the range, by option or of a fit.

  Returns:
    '' if they span a tenth of it, or are all of one value.
  """
  if not 0 < high - low < FAINT * (given[1] - given[0]):
    return ''
  return (f'all pixels lie in {low:g}..{high:g}, under a tenth of the range {given[0]:g} '
          f'to {given[1]:g} that is given: the images are faint (config.data.range)')


class Inner(NamedTuple):
  """Where most pixels lie.

  Attributes:
    low, high: of all but a few at either end, and of those that are least or largest if
      half of the range is between them and all others.
    outside: the share of the others.
  """

  low: float
  high: float
  outside: float


def inner(pixels: np.ndarray, at_most: int = SAMPLE) -> Inner:
  """Where most of some pixels lie, of any shape; so many are looked at, evenly spaced."""
  some = pixels.ravel()[::max(1, pixels.size // at_most)]
  least, most = float(some.min()), float(some.max())
  rest = some[(some > least) & (some < most)]
  if not rest.size:
    return Inner(least, most, 0.)
  low, high = map(float, np.percentile(some, (TAIL, 100 - TAIL)))
  if rest.min() - least > (most - least) / 2:
    low = max(low, float(rest.min()))
  if most - rest.max() > (most - least) / 2:
    high = min(high, float(rest.max()))
  return Inner(low, high, float(np.mean((some < low) | (some > high))))


def few_decide_note(most: Inner, given: tuple[float, float]) -> str:
  """What to tell of a range that is as large as it is because of a few pixels.

  Args:
    most: where the others lie.
    given: the range.

  Returns:
    '' if they use a tenth of it, are of one value, or are not three quarters of all.
  """
  span = most.high - most.low
  if not 0 < span < FAINT * (given[1] - given[0]) or most.outside > .25:
    return ''
  share = 'nearly all' if most.outside < .01 else f'{1 - most.outside:.0%} of the'
  return (f'{share} pixels lie in {most.low:g}..{most.high:g}, under a tenth of '
          f'{given[0]:g}..{given[1]:g}; the others decide the scale: if these are '
          'faults, or stand for no data, try --config.data.percentile=.1, or '
          f'--config.data.range="({most.low:g},{most.high:g})"')


def some_faint_note(count: int, of: int, what: str, first: str = '') -> list[str]:
  """What to tell of images that hardly use a range which others fill.

  Args:
    count: how many they are.
    of: the number of all images.
    what: images are called.
    first: the name of the first of them.

  Returns:
    [] if none are, or all.
  """
  return [f'{count:,} of {of:,} {what} span less than a tenth of the range of all '
          f'({first}), and are nearly of one colour: if their pixels are of other units, '
          'such as masks of 0 and 1 among photographs, save them in those of the '
          'others'] if 0 < count < of else []


def to_levels(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
  """Scales stored pixels to 0..255; what lies outside of the range is clipped.

  Args:
    pixels: numbers of any shape.
    low: the value that becomes 0.
    high: the value that becomes 255; above `low`.

  Returns:
    uint8 of the same shape.
  """
  if pixels.dtype == np.uint8 and (low, high) == CONTAINERS['byte']:
    return pixels
  scaled = (pixels.astype(np.float64) - low) * (255 / (high - low))
  return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def composited(images: np.ndarray, opaque: float, background: str) -> np.ndarray:
  """Lays images with an alpha channel on a ground; leaves other images as they are.

  Args:
    images: [..., C]; the alpha channel is the last one if C is 4. 0 is black.
    opaque: the alpha of an opaque pixel, and white: 255 for 8 bits, 1 for floats.
    background: 'black' or 'white'.

  Returns:
    [..., 3] of the same type if C is 4, rounded if that is an integer type; else the
    images.
  """
  if images.shape[-1] < 4:
    return images
  share = images[..., 3:] / np.float32(opaque)
  colour = images[..., :3] * share
  if background == 'white':
    colour = colour + opaque * (1 - share)
  if np.issubdtype(images.dtype, np.integer):
    colour = np.rint(colour)
  return colour.astype(images.dtype)


def contrast(images: np.ndarray, opaque: float, background: str) -> float:
  """The mean over images [N, H, W, 4] of the standard deviation of what is seen."""
  return float(np.mean([np.std(composited(image, opaque, background).astype(np.float64))
                        for image in images])) if len(images) else 0.


def lost_note(lost: Sequence[str], background: str) -> list[str]:
  """What to tell of transparent images of which a ground leaves nothing.

  Args:
    lost: their names.
    background: the ground.
  """
  return [f'{len(lost)} transparent images are one colour on {background} ({lost[0]}): '
          'try another --config.data.background'] if lost else []


def best_background(on_black: float, on_white: float) -> str:
  """The ground against which pictures have more contrast; black if both are equal."""
  return 'white' if on_white > on_black else 'black'
