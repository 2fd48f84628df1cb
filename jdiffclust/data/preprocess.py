"""Pure functions between a stored image and the array the model sees.

H and W are height and width; C is the number of channels, 1 (grey) or 3 (red, green,
blue). Images are uint8 grey levels or float32 in [-1, 1]. Each function keeps the type
it is given, except `pixels_of`, which reads a Pillow image as 8-bit levels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from jdiffclust.data.rendering import Rendering, composited, kind_of, to_levels

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of red, green and blue
_GREY_MODES = ('1', 'L', 'LA', 'La', 'I', 'F')


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
  turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5..8 swap the axes
  return (width, height) if turned else (height, width)


def stored_pixels(image: Image.Image) -> np.ndarray:
  """Reads a Pillow image (the frame it stands at) as it is stored.

  The EXIF orientation is applied.

  Args:
    image: an opened Pillow image of any mode.

  Returns:
    [H, W, C]: C 1 for a grey image, 3 for any other, 4 where pixels are transparent
    (colour repeated for grey). uint8; int64 for integers of more bits; float64.
  """
  grey = is_grey(image)
  image = ImageOps.exif_transpose(image)
  if image.mode == 'F':
    return np.asarray(image, np.float64)[..., None]
  if image.mode.startswith('I'):
    return np.asarray(image).astype(np.int64)[..., None]
  if image.has_transparency_data:
    return np.asarray(image.convert('RGBA'))
  pixels = np.asarray(image.convert('L' if grey else 'RGB'))
  return pixels[..., None] if grey else pixels


def pixels_of(image: Image.Image, rendering: Rendering = Rendering()) -> np.ndarray:
  """Reads a Pillow image (the frame it stands at) as 8-bit levels.

  Args:
    image: an opened Pillow image of any mode.
    rendering: by default the whole range of 8 and of 16 bits, and transparent pixels on
      black, which is also the value of padding.

  Returns:
    uint8 [H, W, 1] for a grey image, [H, W, 3] for any other.

  Raises:
    ValueError: its pixels have no known scale: floats of no known range, or integers
      beyond 16 bits.
  """
  grey, pixels = is_grey(image), stored_pixels(image)
  kind = kind_of(pixels.dtype)
  found = rendering.range_of(kind)
  if found is None:
    raise ValueError('float pixels have no known range; set --config.data.range')
  if kind == 'wide' and 'wide' not in rendering.ranges and (
      pixels.min() < 0 or pixels.max() > 65535):
    raise ValueError(f'pixels from {pixels.min()} to {pixels.max()}; 0 to 65535 (16 '
                     'bits) are allowed; set --config.data.range')
  if kind == 'byte':
    pixels = composited(pixels, 255, rendering.background)
  levels = to_levels(pixels, *found)
  return levels[..., :1] if grey else levels


def resize_and_crop(image: np.ndarray, size: int, lowest: float,
                    highest: float) -> np.ndarray:
  """Scales the largest centred square of an image to size x size.

  The shorter side becomes `size`, and the middle of the longer one is kept, so that
  proportions stay. Interpolation is bicubic with antialiasing; it can overshoot the
  range of the pixels, so the result is clipped to that range.

  Args:
    image: [H, W, C], uint8 levels or float32.
    size: side of the result in pixels, >= 1.
    lowest: the smallest value that a pixel may have.
    highest: the largest.

  Returns:
    [size, size, C] of the same type.
  """
  height, width, channels = image.shape
  if (height, width) == (size, size):
    return image
  side = min(height, width)
  left, top = (width - side) / 2, (height - side) / 2
  box = (left, top, left + side, top + side)
  planes = [
      Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
          (size, size), Image.Resampling.BICUBIC, box=box)
      for c in range(channels)]
  return np.clip(np.stack(planes, -1), lowest, highest).astype(image.dtype)


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


def finish(image: np.ndarray, size: int, channels: int, padding: int,
           levels: int | None, few: int | None = None) -> np.ndarray:
  """Resizes a stored image, then converts its channels, then pads it, for the model.

  Args:
    image: [H, W, C], uint8 levels or, where `levels` is None, float32 in [-1, 1].
    size: side in pixels to resize to; 0 leaves the size as it is.
    channels: 1 or 3.
    padding: width in pixels of the border that is added after resizing.
    levels: number of grey levels; None: the pixels are real numbers.
    few: the number of levels that the image has before, if it is another one.

  Returns:
    [H', W', channels] of the same type; H' = size + 2 padding, or H + 2 padding if size
    is 0, and W' likewise.
  """
  lowest, highest = (-1, 1) if levels is None else (0, levels - 1)
  if few:
    image = to_levels(image, 0, few - 1)
  if size:
    image = resize_and_crop(image, size, lowest, highest)
  return pad(to_channels(image, channels), padding, lowest)
