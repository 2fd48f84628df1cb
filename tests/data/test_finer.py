"""Images at more pixels, beside those that data.image_size leaves the model."""

import numpy as np
import pytest
from PIL import Image

from jdiffclust.config import default_config
from jdiffclust.data import preprocess
from jdiffclust.data.dataset import array_source, images_at, load_source, read_images
from jdiffclust.data.fingerprint import reordered
from jdiffclust.errors import UserError


def options(**changes):
  data = default_config().data
  data.update(changes)
  return data


def pictures(count, side, channels=3, seed=0):
  """Smooth uint8 images [n, side, side, channels]."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (count, 5, 5, channels)).astype(np.uint8)
  return np.stack([preprocess.resized(image, (side, side), 'squash', 0, 255)
                   for image in small])


@pytest.fixture
def folder(tmp_path):
  """(images [6, 64, 64, 3], the folder of their files)."""
  images = pictures(6, 64)
  for number, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / f'{number}.png')
  return images, tmp_path


@pytest.mark.parametrize('size, longest, expected', [
    ((16, 16), 32, (32, 32)), ((16, 24), 50, (32, 48)), ((17, 17), 32, None),
    ((32, 32), 32, None), ((10, 5), 32, (30, 15))])
def test_finer_sizes_are_multiples(size, longest, expected):
  """The largest with no side above; none where that is the size itself."""
  assert preprocess.finer_size(size, longest) == expected


@pytest.mark.parametrize('size, stored, least, expected', [
    ((32, 32), (28, 28), (16, 16), (28, 28)), ((32, 32), (100, 90), (16, 16), (32, 32)),
    ((32, 32), (18, 60), (16, 16), None), ((32, 64), (40, 60), (16, 32), (30, 60))])
def test_no_pixels_are_made_up(size, stored, least, expected):
  """Of the proportions of the model's images; none where there is little more."""
  assert preprocess.within(size, stored, least) == expected


def test_of_an_array():
  """The model's images are what they are without; the finer ones are as stored."""
  images = pictures(4, 28, 1)
  data = options(image_size=16)
  alone, both = array_source(images, data), array_source(images, data, finest=32)
  assert alone.finer is None and alone.seen is alone
  np.testing.assert_array_equal(read_images(alone, range(4)), read_images(both, range(4)))
  assert both.image_shape == (16, 16, 1)
  assert both.seen is both.finer
  np.testing.assert_array_equal(read_images(both.finer, range(4)), images)
  assert both.resized == alone.resized and both.ids == both.finer.ids
  assert array_source(images, options(), finest=32).finer is None
  padded = array_source(images, options(image_size=16, padding=6), finest=32)
  assert padded.finer is None and padded.image_shape == (28, 28, 1)
  assert array_source(images, options(image_size=28), finest=32).finer is None


def test_of_new_images():
  """They get the size that is asked for, though they have fewer pixels."""
  found = array_source(pictures(3, 20, 1), options(image_size=16), for_fit=False,
                       finest=(28, 28))
  assert found.finer.image_shape == (28, 28, 1) and found.image_shape == (16, 16, 1)
  assert '20x20 are resized to 16x16' in found.notes[0]


def test_levels_of_masks():
  """Two levels become grey where images are resized, and stay two where they are not."""
  images = np.random.default_rng(0).integers(0, 2, (4, 28, 28)).astype(np.uint8)
  found = array_source(images, options(image_size=14), finest=32)
  assert found.levels == 256 and found.finer.image_shape == (28, 28, 1)
  assert set(np.unique(images_at(found.finer, range(4)))) == {-1, 1}


@pytest.mark.parametrize('grey', [False, True])
def test_of_a_folder(grey, folder, monkeypatch):
  """Each file is decoded once, as if it were read at 32x32; the model's images follow."""
  images, path = folder
  decoded = []
  monkeypatch.setattr(Image.Image, 'convert', lambda image, *args, _=Image.Image.convert:
                      decoded.append(args) or _(image, *args))
  data = options(source='folder', path=str(path), image_size=16,
                 channels=1 if grey else 0)
  found = load_source(data, finest=32)
  once = len(decoded)
  fine = load_source(options(source='folder', path=str(path), image_size=32,
                             channels=data.channels))
  np.testing.assert_array_equal(read_images(found.finer, range(6)),
                                read_images(fine, range(6)))
  decoded.clear()
  direct = load_source(data)
  assert once == len(decoded) >= len(images)
  assert direct.finer is None
  apart = read_images(found, range(6)).astype(int) - read_images(direct, range(6))
  assert np.abs(apart).max() <= 12 and np.abs(apart).mean() < 1.5
  assert found.ids == direct.ids and found.resized == direct.resized


def test_order_is_of_both():
  """Images put in another order stay the same ones."""
  images = pictures(4, 28, 1)
  found = reordered(array_source(images, options(image_size=16), finest=32),
                    np.array([2, 0, 3, 1]))
  np.testing.assert_array_equal(read_images(found.finer, range(4)), images[[2, 0, 3, 1]])


def test_reduced_images_are_means():
  """Constant images stay constant; small ones are themselves."""
  images = np.full((2, 40, 20, 3), .25, np.float32)
  np.testing.assert_allclose(preprocess.reduced(images, 16), np.full((2, 16, 8, 3), .25),
                             rtol=1e-6)
  assert preprocess.reduced(images, 40) is images


def test_files_of_their_own_size_keep_it(folder):
  """As without finer ones: nothing is resized, and sizes that differ are refused."""
  images, path = folder
  data = options(source='folder', path=str(path))
  found = load_source(data, finest=32)
  assert found.finer is None
  np.testing.assert_array_equal(read_images(found, range(6)), images)
  Image.fromarray(images[0, :50]).save(path / 'other.png')
  with pytest.raises(UserError, match='differ in size'):
    load_source(data, finest=32)
