"""Pixels by hand: what each step does to images whose result is known."""

import io

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
from PIL import Image
import pytest

from jdiffclust import errors
from jdiffclust.data import preprocess, rendering
from jdiffclust.data.sources import decoding

FEW = hypothesis.settings(max_examples=20, deadline=None)


def stored(image, **options):
  """Returns what opens the file of an image."""
  file = io.BytesIO()
  image.save(file, **{'format': 'PNG', **options})
  return lambda: Image.open(io.BytesIO(file.getvalue()))


def pixels_of(open_image):
  """Returns the levels of an image file, by the range of its container."""
  return decoding.decode(open_image, decoding.Decoding(), rendering.Rendering())


def test_grey_and_colour_pixels_come_back_as_stored():
  grey = np.array([[0, 7, 255], [1, 2, 3]], np.uint8)
  colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
  np.testing.assert_array_equal(
      pixels_of(stored(Image.fromarray(grey))), grey[..., None])
  np.testing.assert_array_equal(
      pixels_of(stored(Image.fromarray(colour))), colour)


def test_black_and_white_becomes_0_and_255():
  image = Image.fromarray(np.array([[True, False]]))
  assert image.mode == '1'
  assert pixels_of(stored(image)).tolist() == [[[255], [0]]]


def test_palette_becomes_its_colours():
  image = Image.new('P', (2, 1))
  image.putpalette([10, 20, 30, 40, 50, 60])
  image.putdata([1, 0])
  assert pixels_of(stored(image)).tolist() == [[[40, 50, 60], [10, 20, 30]]]


def test_16_bit_grey_keeps_its_range():
  wide = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
  pixels = pixels_of(stored(Image.fromarray(wide)))
  assert pixels.dtype == np.uint8
  assert pixels[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_pixels_of_unknown_scale_are_refused():
  """By the files' readers already where a fit is asked: see test_sources."""
  with pytest.raises(errors.UserError, match='data.range'):
    pixels_of(stored(Image.fromarray(np.float32([[.5]])), format='TIFF'))


def test_transparency_lies_on_black():
  colour = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]],
                    np.uint8)
  pixels = pixels_of(stored(Image.fromarray(colour)))
  assert pixels.tolist() == [[[200, 100, 50], [0, 0, 0], [40, 20, 10]]]
  grey = np.array([[[200, 255], [200, 0]]], np.uint8)
  assert pixels_of(stored(Image.fromarray(grey))).tolist() == [[[200], [0]]]


def test_exif_orientation_is_applied():
  pixels = np.zeros((16, 32), np.uint8)
  pixels[:, 16:] = 255  # the right half is white
  exif = Image.Exif()
  exif[0x0112] = 6  # the viewer turns it a quarter clockwise: right becomes bottom
  image = stored(Image.fromarray(pixels), format='JPEG', exif=exif)
  assert preprocess.upright_size(image()) == (32, 16)
  upright = pixels_of(image)[..., 0]
  assert upright.shape == (32, 16)
  assert upright[:12].max() < 30 and upright[20:].min() > 225


def test_first_frame_of_an_animation():
  frames = [Image.new('L', (3, 2), value) for value in (10, 200)]
  image = stored(frames[0], format='GIF', save_all=True, append_images=frames[1:])
  assert image().n_frames == 2
  assert set(pixels_of(image).ravel()) == {10}


RAMP = np.tile(np.arange(16, dtype=np.uint8)[None, :, None] * 10, (4, 1, 1))


def resized(image, size, fit='crop'):
  """Returns the first channel of a resized image, as a list."""
  return preprocess.resized(image, size, fit, 0, 255)[..., 0].tolist()


def test_crop_keeps_the_middle_and_does_not_squash():
  assert resized(RAMP, (4, 4)) == RAMP[:, 6:10, 0].tolist()
  assert resized(RAMP, (2, 2)) == [[65, 85], [65, 85]]  # columns 6, 7 and 8, 9
  assert resized(RAMP.transpose(1, 0, 2), (2, 2)) == [[65, 65], [85, 85]]
  assert resized(RAMP, (4, 8)) == RAMP[:, 4:12, 0].tolist()
  assert resized(RAMP, (4, 2)) == RAMP[:, 7:9, 0].tolist()


