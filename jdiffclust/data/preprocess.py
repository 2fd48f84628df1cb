"""Pure functions between a stored image and the array the model sees.

H and W are height and width; C is the number of channels, 1 (grey) or 3 (red, green,
blue). Images are uint8 grey levels or float32 in [-1, 1]. Each function keeps the type
it is given, except `stored_pixels`, which reads a Pillow image.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from jdiffclust.data.rendering import FAINT, to_levels

CROPPED = .1  # the share of a picture beyond which its loss is told of
# The share of a border that is of one colour from which on there is a ground, which can
# be gone on with; and images of an array of which that is asked.
PLAIN, LOOKED_AT = .7, 64
ENLARGED = 2  # times that a picture is enlarged, beyond which that is told of
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of red, green and blue
_GREY_MODES = ('1', 'L', 'LA', 'La', 'I', 'F')
# How Pillow calls colours of 16 bits, by the order of their bytes.
_DEEP = re.compile('(RGBA?;16)([BLN])')
_OTHER_ORDER = {'B': 'L', 'L': 'B', 'N': 'B' if sys.byteorder == 'little' else 'L'}


def is_grey(image: Image.Image) -> bool:
  """Tells whether a Pillow image has no colour, by its mode and not by its pixels.

  Args:
    image: an opened Pillow image; only its header is needed.

  Returns:
    True for black and white, for 8, 16 and 32-bit grey and for floats, with or without
    alpha.
  """
  return image.mode in _GREY_MODES or image.mode.startswith('I;16')


def upright_size(image: Image.Image) -> tuple[int, int]:
  """Finds the size that an image has after its EXIF orientation is applied.

  Args:
    image: an opened Pillow image; only its header is needed.

  Returns:
    (height, width) in pixels.
  """
  width, height = image.size
  turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # 5..8 swap the axes
  if image.format == 'TIFF':  # of which Pillow turns the size, when it opens them
    turned = turned and image.size == _tagged_size(image)
  return (width, height) if turned else (height, width)


def _tagged_size(image: Image.Image) -> tuple[int, int]:
  """(width, height) of a TIFF picture as it is stored."""
  tags = getattr(image, 'tag_v2')
  return tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]


def opened(path: str | os.PathLike) -> Image.Image:
  """Opens an image file, so that its pixels are read as they lie there.

  Pillow maps uncompressed TIFF files into memory by the size that they have once they
  are turned upright: the rows of those that lie on their side would be cut wrongly.

  Args:
    path: of the file.

  Returns:
    The Pillow image, of which only the header is read.
  """
  image = Image.open(path)
  if image.format == 'TIFF':
    image.filename = ''  # what has no name is read, not mapped
  return image


def stored_pixels(image: Image.Image) -> np.ndarray:
  """Reads a Pillow image (the frame it stands at) as it is stored.

  The EXIF orientation is applied.

  Args:
    image: an opened Pillow image of any mode.

  Returns:
    [H, W, C]: C 1 for a grey image, 3 for any other, 4 where pixels are transparent
    (colour repeated for grey). uint8; int64 for integers of more bits; float64.
    Of 16-bit colours the upper 8 bits, as Pillow has them (`is_deep`).
  """
  grey, inverted, unsigned = is_grey(image), _is_inverted(image), _is_unsigned(image)
  image = ImageOps.exif_transpose(image)
  if image.mode == 'F':
    return np.asarray(image, np.float64)[..., None]
  if image.mode.startswith('I'):
    pixels = np.asarray(image).astype(np.int64)[..., None]
    pixels = pixels & 0xFFFFFFFF if unsigned else pixels
    return 2**16 - 1 - pixels if inverted else pixels
  if image.has_transparency_data:
    return np.asarray(image.convert('RGBA'))
  pixels = np.asarray(image.convert('L' if grey else 'RGB'))
  return pixels[..., None] if grey else pixels


def _is_inverted(image: Image.Image) -> bool:
  """Whether 0 is white in a picture of 16 bits; Pillow heeds it in those of 8."""
  return image.format == 'TIFF' and image.mode.startswith('I;16') and getattr(
      image, 'tag_v2').get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def _is_unsigned(image: Image.Image) -> bool:
  """Whether a TIFF's numbers of 32 bits have no sign, as Pillow's have."""
  tags = getattr(image, 'tag_v2', {}) if image.format == 'TIFF' else {}
  return (image.mode == 'I' and tags.get(TiffImagePlugin.BITSPERSAMPLE) == (32,)
          and tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)) in (1, (1,)))


# Of these NumPy has what a person means by the picture; of a palette, say, its numbers.
AS_THEY_ARE = ('1', 'L', 'RGB', 'RGBA', 'F')


def arrays_of(images):
  """A list with Pillow images whose pixels are no colours as one of arrays.

  Args:
    images: anything. Images of a palette, CMYK, HSV and such become grey or RGB, as in
      files (`stored_pixels`); all else stays what it is.
  """
  def of(image):
    if (not isinstance(image, Image.Image) or image.mode in AS_THEY_ARE
        or image.mode.startswith('I')):
      return image
    pixels = stored_pixels(image)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
  return list(map(of, images)) if isinstance(images, (list, tuple)) else images


def is_deep(image: Image.Image) -> bool:
  """Tells whether a picture stores more bits than Pillow reads of it: 16-bit colours.

  Args:
    image: a Pillow image, just opened: asked for its EXIF, PNG files read their pixels.
  """
  if image.mode.startswith(('I', 'F')):
    return False
  return any(';16' in _raw_mode(tile) or tile[0] == 'ppm' and tile[3][1] > 255
             for tile in _tiles_of(image))


def _tiles_of(image: Image.Image) -> list[Any]:
  """How Pillow is going to read the pixels of a file; [] of images in memory."""
  return getattr(image, 'tile', [])


def _raw_mode(tile) -> str:
  """What Pillow calls the stored pixels of a tile of an image file; '' if it does not."""
  raw = tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3]
  return raw if isinstance(raw, str) else ''


def look_at_lower_bytes(image: Image.Image) -> bool:
  """Has Pillow read the lower byte of each 16-bit colour, where it takes the upper one.

  It takes one byte of two, by the order in which they are stored: told the other order,
  it takes the other byte.

  Args:
    image: as of `is_deep`.

  Returns:
    Whether there are such colours, all of whose bytes can be read so.
  """
  tiles = _tiles_of(image)
  if not tiles or not all(_DEEP.fullmatch(_raw_mode(tile)) for tile in tiles):
    return False
  for number, tile in enumerate(tiles):
    raw = _DEEP.sub(lambda found: found[1] + _OTHER_ORDER[found[2]], _raw_mode(tile))
    args = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
    tiles[number] = tile._replace(args=args)
  return True


def size_of(image_size: int | tuple[int, int]) -> tuple[int, int] | None:
  """(height, width) in pixels of the option data.image_size; None of 0."""
  if isinstance(image_size, int):
    return (image_size, image_size) if image_size else None
  height, width = image_size
  return height, width


def resized(image: np.ndarray, size: tuple[int, int], fit: str, lowest: float,
            highest: float, ground: Sequence[float] | None = None) -> np.ndarray:
  """Brings an image to a size.

  Interpolation is bicubic with antialiasing; it can overshoot the range of the pixels, so
  the result is clipped to that range.

  Args:
    image: [H, W, C], uint8 levels or float32.
    size: (height, width) of the result in pixels, each >= 1.
    fit: where the proportions are others: 'crop' keeps the middle that fits; 'pad' keeps
      all, and fills the rest, see `framed`; 'squash' changes the proportions.
    lowest: the smallest value that a pixel may have.
    highest: the largest.
    ground: of `framed`.

  Returns:
    [height, width, C] of the same type; C may become 3, as of `framed`.
  """
  height, width, channels = image.shape
  if (height, width) == tuple(size):
    return image
  if fit == 'pad':
    inner = resized(image, inside(height, width, size), 'squash', lowest, highest)
    return framed(inner, border_colour(image), size, ground, lowest, highest)
  box = _box(height, width, size, fit)
  planes = [
      np.asarray(Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
          (size[1], size[0]), Image.Resampling.BICUBIC, box=box))
      for c in range(channels)]
  return np.clip(np.stack(planes, -1), lowest, highest).astype(image.dtype)


def inside(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
  """The size at which a whole image fits into another one, in its own proportions."""
  if height * size[1] <= width * size[0]:  # the image is lower, of its width
    return max(1, round(size[1] * height / width)), size[1]
  return size[0], max(1, round(size[0] * width / height))


def _box(height: int, width: int, size: tuple[int, int],
         fit: str) -> tuple[float, float, float, float]:
  """The part of an image that is kept: left, top, right, bottom."""
  low = height * size[1] <= width * size[0]
  box_height, box_width = height, width
  if fit == 'crop':
    box_height = height if low else width * size[0] / size[1]
    box_width = height * size[1] / size[0] if low else width
  left, top = (width - box_width) / 2, (height - box_height) / 2
  return left, top, left + box_width, top + box_height


def cropped(sizes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """The share of pictures [N] that is lost where the middle is kept.

  Args:
    sizes: (height, width), [N, 2].
    size: (height, width) that they are brought to.
  """
  ratio = sizes[:, 1] / sizes[:, 0] / (size[1] / size[0])
  return 1 - np.minimum(ratio, 1 / ratio)


def share_of(pixels: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
  """How much some pixels of an image weigh in each pixel of it when it is resized.

  Args:
    pixels: which, bool [H, W].
    size, fit: of `resized`.

  Returns:
    [height, width]: the sum of the absolute weights of these pixels, 0 where none of them
    counts. With fit 'pad', 0 in the frame.
  """
  height, width = pixels.shape
  if (height, width) == tuple(size):
    return pixels.astype(np.float64)
  if fit == 'pad':
    inner = inside(height, width, size)
    top, left = ((size[i] - inner[i]) // 2 for i in (0, 1))
    found = np.zeros(size)
    found[top:top + inner[0], left:left + inner[1]] = share_of(pixels, inner, 'squash')
    return found
  left, top, right, bottom = _box(height, width, size, fit)

  def weights(count, new, first, last):
    """Those of `resized`, along one axis, [new, count]: of an image of unit vectors."""
    unit = Image.fromarray(np.eye(count, dtype=np.float32))
    return np.abs(np.asarray(unit.resize((count, new), Image.Resampling.BICUBIC,
                                         box=(0, first, count, last))))

  return (weights(height, size[0], top, bottom) @ pixels.astype(np.float64)
          @ weights(width, size[1], left, right).T)


def reduced(images: np.ndarray, longest: int) -> np.ndarray:
  """Images with no side above a number of pixels, by antialiased interpolation.

  Args:
    images: [n, H, W, C], float32.
    longest: pixels.

  Returns:
    [n, h, w, C]; the images themselves if they are that small.
  """
  height, width = small_size(images.shape[1:3], longest)
  if (height, width) == images.shape[1:3]:
    return images
  return np.asarray(jax.image.resize(
      images, (len(images), height, width, images.shape[3]), 'linear'))


def small_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
  """A size (height, width) in its proportions, reduced to no side above `longest`."""
  factor = min(1, longest / max(size))
  height, width = (max(1, round(factor * side)) for side in size)
  return height, width


def finer_size(size: tuple[int, int], longest: int) -> tuple[int, int] | None:
  """The largest whole multiple of a size with no side above `longest`; None: itself."""
  factor = longest // max(size)
  return (factor * size[0], factor * size[1]) if factor > 1 else None


def within(size: tuple[int, int], stored: tuple[int, int],
           least: tuple[int, int]) -> tuple[int, int] | None:
  """A size of the proportions of `least` of which no side is above the others'.

  Args:
    size: (height, width) wanted.
    stored: of the images as they are: more would be made up.
    least: the size below which there is no need of another one.

  Returns:
    (height, width), or None if it is not a quarter larger than `least`.
  """
  factor = min(min(size[i], stored[i]) / least[i] for i in (0, 1))
  return (round(factor * least[0]), round(factor * least[1])) if factor >= 1.25 else None


def spread(rows, most: int) -> np.ndarray:
  """Some rows from all over others, [n]: `most` at most."""
  rows, number = np.asarray(rows), min(most, len(rows))
  return rows[np.unique(np.linspace(0, len(rows) - 1, number, dtype=int))]


def fit_of(borders: Sequence[float]) -> str:
  """How pictures of other proportions are resized, by those that were looked at.

  What lies on a ground, as drawings do, silhouettes and things without a background,
  can be shown whole on more of it; of a photograph the middle is kept.

  Args:
    borders: `plain_border` of each; none: 'crop'.

  Returns:
    'pad' if half of them or more have a border of one colour, else 'crop'.
  """
  return 'pad' if len(borders) and np.median(borders) >= PLAIN else 'crop'


def plain_border(image: np.ndarray) -> float:
  """The share of an image's border that has its median colour.

  Args:
    image: [H, W, 1 or 3].

  Returns:
    The share of pixels that differ from it by no more than `FAINT` of the image's range.
  """
  border = border_of(image).astype(np.float64)
  apart = np.abs(border - np.median(border, axis=0)).max(axis=1)
  return float(np.mean(apart <= FAINT * (float(image.max()) - float(image.min()))))


def border_of(image: np.ndarray) -> np.ndarray:
  """The pixels [n, C] of an image's border, its corners twice."""
  return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def border_colour(image: np.ndarray) -> np.ndarray:
  """The median colour [C] of an image's border, in the image's units."""
  return np.median(border_of(image), axis=0)


