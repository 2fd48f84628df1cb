"""Files that appear whole or not at all, and disks that take no more."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from jdiffclust.errors import UserError

# What the system says of a disk that is full, or beyond a quota or limit, or read-only,
# or broken.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextlib.contextmanager
def replacing(path) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`, renamed onto it on success.

  Args:
    path: the file to write; its folder is made.

  Yields:
    The path to write to, of the same suffix. On an exception it is removed, and
    what was at `path` stays.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Not tempfile: its files are unreadable for everyone but their owner. The process
  # id keeps two writers apart.
  temporary = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
  try:
    yield temporary
    os.replace(temporary, path)
  except OSError as error:
    if error.errno is None:  # NumPy and Pillow leave out what the system said
      raise OSError(errno.EIO, 'not all of it could be written, as on a full disk',
                    str(path)) from error
    raise
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path, text: str) -> None:
  """Writes a UTF-8 text file atomically."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def write_npz(path, arrays: dict[str, np.ndarray]) -> None:
  """Writes arrays by name, compressed and atomically."""
  with replacing(path) as temporary:
    np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def read_npz(path) -> dict[str, np.ndarray] | None:
  """What `write_npz` wrote; None if there is no such file, or a damaged one.

  Raises:
    PermissionError: it may not be read, and may be whole.
  """
  try:
    with np.load(path) as arrays:
      return dict(arrays)
  except PermissionError:
    raise
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
    return None


def read_json(path) -> dict | None:
  """An object that a run keeps of what it found out; None if there is no such file.

  Raises:
    UserError: it is damaged.
  """
  if not os.path.isfile(path):
    return None
  try:
    found = json.loads(pathlib.Path(path).read_bytes())
  except ValueError:
    found = None
  if not isinstance(found, dict):
    raise UserError(f'{path} is damaged: restore it, or remove it, and the report says '
                    'nothing of what it tells.')
  return found


def check_readable(path) -> None:
  """Raises PermissionError, with the file's name, if a file may not be read."""
  try:
    with open(path, 'rb'):
      pass
  except PermissionError:
    raise
  except OSError:  # told of by who reads it
    pass


def spelling(name: str) -> str:
  """A name without what some systems do not tell apart: case; ä as one sign or two."""
  return unicodedata.normalize('NFC', name).casefold()


def check_writable(folder) -> None:
  """Checks that files can be written in a folder, before long work for them.

  Raises:
    UserError: they cannot.
  """
  if not os.access(folder, os.W_OK | os.X_OK):
    raise UserError(f'Nothing can be written in {str(folder)!r}: change its permissions, '
                    'or copy it to where you may write.')


def refusal(error: BaseException | None) -> str:
  """Why the disk did not take what was written; '': the error is another one."""
  while error is not None:
    told = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's, in a text
    number = int(told[1]) if told else getattr(error, 'errno', None)
    if number in REFUSALS:
      own = '' if told else getattr(error, 'strerror', '')
      return own or os.strerror(number)
    error = error.__cause__ or error.__context__
  return ''