def test_squash_keeps_all_and_changes_proportions():
  halves = np.repeat(np.uint8([10, 30]), 8)[None, :, None] * np.ones((4, 1, 1), np.uint8)
  assert resized(halves, (1, 2), 'squash')[0] == pytest.approx([10, 30], abs=2)
  assert np.shape(resized(RAMP, (16, 4), 'squash')) == (16, 4)


def test_pad_keeps_all_within_a_border_of_its_colour():
  image = np.full((2, 4, 3), 50, np.uint8)  # its border: seven of these, and one other
  image[0, 0] = 200
  padded = preprocess.resized(image, (5, 4), 'pad', 0, 255)
  np.testing.assert_array_equal(padded[1:3], image)
  assert (padded[[0, 3, 4]] == 50).all() and padded.dtype == np.uint8
  tall = preprocess.resized(image.transpose(1, 0, 2), (4, 5), 'pad', 0, 255)
  np.testing.assert_array_equal(tall, padded.transpose(1, 0, 2))
  smaller = preprocess.resized(np.full((100, 1, 1), .5, np.float32), (4, 4), 'pad', -1, 1)
  assert smaller.shape == (4, 4, 1) and (smaller == .5).all()


@FEW
@hypothesis.given(height=st.integers(1, 9), width=st.integers(1, 9),
                  size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
                  fit=st.sampled_from(['crop', 'pad', 'squash']))
def test_one_colour_stays_one_colour(height, width, size, fit):
  image = np.full((height, width, 1), 77, np.uint8)
  done = preprocess.resized(image, size, fit, 0, 255)
  assert done.shape == (*size, 1) and (done == 77).all()


@pytest.mark.parametrize('dtype, lowest, highest', [
    (np.uint8, 0, 16), (np.float32, -1, 1)])
def test_resizing_stays_in_range(dtype, lowest, highest):
  image = np.full((8, 8, 3), lowest, dtype)
  image[:, 4:] = highest  # an edge: bicubic overshoots on both sides of it
  larger = preprocess.resized(image, (20, 20), 'crop', lowest, highest)
  assert larger.shape == (20, 20, 3) and larger.dtype == dtype
  assert larger.min() == lowest and larger.max() == highest
  np.testing.assert_array_equal(larger[:, 0], np.full((20, 3), lowest))


def test_resizing_to_its_own_size_changes_nothing():
  image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
  assert preprocess.resized(image, (4, 4), 'crop', 0, 255) is image


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
  done = preprocess.finish(image, (2, 2), 'crop', 3, 1, None)
  assert done.shape == (4, 4, 3) and done.dtype == np.float32
  assert set(done[0].ravel()) == {-1} and (done[1:3, 1:3] == 0.5).all()
  levels = preprocess.finish(np.full((4, 4, 1), 9, np.uint8), (2, 2), 'crop', 1, 1, 17)
  assert levels[..., 0].tolist() == [[0] * 4, [0, 9, 9, 0], [0, 9, 9, 0], [0] * 4]


@pytest.mark.parametrize('height, width', [(2, 3), (5, 4)])
def test_the_share_of_a_border_of_one_colour(height, width):
  """Counted by hand: of all pixels of the first and last rows and columns."""
  image = np.full((height, width, 3), 200, np.uint8)
  image[0, 0] = 0
  image[-1, -1, 2] = 175  # apart by more than a tenth of the range in one channel
  image[1:-1, 1:-1] = 90  # within
  places = 2 * height + 2 * width
  assert np.isclose(preprocess.plain_border(image), (places - 4) / places)
  image[-1, -1, 2] = 185
  assert np.isclose(preprocess.plain_border(image), (places - 2) / places)
  assert preprocess.plain_border(image[:, :, :1] * 0) == 1


def test_half_of_the_pictures_decide():
  """As their median does; nobody is asked where all have the same proportions."""
  assert preprocess.fit_of([]) == 'crop'
  assert preprocess.fit_of([1., .9, .1]) == preprocess.fit_of([.7]) == 'pad'
  assert preprocess.fit_of([1., .6, .5]) == preprocess.fit_of([.69]) == 'crop'
