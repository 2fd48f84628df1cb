"""What is seen of images before a fit, where it is known what is odd about them."""

import numpy as np
from PIL import Image
import pytest

from jdiffclust import inspection
from jdiffclust.config import default_config
from jdiffclust.data.dataset import array_source, load_source
from jdiffclust.report import check, figures


@pytest.fixture(scope='module')
def odd(tmp_path_factory):
  """(source, data options) of a folder with one image of each kind of oddity."""
  folder, rng = tmp_path_factory.mktemp('odd'), np.random.default_rng(0)
  for k in range(12):
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f'{k}.png')
  Image.open(folder / '3.png').save(folder / 'same.png')
  Image.new('RGB', (40, 40), (9, 99, 199)).save(folder / 'blue.jpg')
  clear = np.asarray(Image.open(folder / '4.png').convert('RGBA')).copy()
  Image.fromarray(clear).save(folder / 'opaque.png')  # alpha, but nothing shows through
  clear[:9, :, 3] = 0
  Image.fromarray(clear).save(folder / 'clear.png')
  Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / 'wide.png')
  Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(folder / 'big.png')
  Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / 'small.png')
  (folder / 'broken.png').write_bytes(b'nothing')
  data = default_config().data
  data.source, data.path, data.image_size, data.unreadable = (
      'folder', str(folder), 8, 'skip')
  return load_source(data, finest=32), data


def names_of(found, kind):
  """The ids of what is odd in one way."""
  return {found.ids[i] for i in found.odd[kind]}


def test_each_oddity_is_found(odd):
  """In its own count, with its own name; and nothing else is."""
  found = inspection.inspect(*odd)
  assert names_of(found, 'single_colour') == {'blue.jpg'}
  assert names_of(found, 'transparent') == {'clear.png'}
  assert names_of(found, 'duplicates') == {'opaque.png', 'same.png'}
  assert {found.ids[i] for i in found.first} == {'3.png', '4.png'}
  assert names_of(found, 'cropped') == {'wide.png'} and np.isclose(found.lost, .2)
  assert names_of(found, 'odd_size') == {'big.png', 'small.png'}
  assert names_of(found, 'enlarged') == {'small.png'}
  assert found.num_skipped == 1 and found.seen_shape == (32, 32, 3)
  summary = found.as_dict()
  assert summary['duplicates'] == 2 and summary['unreadable'] == 1
  assert summary['examples']['transparent'] == ['clear.png']
  text = '\n'.join(found.lines())
  for name in ('blue.jpg', 'clear.png', 'wide.png', 'small.png', '20%', '32x32', '8x8'):
    assert name in text


def test_the_picture(odd, tmp_path):
  """24 images at most, and a row for each oddity, are drawn as they are seen."""
  found = inspection.inspect(*odd)
  rows = inspection.tiles(found, odd[0])
  shown = [title for title, _ in rows if title and title != 'some of the images']
  assert len(shown) == 6
  assert sum(len(groups[0]) for title, groups in rows if title not in shown) == 19
  assert all(groups[0].shape[1:] == (32, 32, 3) and groups[1].shape[1:] == (8, 8, 3)
             for _, groups in rows)
  path = tmp_path / 'check.png'
  figures.save_figure(check.check(rows), path)
  with Image.open(path) as image:
    assert np.asarray(image.convert('RGB')).std() > 30


def test_padded_pictures_are_told_of(tmp_path):
  """In the place of cropped ones, where the collection lies on a ground."""
  for k in range(3):
    image = np.zeros((20, 20 + 20 * (k > 0)), np.uint8)
    image[8:12 + k, 2:] = 255
    Image.fromarray(image).save(tmp_path / f'{k}.png')
  data = default_config().data
  data.source, data.path, data.image_size = 'folder', str(tmp_path), 8
  found = inspection.inspect(load_source(data, finest=16), data)
  assert names_of(found, 'padded') == {'1.png', '2.png'} and not len(found.odd['cropped'])
  assert found.lost == 0
  told = next(line for line in found.lines() if '2 padded' in line)
  assert 'data.fit=crop' in told and 'the ground of most, black' in told
  told = ' '.join(found._replace(ground=(250., 240., 0.)).lines())
  assert 'most, RGB 250 240 0' in told and found.as_dict()['ground'] == [0., 0., 0.]
  data.ground = 'own'
  found = inspection.inspect(load_source(data, finest=16), data)
  assert 'the colour of their own border' in ' '.join(found.lines())


def test_plain_images_are_not_odd():
  """Of an array, too, whose files are unknown."""
  images = np.random.default_rng(0).integers(0, 256, (90, 8, 8), np.uint8)
  data = default_config().data
  found = inspection.inspect(array_source(images, data), data)
  assert not any(map(len, found.odd.values())) and 'Nothing odd' in found.lines()[-1]
  assert inspection.cautions(found, 9) == [] == inspection.cautions(found, 'auto')
  assert '10 clusters are many' in inspection.cautions(found, 10)[0]


def textures(tmp_path, period):
  """A folder of 128x128 stripes of a period, by four directions."""
  places = np.stack(np.meshgrid(*[np.arange(128)] * 2, indexing='ij'), -1)
  for k in range(8):
    angle = np.pi * (k % 4) / 4
    phase = places @ [np.cos(angle), np.sin(angle)] + k
    image = 127 + 120 * np.sin(2 * np.pi * phase / period)
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / f'{k}.png')


@pytest.mark.parametrize('period, seen', [(4, False), (40, True)])
def test_too_few_pixels(period, seen, tmp_path):
  """Stripes of 4 pixels are gone where 128 pixels become 32; those of 40 are not."""
  textures(tmp_path, period)
  data = default_config().data
  data.source, data.path, data.image_size = 'folder', str(tmp_path), 16
  found = inspection.inspect(load_source(data, finest=32), data)
  assert (found.contrast > .9) if seen else (found.contrast < .1)
  told = inspection.cautions(found, 'auto')
  assert told == [] if seen else 'recognition.max_side=64' in told[0]
