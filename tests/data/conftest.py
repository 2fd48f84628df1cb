"""What the tests of the data share: options with their defaults, and files."""

import gzip
import struct

import pytest

from jdiffclust.config import default_config


@pytest.fixture(scope='session')
def options():
  """Returns a function from a few data options to all of them."""
  def make(**changes):
    data = default_config().data
    data.update(changes)
    return data
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
