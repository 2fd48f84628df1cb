"""Pixels by hand: what each step does to images whose result is known."""

import io

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from PIL import Image
import pytest

from jdiffclust.data import preprocess, rendering

FEW = hypothesis.settings(max_examples=20, deadline=None)


def stored(image, **options):
  """Returns an image as it comes back from a file."""
  file = io.BytesIO()
  image.save(file, **{'format': 'PNG', **options})
  file.seek(0)
  return Image.open(file)


def test_grey_and_colour_pixels_come_back_as_stored():
  grey = np.array([[0, 7, 255], [1, 2, 3]], np.uint8)
  colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
  np.testing.assert_array_equal(
      preprocess.pixels_of(stored(Image.fromarray(grey))), grey[..., None])
  np.testing.assert_array_equal(
      preprocess.pixels_of(stored(Image.fromarray(colour))), colour)


def test_black_and_white_becomes_0_and_255():
  image = Image.fromarray(np.array([[True, False]]))
  assert image.mode == '1'
  assert preprocess.pixels_of(stored(image)).tolist() == [[[255], [0]]]


def test_palette_becomes_its_colours():
  image = Image.new('P', (2, 1))
  image.putpalette([10, 20, 30, 40, 50, 60])
  image.putdata([1, 0])
  assert preprocess.pixels_of(stored(image)).tolist() == [[[40, 50, 60], [10, 20, 30]]]


def test_16_bit_grey_keeps_its_range():
  wide = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
  pixels = preprocess.pixels_of(stored(Image.fromarray(wide)))
  assert pixels.dtype == np.uint8
  assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize('values', [np.float32([[0.5]]), np.int32([[70000]])])
def test_pixels_of_unknown_scale_are_refused(values):
  with pytest.raises(ValueError, match='data.range'):
    preprocess.pixels_of(stored(Image.fromarray(values), format='TIFF'))


def test_transparency_lies_on_black():
  colour = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]],
                    np.uint8)
  pixels = preprocess.pixels_of(stored(Image.fromarray(colour)))
  assert pixels.tolist() == [[[200, 100, 50], [0, 0, 0], [40, 20, 10]]]
  grey = np.array([[[200, 255], [200, 0]]], np.uint8)
  assert preprocess.pixels_of(stored(Image.fromarray(grey))).tolist() == [[[200], [0]]]


def test_exif_orientation_is_applied():
  pixels = np.zeros((16, 32), np.uint8)
  pixels[:, 16:] = 255  # the right half is white
  exif = Image.Exif()
  exif[0x0112] = 6  # the viewer turns it a quarter clockwise: right becomes bottom
  image = stored(Image.fromarray(pixels), format='JPEG', exif=exif)
  assert preprocess.upright_size(image) == (32, 16)
  upright = preprocess.pixels_of(image)[..., 0]
  assert upright.shape == (32, 16)
  assert upright[:12].max() < 30 and upright[20:].min() > 225


def test_first_frame_of_an_animation():
  frames = [Image.new('L', (3, 2), value) for value in (10, 200)]
  image = stored(frames[0], format='GIF', save_all=True, append_images=frames[1:])
  assert image.n_frames == 2
  assert set(preprocess.pixels_of(image).ravel()) == {10}


def test_crop_keeps_the_middle_and_does_not_squash():
  ramp = np.tile(np.arange(16, dtype=np.uint8)[None, :, None] * 10, (4, 1, 1))
  np.testing.assert_array_equal(
      preprocess.resize_and_crop(ramp, 4, 0, 255), ramp[:, 6:10])
  halved = preprocess.resize_and_crop(ramp, 2, 0, 255)[..., 0]
  assert halved.tolist() == [[65, 85], [65, 85]]  # columns 6, 7 and 8, 9
  tall = preprocess.resize_and_crop(ramp.transpose(1, 0, 2), 2, 0, 255)[..., 0]
  assert tall.tolist() == [[65, 65], [85, 85]]


@pytest.mark.parametrize('dtype, lowest, highest', [
    (np.uint8, 0, 16), (np.float32, -1, 1)])
def test_resizing_stays_in_range(dtype, lowest, highest):
  image = np.full((8, 8, 3), lowest, dtype)
  image[:, 4:] = highest  # an edge: bicubic overshoots on both sides of it
  larger = preprocess.resize_and_crop(image, 20, lowest, highest)
  assert larger.shape == (20, 20, 3) and larger.dtype == dtype
  assert larger.min() == lowest and larger.max() == highest
  np.testing.assert_array_equal(larger[:, 0], np.full((20, 3), lowest))


def test_resizing_to_its_own_size_changes_nothing():
  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  assert preprocess.resize_and_crop(image, 4, 0, 255) is image


def test_luma_of_the_primaries_agrees_with_pillow():
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
  grey = preprocess.to_channels(image, 1)
  expected = np.asarray(Image.fromarray(image).convert('L'))[..., None]
  assert grey.dtype == np.uint8
  assert np.abs(grey.astype(int) - expected).max() <= 1  # Pillow rounds otherwise
  primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
  assert preprocess.to_channels(primaries, 1)[0, :, 0].tolist() == [76, 150, 29, 9]


def test_luma_of_floats_is_not_rounded():
  grey = preprocess.to_channels(np.float32([[[1, -1, -1]]]), 1)
  np.testing.assert_allclose(grey, [[[0.299 - 0.587 - 0.114]]], rtol=1e-6)


def test_grey_is_repeated():
  image = np.array([[[3], [4]]], np.uint8)
  assert preprocess.to_channels(image, 3).tolist() == [[[3, 3, 3], [4, 4, 4]]]


def test_alpha_lies_on_a_ground():
  eight = np.array([[200, 100, 50, 51]], np.uint8)
  assert rendering.composited(eight, 255, 'black').tolist() == [[40, 20, 10]]
  assert rendering.composited(eight, 255, 'white').tolist() == [[244, 224, 214]]
  real = np.array([[0.5, 1, 0.25, 0.5]])
  assert rendering.composited(real, 1, 'black').tolist() == [[0.25, 0.5, 0.125]]
  assert rendering.composited(real, 1, 'white').tolist() == [[.75, 1, .625]]


@FEW
@hypothesis.given(
    image=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=4, max_side=5)),
    padding=st.integers(0, 3))
def test_padding_surrounds_the_image(image, padding):
  padded = preprocess.pad(image, padding, 0)
  height, width = image.shape[-3:-1]
  inside = padded[..., padding:padding + height, padding:padding + width, :]
  np.testing.assert_array_equal(inside, image)
  assert padded.shape[-3:-1] == (height + 2 * padding, width + 2 * padding)
  assert padded.sum(dtype=int) == image.sum(dtype=int)  # the border is zero


def test_padding_comes_after_resizing_and_is_the_lowest_value():
  image = np.full((4, 4, 1), 0.5, np.float32)
  done = preprocess.finish(image, size=2, channels=3, padding=1, levels=None)
  assert done.shape == (4, 4, 3) and done.dtype == np.float32
  assert set(done[0].ravel()) == {-1} and (done[1:3, 1:3] == 0.5).all()
  levels = preprocess.finish(np.full((4, 4, 1), 9, np.uint8), 2, 1, 1, 17)
  assert levels[..., 0].tolist() == [[0] * 4, [0, 9, 9, 0], [0, 9, 9, 0], [0] * 4]
