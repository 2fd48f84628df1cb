"""Which files are images, by their endings; without JAX, whose import takes a while."""

from __future__ import annotations

import functools

from PIL import Image, ImageFile

HEIC = '.heic', '.heif'  # of telephones
FOR_HEIC = 'pip install pillow-heif'
# Formats whose headers Pillow knows, and whose pixels it cannot read.
HEADERS_ALONE = {'MPEG'}


@functools.cache
def register_formats() -> None:
  """Has Pillow know all formats: with HEIC, where pillow-heif is installed."""
  Image.init()
  try:
    import pillow_heif
  except ImportError:
    return
  pillow_heif.register_heif_opener()


@functools.cache
def image_endings() -> frozenset[str]:
  """Endings of the files whose pixels Pillow can read, such as '.png'.

  Formats that it leaves to somebody else (HDF5, GRIB and such) are not among them.
  """
  register_formats()
  return frozenset(ending for ending, form in Image.registered_extensions().items()
                   if _has_pixels(form))


def _has_pixels(form: str) -> bool:
  """Whether Pillow itself opens and decodes a format."""
  if form not in Image.OPEN or form in HEADERS_ALONE:
    return False
  factory = Image.OPEN[form][0]
  return not (isinstance(factory, type)
              and issubclass(factory, ImageFile.StubImageFile))
