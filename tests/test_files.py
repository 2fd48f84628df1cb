"""Atomic files."""

import os

import pytest

from jdiffclust import files


def test_text_is_written_and_replaced(tmp_path):
  """The folder is made, UTF-8 kept, and no temporary file left."""
  path = tmp_path / 'deep' / 'file.txt'
  for text in ('eins\n', 'Größe ≥ 2\n'):
    files.write_text(path, text)
    assert path.read_bytes().decode('utf-8') == text
  assert os.listdir(path.parent) == ['file.txt']


def test_failure_keeps_the_old_file(tmp_path):
  """An exception while writing leaves what was there and nothing beside it."""
  path = tmp_path / 'file.json'
  path.write_text('old')
  with pytest.raises(RuntimeError, match='midway'):
    with files.replacing(path) as temporary:
      temporary.write_text('new')
      assert path.read_text() == 'old' and temporary.suffix == '.json'
      raise RuntimeError('midway')
  assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file.json']


def test_others_may_read(tmp_path):
  """Files get the permissions of the user's umask."""
  old = os.umask(0o022)
  try:
    files.write_text(tmp_path / 'file', 'text')
  finally:
    os.umask(old)
  assert (tmp_path / 'file').stat().st_mode & 0o777 == 0o644
