"""A run knows its images: order and place do not matter, pixels and names do."""

import json

import numpy as np
from PIL import Image
import pytest

from jdiffclust.data import dataset
from jdiffclust.data.fingerprint import as_before, fingerprint, first_difference
from jdiffclust.errors import UserError


@pytest.fixture(params=['auto', 'grain'])
def data(options, tmp_path, request):
  """Options of a folder of five pictures, decoded once or at each access."""
  rng = np.random.default_rng(0)
  for k in range(5):
    pixels = rng.integers(0, 256, (4, 4)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{k}.png')
  return options(source='folder', path=str(tmp_path), pipeline=request.param)


def kept(data):
  """What is written down, and read again."""
  return json.loads(json.dumps(fingerprint(dataset.load_source(data))))


def changed(data, stored):
  with pytest.raises(UserError) as caught:
    as_before(dataset.load_source(data), stored, 'w')
  return str(caught.value)


def test_the_same_images_in_any_order(data):
  """The order is that of the run."""
  source, stored = dataset.load_source(data), kept(data)
  assert as_before(source, stored, 'w').ids == source.ids
  order = [3, 1, 4, 0, 2]
  turned = {**stored, 'ids': [stored['ids'][i] for i in order],
            'checksums': [stored['checksums'][i] for i in order]}
  found = as_before(source, turned, 'w')
  assert list(found.ids) == turned['ids']
  np.testing.assert_array_equal(
      dataset.read_images(found, range(5)), dataset.read_images(source, order))


def test_the_first_difference_is_named(data, tmp_path):
  """A renamed file, other pixels, one more, one less, another shape."""
  stored = kept(data)
  (tmp_path / '0.png').rename(tmp_path / 'z.png')
  message = changed(data, stored)
  assert "'0.png' is missing" in message and "'z.png' is new" in message
  (tmp_path / 'z.png').rename(tmp_path / '0.png')
  as_before(dataset.load_source(data), stored, 'w')
  old = (tmp_path / '3.png').read_bytes()
  Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / '3.png')
  assert "'3.png'" in changed(data, stored)
  (tmp_path / '3.png').write_bytes(old)
  Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(tmp_path / '5.png')
  assert "'5.png' is new" in changed(data, stored)
  (tmp_path / '5.png').unlink()
  data.channels = 3
  assert '(4, 4, 3)' in changed(data, stored)


def test_what_sets_two_processes_apart():
  """The first difference in their order; none where they are the same."""
  one = {'dataset': 'folder', 'image_shape': [4, 4, 1], 'levels': 256, 'ids': ['a', 'b'],
         'checksums': [1, 2]}
  assert first_difference(one, dict(one)) == ''
  for change, told in (
      ({'ids': ['a'], 'checksums': [1]}, '2 images there, 1 here'),
      ({'levels': None}, 'levels is 256 there, None here'),
      ({'ids': ['a', 'c']}, "image 1 is 'b' there, 'c' here"),
      ({'checksums': [1, 3]}, "image 1 ('b') has other pixels"),
      ({'embeddings': {'size': 2, 'checksums': [1, 2]}}, 'the embeddings')):
    assert first_difference(one, {**one, **change}) == told
