"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator


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
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path, text: str) -> None:
  """Writes a UTF-8 text file atomically."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')
