"""Sheets of small pictures: every picture in its place, whole, within the bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from jdiffclust.report import thumbnails


def decoded(sheets):
  """The sheets as arrays."""
  return [np.asarray(Image.open(io.BytesIO(file))) for file in sheets.files]


def tile(sheets, arrays, place):
  """The picture of a tile, without its frame."""
  number, rest = divmod(place, sheets.columns**2)
  row, column = divmod(rest, sheets.columns)
  height, width = sheets.heights[place], sheets.widths[place]
  top = row * sheets.side + (sheets.side - height) // 2
  left = column * sheets.side + (sheets.side - width) // 2
  return arrays[number][top:top + height, left:left + width]


@pytest.mark.parametrize('count, side', [(1, 96), (1_700, 96), (4_000, 56), (10_000, 40),
                                         (10**6, 24)])
def test_sides(count, side):
  """As the module's table says, and never more than all pixels, down to the smallest."""
  assert thumbnails.side_of(count) == side
  assert side == 24 or count * side**2 <= thumbnails.PIXELS


def test_small_pictures_stay_as_they_are(monkeypatch):
  """To the pixel, of all proportions, over several sheets."""
  monkeypatch.setattr(thumbnails, 'SHEET', 20)  # two columns of 9 pixels
  rng = np.random.default_rng(0)
  pictures = [rng.integers(0, 256, (rng.integers(1, 10), 9, 3)).astype(np.uint8)
              for _ in range(7)]
  sheets = thumbnails.sheets_of(lambda k, side: pictures[k], np.arange(7) * 3, 96, 10**6)
  assert (sheets.side, sheets.columns, len(sheets.files)) == (9, 2, 2) and sheets.exact
  arrays = decoded(sheets)
  for place, picture in enumerate(pictures):
    np.testing.assert_array_equal(tile(sheets, arrays, place), picture)
    np.testing.assert_array_equal(thumbnails.tiles_of(sheets)[place], picture)
    np.testing.assert_array_equal(thumbnails.unpacked(thumbnails.packed(picture)),
                                  picture)
  np.testing.assert_array_equal(sheets.rows, np.arange(7) * 3)


def test_the_bytes_are_kept(tmp_path):
  """Noise is compressed more, and is still there; what was written is read."""
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)
  sheets = {most: thumbnails.sheets_of(lambda k, side: noise[k], np.arange(64), 32, most)
            for most in (10**6, 30_000)}
  assert sum(map(len, sheets[30_000].files)) <= 30_000 < sum(
      map(len, sheets[10**6].files))
  arrays = decoded(sheets[30_000])
  errors = [np.abs(tile(sheets[30_000], arrays, k) - noise[k].mean()).mean()
            for k in range(64)]
  assert max(errors) < 100 and not sheets[30_000].exact
  sheets[30_000] = sheets[30_000]._replace(missing=np.arange(64) == 7)
  thumbnails.write(tmp_path / 'x.npz', {'a': sheets[10**6], 'b': sheets[30_000]})
  read = thumbnails.read(tmp_path / 'x.npz', ('a', 'b'))
  for one, other in zip(read.values(), sheets.values()):
    assert one.files == other.files and one.side == 32 and not one.exact
    np.testing.assert_array_equal(one.heights, other.heights)
    np.testing.assert_array_equal(one.missing, other.missing)
  assert thumbnails.read(tmp_path / 'x.npz', ('a', 'c')) is None
  assert thumbnails.read(tmp_path / 'none.npz', ('a',)) is None
