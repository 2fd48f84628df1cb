"""Atomic files and the lock on a workdir."""

import os
import signal
import subprocess
import sys

import pytest

from jdiffclust import files
from jdiffclust.errors import UserError

HOLD = '''
import sys, time
from jdiffclust.files import workdir_lock
with workdir_lock(sys.argv[1]):
  print('held', flush=True)
  time.sleep(60)
'''


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


def test_lock_is_exclusive_and_free_afterwards(tmp_path):
  """A second holder is refused and told the process; then the lock is free."""
  for _ in range(2):
    with files.workdir_lock(tmp_path):
      with pytest.raises(UserError, match=f'process {os.getpid()}.*--workdir'):
        with files.workdir_lock(tmp_path):
          pass


def test_lock_is_dropped_on_an_exception(tmp_path):
  """A run that fails does not block the next."""
  with pytest.raises(ValueError):
    with files.workdir_lock(tmp_path):
      raise ValueError
  with files.workdir_lock(tmp_path):
    pass


def test_lock_of_another_process_ends_with_kill_9(tmp_path):
  """Another process holds it, is named, and loses it when killed."""
  process = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)],
                             stdout=subprocess.PIPE, text=True)
  try:
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(UserError, match=f'process {process.pid}'):
      with files.workdir_lock(tmp_path):
        pass
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  with files.workdir_lock(tmp_path):
    assert (tmp_path / '.lock').read_text() == f'{os.getpid()}\n'
