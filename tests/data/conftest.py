"""What the tests of the data share: options with their defaults, and files."""

import gzip
import struct

import ml_collections
import pytest


@pytest.fixture(scope='session')
def options():
  """Returns a function from a few data options to all of them."""
  def make(**changes):
    return ml_collections.ConfigDict({**dict(
        source='digits', path='', labels_path='', name='', split='train',
        image_key='', label_key='', image_size=0, channels=0, padding=0,
        use_labels=True, unreadable='refuse', max_images=0), **changes})
  return make


@pytest.fixture(scope='session')
def write_idx():
  """Returns a function writing IDX files byte by byte, not through the package."""
  def write(path, values, shape, kind=0x08, form='B', extra=b''):
    content = struct.pack(f'>BBBB{len(shape)}I', 0, 0, kind, len(shape), *shape)
    content += struct.pack(f'>{len(values)}{form}', *values) + extra
    opener = gzip.open if path.name.endswith('.gz') else open
    with opener(path, 'wb') as file:
      file.write(content)
    return str(path)
  return write
