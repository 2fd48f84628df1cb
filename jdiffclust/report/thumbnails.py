"""Small pictures of many images in a few files: sheets of square tiles.

A tile holds a whole image in its own proportions, in the middle; nothing is enlarged. So
that a page of 10,000 images stays well below 25 MB, all tiles of a page have `PIXELS`
pixels together at most, which sets their side:

    images        up to 1,700   3,900   10,000
    side, pixels           96      64       40

and if the files are larger than a limit nevertheless, as those of noise are, they are
compressed more. Tiles that are no reduction, as of digits of 8 x 8, stay as they are to
the pixel where that fits.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jdiffclust import files
from jdiffclust.data import preprocess
from jdiffclust.data.sources.common import threaded_map

PIXELS = 16_000_000
LARGEST, SMALLEST, STEP = 96, 24, 8  # sides of tiles, and what they are multiples of
# Pixels a side of a sheet; telephones take no larger ones well.
SHEET = 2048
QUALITIES = (85, 70, 50, 30, 10)  # that are tried, the first to fit is taken


class Sheets(NamedTuple):
  """Tiles of n pictures, row by row on sheets of equal width.

  Attributes:
    rows: of what each tile is a picture, int [n].
    side: of a tile, in pixels.
    columns: tiles in a row of a sheet, and rows of a sheet at most.
    heights, widths: of the pictures in their tiles, int [n].
    files: the sheets as WebP files.
    exact: whether the pictures are neither reduced nor compressed with loss.
    missing: which pictures are not of the originals, yet, bool [n].
  """

  rows: np.ndarray
  side: int
  columns: int
  heights: np.ndarray
  widths: np.ndarray
  files: tuple[bytes, ...]
  exact: bool
  missing: np.ndarray


def side_of(count: int, pixels: int = PIXELS, largest: int = LARGEST) -> int:
  """The side of the tiles of so many pictures that have so many pixels together."""
  free = math.isqrt(pixels // max(count, 1)) // STEP * STEP
  return min(largest, max(SMALLEST, free))


def sheets_of(thumbnail: Callable[[int, int], np.ndarray], rows: np.ndarray, side: int,
              most_bytes: int) -> Sheets:
  """Makes sheets.

  Args:
    thumbnail: from the number of a tile and a side to a picture, uint8 [h, w, 1 or 3],
      with no side above it; it is called in several threads.
    rows: of what each tile is a picture, int [n].
    side: of the tiles, which is made smaller if all pictures are.
    most_bytes: that the files have together, unless the worst quality takes more.
  """
  pictures = threaded_map(lambda tile: thumbnail(tile, side), range(len(rows)))
  heights, widths = (np.array([picture.shape[axis] for picture in pictures], int)
                     for axis in (0, 1))
  longest = max([1, *heights.tolist(), *widths.tolist()])
  whole, side = longest < side, min(side, longest)
  columns = max(1, SHEET // side)
  grey = all(picture.shape[-1] == 1 for picture in pictures)
  sheets, missing = [], np.zeros(len(pictures), bool)
  for begin in range(0, len(pictures), columns**2):
    part = pictures[begin:begin + columns**2]
    high = -(-len(part) // columns)
    sheet = np.zeros((high * side, columns * side, 1 if grey else 3), np.uint8)
    for place, picture in enumerate(part):
      _lay(sheet, picture, side, *divmod(place, columns))
    sheets.append(Image.fromarray(sheet[..., 0] if grey else sheet))
  if not pictures:
    return Sheets(np.zeros(0, int), side, columns, heights, widths, (), False,
                  missing)
  ways = [{'lossless': True}] * whole + [{'quality': q, 'method': 4} for q in QUALITIES]
  for way in ways:
    encoded = threaded_map(lambda sheet: _encoded(sheet, way), sheets)
    if sum(map(len, encoded)) <= most_bytes:
      break
  return Sheets(np.asarray(rows, int), side, columns, heights, widths, tuple(encoded),
                whole and 'lossless' in way, missing)


def tiles_of(sheets: Sheets) -> list[np.ndarray]:
  """The pictures that sheets have, n of uint8 [h, w, 1 or 3]."""
  shown = [np.asarray(Image.open(io.BytesIO(file))) for file in sheets.files]
  found = []
  for place, (height, width) in enumerate(zip(sheets.heights, sheets.widths)):
    number, rest = divmod(place, sheets.columns**2)
    row, column = divmod(rest, sheets.columns)
    top = row * sheets.side + (sheets.side - height) // 2
    left = column * sheets.side + (sheets.side - width) // 2
    found.append(shown[number][top:top + height, left:left + width])
  return found


def packed(picture: np.ndarray) -> bytes:
  """A picture uint8 [h, w, 1 or 3] as a WebP file, small ones without loss."""
  whole = max(picture.shape[:2]) < LARGEST
  return _encoded(Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture),
                  {'lossless': True} if whole else {'quality': QUALITIES[0], 'method': 4})


def unpacked(file: bytes) -> np.ndarray:
  """The picture of a file, uint8 [h, w, 3]."""
  with Image.open(io.BytesIO(file)) as image:
    return np.asarray(image.convert('RGB'))


def _lay(sheet: np.ndarray, picture: np.ndarray, side: int, row: int,
         column: int) -> None:
  """Lays a picture in the middle of a tile, whose rest gets its mean colour.

  What surrounds a picture bleeds into its border when it is compressed.
  """
  tile = sheet[row * side:(row + 1) * side, column * side:(column + 1) * side]
  height, width = picture.shape[:2]
  if (height, width) != (side, side):
    tile[:] = picture.mean(axis=(0, 1)).round().astype(np.uint8)
  top, left = (side - height) // 2, (side - width) // 2
  tile[top:top + height, left:left + width] = picture


def _encoded(sheet: Image.Image, way: dict) -> bytes:
  file = io.BytesIO()
  sheet.save(file, 'webp', **way)
  return file.getvalue()


def eight_bits(images: np.ndarray) -> np.ndarray:
  """Images in [-1, 1], [..., C], as uint8; what is not a number is grey."""
  shades = np.nan_to_num(np.asarray(images, np.float32)) * 127.5 + 127.5
  return np.clip(shades, 0, 255).round().astype(np.uint8)


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
  """A picture uint8 [h, w, C], with no side above a number of pixels."""
  return preprocess.resized(picture, preprocess.small_size(picture.shape[:2], side),
                            'squash', 0, 255)


def write(path, named: dict[str, Sheets]) -> None:
  """Writes sheets by name as an .npz file, atomically."""
  arrays: dict[str, np.ndarray] = {}
  for name, sheets in named.items():
    lengths = [len(file) for file in sheets.files]
    arrays |= {
        f'{name}_layout': np.array([sheets.side, sheets.columns, sheets.exact]),
        f'{name}_tiles': np.stack([sheets.rows, sheets.heights, sheets.widths,
                                    sheets.missing]),
        f'{name}_lengths': np.array(lengths, int),
        f'{name}_bytes': np.frombuffer(b''.join(sheets.files), np.uint8)}
  files.write_npz(path, arrays)


def read(path, names: Sequence[str]) -> dict[str, Sheets] | None:
  """The sheets that `write` wrote; None if there is no such file, or a damaged one."""
  arrays, parts = files.read_npz(path), ('layout', 'tiles', 'lengths', 'bytes')
  wanted = {f'{name}_{part}' for name in names for part in parts}
  if arrays is None or not wanted <= set(arrays):
    return None
  found = {}
  for name in names:
    layout, (rows, heights, widths, *missing), lengths, data = (
        arrays[f'{name}_{part}'] for part in parts)
    side, columns, exact = map(int, layout)
    ends = np.cumsum(lengths)
    found[name] = Sheets(rows, side, columns, heights, widths, tuple(
        data[end - length:end].tobytes() for end, length in zip(ends, lengths)),
        bool(exact), (missing[0] if missing else 0 * rows).astype(bool))
  return found
