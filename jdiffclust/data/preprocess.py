"""Pure functions between a stored image and the array the model sees.

Shapes: H, W height and width; C channels, 1 (grey) or 3 (red, green, blue).
Images are uint8 grey levels or float32 in [-1, 1]; each function keeps the type
it is given, except `pixels_of`, which reads a Pillow image as 8-bit levels.
"""

import numpy as np
from PIL import Image, ImageOps

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of red, green and blue
_GREY_MODES = ('1', 'L', 'LA', 'La', 'I', 'F')


def is_grey(image):
  """Tells whether a Pillow image has no colour: its mode, not its pixels.

  Args:
    image: an opened Pillow image; only its header is needed.

  Returns:
    True for black and white, 8, 16 and 32-bit grey, with or without alpha.
  """
  return image.mode in _GREY_MODES or image.mode.startswith('I;16')


def upright_size(image):
  """Finds the size an image has once its EXIF orientation is applied.

  Args:
    image: an opened Pillow image; only its header is needed.

  Returns:
    (height, width) in pixels.
  """
  width, height = image.size
  turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5..8 swap the axes
  return (width, height) if turned else (height, width)


def pixels_of(image):
  """Reads a Pillow image (the first frame, if it moves) as 8-bit levels.

  The EXIF orientation is applied, transparent pixels are composited on black
  (the value padding has too), and 16-bit grey is divided by 257, which maps
  0..65535 onto 0..255.

  Args:
    image: an opened Pillow image of any mode.

  Returns:
    uint8 [H, W, 1] for a grey image, [H, W, 3] for any other.

  Raises:
    ValueError: its pixels have no known scale (float, or beyond 16 bits).
  """
  grey = is_grey(image)
  image = ImageOps.exif_transpose(image)
  if image.mode == 'F':
    raise ValueError('float pixels have no known range; store them in an .npy file')
  if image.mode.startswith('I'):
    wide = np.asarray(image).astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
      raise ValueError('pixels beyond 16 bits; store them in an .npy file')
    return ((wide + 128) // 257).astype(np.uint8)[..., None]
  if image.has_transparency_data:
    image = image.convert('RGBA')
    black = Image.new('RGBA', image.size, (0, 0, 0, 255))
    image = Image.alpha_composite(black, image)
  pixels = np.asarray(image.convert('L' if grey else 'RGB'))
  return pixels[..., None] if grey else pixels


def composite_on_black(images, opaque):
  """Drops the alpha channel of [..., 4] arrays as if they lay on black.

  Args:
    images: [..., 4] red, green, blue and alpha, 0 being black.
    opaque: the alpha of an opaque pixel: 255 for 8-bit levels, 1 for floats.

  Returns:
    [..., 3] of the same type, rounded when that is an integer type.
  """
  colour = images[..., :3] * (images[..., 3:] / np.float32(opaque))
  if np.issubdtype(images.dtype, np.integer):
    colour = np.rint(colour)
  return colour.astype(images.dtype)


def resize_and_crop(image, size, lowest, highest):
  """Scales the largest centred square of an image to size x size.

  That is: the shorter side becomes `size`, then the middle is kept; nothing is
  squashed. Bicubic with antialiasing, clipped to the range it can overshoot.

  Args:
    image: [H, W, C], uint8 levels or float32.
    size: side of the result in pixels, >= 1.
    lowest, highest: the range of the pixels.

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


def to_channels(images, channels):
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


def pad(images, padding, lowest):
  """Adds a border of the lowest value on all four sides.

  Args:
    images: [..., H, W, C].
    padding: width of the border in pixels, >= 0.
    lowest: the value it has: 0 for levels, -1 for floats.

  Returns:
    [..., H + 2 padding, W + 2 padding, C] of the same type.
  """
  if not padding:
    return images
  border = (padding, padding)
  widths = ((0, 0),) * (images.ndim - 3) + (border, border, (0, 0))
  return np.pad(images, widths, constant_values=lowest)


def finish(image, size, channels, padding, levels):
  """Makes a stored image the model's: resized, then its channels, then padded.

  Args:
    image: [H, W, C], uint8 levels or, where `levels` is None, float32 in [-1, 1].
    size: side in pixels to resize to; 0 leaves the size.
    channels: 1 or 3.
    padding: border in pixels added after resizing.
    levels: number of grey levels, or None.

  Returns:
    [H', W', channels] of the same type, H' = (size or H) + 2 padding.
  """
  lowest, highest = (-1, 1) if levels is None else (0, levels - 1)
  if size:
    image = resize_and_crop(image, size, lowest, highest)
  return pad(to_channels(image, channels), padding, lowest)