def ground_of(colours: np.ndarray) -> tuple[float, ...] | None:
  """The ground that the pictures of a data set share, by their borders.

  A set has a ground as a border has one: the median, if so many have it.

  Args:
    colours: `border_colour` of each, [n, 3], from 0 (black) to 255.

  Returns:
    Three numbers of 0..255; None: they have no ground in common.
  """
  if not len(colours):
    return None
  ground = np.median(colours, axis=0)
  near = np.abs(colours - ground).max(axis=1) <= FAINT * 255
  return tuple(ground.tolist()) if np.mean(near) >= PLAIN else None


def framed(inner: np.ndarray, own: np.ndarray, size: tuple[int, int],
           ground: Sequence[float] | None, lowest: float = 0,
           highest: float = 255) -> np.ndarray:
  """Lays an image in the middle of a larger one, of one colour.

  Args:
    inner: the image, [h, w, C].
    own: the colour [C] of its border, by which it goes on where nothing else is known.
    size: (height, width) of the result, neither below the image's.
    ground: that of the set which the image is of, see `ground_of`. An image whose border
      is about of that colour goes on by its own, without a seam; any other, such as one
      that fills its frame, lies on it. None: each goes on by its own.
    lowest: the value of black.
    highest: of white.

  Returns:
    [height, width, C] of the same type; of a grey image on a coloured ground C is 3.
  """
  colour = np.asarray(own, np.float64)
  if ground is not None:
    common = lowest + np.asarray(ground) * ((highest - lowest) / 255)
    if np.abs(colour - common).max() > FAINT * (highest - lowest):
      same = len(colour) == 1 and np.ptp(common) == 0
      colour = common[:1] if same else common
  if np.issubdtype(inner.dtype, np.integer):
    colour = np.rint(colour)
  found = np.broadcast_to(colour, (*size, len(colour))).astype(inner.dtype)
  top, left = ((size[i] - inner.shape[i]) // 2 for i in (0, 1))
  found[top:top + inner.shape[0], left:left + inner.shape[1]] = inner
  return found


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
  """Converts between grey and colour: grey is repeated, colour becomes luma.

  Args:
    images: [..., H, W, C], C 1 or 3.
    channels: 1 or 3.

  Returns:
    [..., H, W, channels] of the same type.
  """
  if images.shape[-1] == channels:
    return images
  if channels == 3:
    return np.repeat(images, 3, axis=-1)
  luma = images @ np.asarray(LUMA, np.float32)
  if np.issubdtype(images.dtype, np.integer):
    luma = np.rint(luma)
  return luma.astype(images.dtype)[..., None]


def pad(images: np.ndarray, padding: int, lowest: float) -> np.ndarray:
  """Adds a border of the lowest value on all four sides.

  Args:
    images: [..., H, W, C].
    padding: width of the border in pixels, >= 0.
    lowest: the value of its pixels: 0 for levels, -1 for floats.

  Returns:
    [..., H + 2 padding, W + 2 padding, C] of the same type.
  """
  if not padding:
    return images
  border = (padding, padding)
  widths = ((0, 0),) * (images.ndim - 3) + (border, border, (0, 0))
  return np.pad(images, widths, constant_values=lowest)


def finish(image: np.ndarray, size: tuple[int, int] | None, fit: str, channels: int,
           padding: int, levels: int | None, few: int | None = None,
           ground: Sequence[float] | None = None) -> np.ndarray:
  """Resizes a stored image, then converts its channels, then pads it, for the model.

  Args:
    image: [H, W, C], uint8 levels or, where `levels` is None, float32 in [-1, 1].
    size: (height, width) in pixels to resize to; None leaves the size as it is.
    fit: how, see `resized`.
    channels: 1 or 3.
    padding: width in pixels of the border that is added after resizing.
    levels: number of grey levels; None: the pixels are real numbers.
    few: the number of levels that the image has before, if it is another one.
    ground: of `framed`.

  Returns:
    [H' + 2 padding, W' + 2 padding, channels] of the same type, H', W' being `size`, or
    those of the image.
  """
  lowest, highest = (-1, 1) if levels is None else (0, levels - 1)
  if few:
    image = to_levels(image, 0, few - 1)
  if size is not None:
    image = resized(image, size, fit, lowest, highest, ground)
  return pad(to_channels(image, channels), padding, lowest)
