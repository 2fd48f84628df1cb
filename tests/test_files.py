"""Atomic files."""

import errno
import os

import numpy as np
import pytest

from jdiffclust import added, files, workdir
from jdiffclust.config import fitted_config
from jdiffclust.report.spreadsheet import read_parquet
from tests.helpers import refused


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


def full(cause=None):
  """What the system says of a full disk, perhaps as the cause of something else."""
  error = OSError(errno.ENOSPC, 'No space left on device')
  if cause is None:
    return error
  cause.__cause__ = error
  return cause


# As TensorStore tells of it.
TENSORSTORE = ValueError('RESOURCE_EXHAUSTED: Error writing "x": Failed to write 5987 '
                         "bytes to file 19: No space left on device [os_error_code='28']")


@pytest.mark.parametrize('error', [full(), full(RuntimeError('save failed')),
                                   TENSORSTORE])
def test_full_disk_is_recognised(error):
  """By its number, by its cause, and in a text."""
  assert files.refusal(error) == 'No space left on device'


@pytest.mark.parametrize('error', [
    None, FileNotFoundError(errno.ENOENT, 'No such file'), ValueError('28'),
    ValueError("NOT_FOUND: x [os_error_code='2']"), OSError('no number')])
def test_other_errors_are_no_full_disk(error):
  """They are left to whoever can make something of them."""
  assert files.refusal(error) == ''


def test_write_that_was_cut_short_is_a_full_disk(tmp_path):
  """NumPy says how much was written, but not why: the file is named, and not kept."""
  with pytest.raises(OSError) as caught:
    with files.replacing(tmp_path / 'array.npy') as temporary:
      temporary.write_bytes(b'some of it')
      raise OSError('12800 requested and 3200 written')
  assert files.refusal(caught.value) and caught.value.filename == str(
      tmp_path / 'array.npy')
  assert os.listdir(tmp_path) == []


def test_what_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
  """It may be whole: nobody shall remove it, or fit again."""
  files.write_npz(tmp_path / 'x.npz', {'x': np.zeros(2)})
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / 'added.parquet').touch()

  def locked(path, *args, **options):
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  with monkeypatch.context() as patch:  # pytest opens files itself before the test's end
    patch.setattr('builtins.open', locked)
    for read, name in ((files.read_npz, 'x.npz'), (read_parquet, 'x.parquet'),
                       (lambda path: added.read(path.parent), 'added.parquet')):
      with pytest.raises(PermissionError) as caught:
        read(tmp_path / name)
      assert caught.value.filename == str(tmp_path / name)
  with monkeypatch.context() as patch:
    patch.setattr(os, 'access', lambda path, mode: False)
    patch.setattr(os.path, 'isfile', lambda path: False)
    assert 'may not be looked into' in refused(fitted_config, tmp_path)


@pytest.mark.parametrize('content', [b'{"flip": ', b'\xff', b'', b'[1]'])
def test_a_damaged_note_of_a_run(tmp_path, content):
  """A line in the place of a traceback, from whoever reads it."""
  folder = workdir.Workdir(tmp_path)
  assert folder.symmetries() is folder.agreement() is folder.choice() is None
  for name, read in (('symmetries.json', folder.symmetries),
                     ('agreement.json', folder.agreement),
                     ('num_clusters.json', folder.choice)):
    (tmp_path / name).write_bytes(content)
    assert f'{name} is damaged' in refused(read)
    (tmp_path / name).write_text('{"flip": 1}')
    assert read() == {'flip': 1}
