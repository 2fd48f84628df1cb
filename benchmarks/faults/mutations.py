"""Changes to the bytes of files, each by a random generator."""

from __future__ import annotations

import io
import json
import os
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable

import numpy as np

# What may stand in the place of a value of JSON.
VALUES = (None, True, -1, 0, .5, 1e308, 10**40, float('nan'), float('inf'), '', 'x' * 999,
          '\x00', [], {}, [1, 2], {'a': 1}, [[[]]], '../../etc/passwd', '<f4')
# What may stand in the header of an array, for its type and its shape.
TYPES = ('|O', '<U9', '|S0', '<c16', '<M8[ns]', '>f4', '|V8', '<f2', 'nonsense',
         "[('a', '<f4')]")
SHAPES = ('()', '(0,)', '(-1, 8, 8)', '(999999999999, 8, 8)', '(2, 2)', '(8, 8, 8, 8, 8)',
          '(1' + ', 1' * 70 + ')', '"x"', 'None', '(2**70,)')


def flip(data: bytes, rng: np.random.Generator) -> bytes:
  """Flips one to eight bits."""
  changed = bytearray(data)
  for _ in range(rng.integers(1, 9)):
    changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
  return bytes(changed)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
  """Cuts it off anywhere."""
  return data[:rng.integers(len(data))]


def swap(data: bytes, rng: np.random.Generator) -> bytes:
  """Exchanges two pieces of one to sixteen bytes."""
  length = int(rng.integers(1, min(17, len(data) // 2 + 1)))
  first, second = sorted(int(at) for at in rng.integers(0, len(data) - length + 1, 2))
  second = min(max(second, first + length), len(data) - length)
  first = min(first, second - length)
  return (data[:first] + data[second:second + length] + data[first + length:second]
          + data[first:first + length] + data[second + length:])


def insert(data: bytes, rng: np.random.Generator) -> bytes:
  """Puts one to 64 random bytes in anywhere."""
  at = int(rng.integers(len(data) + 1))
  return data[:at] + rng.bytes(int(rng.integers(1, 65))) + data[at:]


def header(data: bytes, rng: np.random.Generator) -> bytes:
  """Overwrites one to four of the first 64 bytes with 0, 255 or anything."""
  at, length = int(rng.integers(min(64, len(data)))), int(rng.integers(1, 5))
  new = (bytes(length), b'\xff' * length, rng.bytes(length))[rng.integers(3)]
  return data[:at] + new + data[at + length:]


def array_header(data: bytes, rng: np.random.Generator) -> bytes:
  """Changes the type or the shape that the header of a .npy says."""
  length = 10 + int.from_bytes(data[8:10], 'little')
  text = data[10:length].decode('latin-1')
  if rng.integers(2):
    text = re.sub(r"'descr': '[^']*'", f"'descr': {choose(TYPES, rng)!r}", text)
  else:
    text = re.sub(r"'shape': \([^)]*\)", f"'shape': {choose(SHAPES, rng)}", text)
  text = text.rstrip() + '\n'
  return data[:8] + len(text).to_bytes(2, 'little') + text.encode('latin-1') + (
      data[length:])


def values(data: bytes, rng: np.random.Generator) -> bytes:
  """Changes, removes or adds one to three values of JSON, at any depth."""
  whole = json.loads(data)
  for _ in range(rng.integers(1, 4)):
    node = whole
    while True:
      keys = list(node) if isinstance(node, dict) else list(range(len(node)))
      if not keys:
        break
      key = keys[rng.integers(len(keys))]
      if isinstance(node[key], (dict, list)) and node[key] and rng.integers(5):
        node = node[key]
        continue
      match rng.integers(5):
        case 0:
          del node[key]
        case 1 if isinstance(node, dict):
          node[f'{key}x'] = choose(VALUES, rng)
        case _:
          node[key] = choose(VALUES, rng)
      break
  return json.dumps(whole).encode()


class Payload:
  """Unpickled, it makes a file."""

  def __init__(self, marker: pathlib.Path):
    """Of the file that it would make."""
    self._marker = str(marker)

  def __reduce__(self):
    """What unpickling does."""
    return os.mknod, (self._marker,)


def pickled_array(marker: pathlib.Path) -> bytes:
  """A .npy of objects, the pickle of which makes a file."""
  file = io.BytesIO()
  np.save(file, np.array([Payload(marker)] * 8, object), allow_pickle=True)
  return file.getvalue()


def pickled_archive(marker: pathlib.Path) -> bytes:
  """A .npz with such an array in the place of the images."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('images.npy', pickled_array(marker))
  return file.getvalue()


def pickled(marker: pathlib.Path) -> bytes:
  """A bare pickle that makes a file."""
  return pickle.dumps(Payload(marker))


def choose(options, rng: np.random.Generator):
  """One of some options."""
  return options[rng.integers(len(options))]


BYTES: tuple[Callable, ...] = (flip, flip, truncate, swap, insert, header)
