"""Thumbnails of originals: whole, upright, in their proportions, by the fit's range."""

import numpy as np
from PIL import Image

from jdiffclust.data.dataset import array_source, load_source
from jdiffclust.data.fingerprint import reordered
from jdiffclust.exploring import Originals, as_known, originals_of
from jdiffclust.report import thumbnails


def test_files_are_shown_whole(options, tmp_path):
  """Not as the run has cropped them; upright by EXIF; 12 bits scaled; never enlarged."""
  wide = np.zeros((40, 100, 3), np.uint8)
  wide[:, :10] = 255, 0, 0  # the run keeps the middle, and does not see this
  Image.fromarray(wide).save(tmp_path / 'a.png')
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned
  Image.fromarray(wide).save(tmp_path / 'b.png', exif=exif)
  Image.fromarray(np.full((9, 6), 4095, np.uint16)).save(tmp_path / 'c.png')
  source = load_source(options(source='folder', path=str(tmp_path), image_size=8))
  assert source.image_shape == (8, 8, 3)
  shown = [source.thumbnail(row, 20) for row in range(3)]
  assert [one.shape for one in shown] == [(8, 20, 3), (20, 8, 3), (9, 6, 1)]
  assert shown[0][4, 0, 0] > 200 and shown[0][4, 10, 0] < 50
  assert shown[1][0, 4, 0] > 200 and shown[1][10, 4, 0] < 50
  assert (shown[2] == 255).all()


def test_arrays_are_shown_as_given(options):
  """Of any range and levels, in the order of the run."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 17, (6, 12, 10)).astype(np.uint8)
  images[0, 0, 0] = 16
  source = array_source(images, options(image_size=4))
  np.testing.assert_array_equal(source.thumbnail(2, 99)[..., 0],
                                np.rint(images[2] * (255 / 16)))
  turned = reordered(source, np.arange(6)[::-1])
  np.testing.assert_array_equal(turned.thumbnail(5, 99), source.thumbnail(0, 99))
  some = array_source(images, options(max_images=3))
  for row, name in enumerate(some.ids):
    np.testing.assert_array_equal(some.thumbnail(row, 99),
                                  source.thumbnail(int(name), 99))
  floats = array_source(images / 7. - 3, options())
  assert np.abs(floats.thumbnail(1, 99).astype(int)
                - source.thumbnail(1, 99)).max() <= 1


def test_what_cannot_be_shown(options, tmp_path):
  """Files that are gone, or time that is over: as the run sees the images; counted."""
  for name, shade in zip('abc', (0, 120, 255)):
    Image.new('L', (30, 20), shade).save(tmp_path / f'{name}.png')
  source = load_source(options(source='folder', path=str(tmp_path), image_size=8))
  (tmp_path / 'b.png').unlink()
  shown = Originals(source)
  assert [shown(row, 15).shape for row in range(3)] == [
      (10, 15, 1), (8, 8, 1), (10, 15, 1)]
  assert shown.others == {(1, 15)} and (shown(1, 15) == 120).all()
  assert [file is None for file in originals_of(source)] == [False, True, False]
  late = Originals(source, seconds=-1)
  assert late(0, 15).shape == (8, 8, 1) and late.others == {(0, 15)}


def test_what_was_shown_is_not_read_again(options, tmp_path):
  """Where time was over: those that are missing alone; of another size, all."""
  for name, shade in zip('abc', (0, 120, 255)):
    Image.new('L', (30, 20), shade).save(tmp_path / f'{name}.png')
  source = load_source(options(source='folder', path=str(tmp_path), image_size=8))
  sheets = thumbnails.sheets_of(lambda row, side: np.full((10, 15, 1), 99, np.uint8),
                                np.arange(3), 15, 10**6)
  known = {15: sheets._replace(missing=np.arange(3) == 1)}
  later = Originals(source, known)
  shades = [int(later(row, 15).mean()) for row in range(3)]
  assert shades == [99, 120, 99] and not later.others
  late = Originals(source, known, seconds=-1)
  assert late(2, 15).shape[:2] == (10, 15) and late(2, 9).shape == (8, 8, 1)
  assert late.others == {(2, 9)}
  assert not as_known(sheets, 15, late).missing.any()
  assert as_known(sheets, 9, late).missing.tolist() == [False, False, True]
