"""The lock on a workdir, and runs whose shell was killed."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from unittest import mock

import psutil
import pytest

from jdiffclust.errors import UserError
from jdiffclust.workdir import Workdir, workdir_lock
from tests.command import server


def stay(workdir, how, shell, told):
  """Holds a workdir for a minute, or has a process of its own do so; tells its pid."""
  if shell and os.fork():
    os.wait()
    return
  if how == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
  with workdir_lock(workdir):
    told.send(os.getpid())
    time.sleep(60)


def hold(workdir, how='plain', shell=False):
  """Starts a holder, under another process, as a shell, if asked; returns it, the pid."""
  here, there = multiprocessing.Pipe()
  process = server().Process(target=stay, args=(workdir, how, shell, there))
  process.start()
  assert here.poll(60)
  return process, here.recv()


@pytest.fixture
def holder(request, tmp_path):
  """The pid of a holder whose shell has been killed."""
  process, pid = hold(tmp_path, getattr(request, 'param', 'plain'), shell=True)
  assert process.pid != pid
  process.kill()
  process.join()
  yield pid
  try:
    os.kill(pid, signal.SIGKILL)
  except ProcessLookupError:
    return  # the test ended it


def has_ended(pid):
  """Whether a process is gone, or waits to be buried."""
  try:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
  except psutil.NoSuchProcess:
    return True


def check_refused(workdir, pid, *more, **options):
  """The lock is refused, and the holder named."""
  with pytest.raises(UserError, match=f'process {pid}.*--workdir'):
    with workdir_lock(workdir, *more, **options):
      pytest.fail('two holders')


def test_lock_is_exclusive_and_free_afterwards(tmp_path):
  """A second holder is refused and told the process; then the lock is free."""
  for _ in range(2):
    with workdir_lock(tmp_path):
      check_refused(tmp_path, os.getpid())


def test_modes_that_write_beside_a_run_are_kept_apart_by_mode(tmp_path):
  """Two of one mode would mix their results; others may write meanwhile."""
  with workdir_lock(tmp_path, mode='predict'):
    with workdir_lock(tmp_path), workdir_lock(tmp_path, mode='sample'):
      with pytest.raises(UserError, match=f'--mode=predict .process {os.getpid()}'):
        with workdir_lock(tmp_path, mode='predict'):
          pytest.fail('two holders')


@pytest.mark.parametrize('number', (errno.ENOLCK, errno.ENOSYS))
def test_disk_without_locks(number, tmp_path):
  """Such as of a network: one line, and no run."""
  with mock.patch('fcntl.flock', side_effect=OSError(number, 'No locks')), pytest.raises(
      UserError, match='knows no locks'):
    with workdir_lock(tmp_path):
      pytest.fail('not held')


def test_lock_is_dropped_on_an_exception(tmp_path):
  """A run that fails does not block the next."""
  with pytest.raises(ValueError):
    with workdir_lock(tmp_path):
      raise ValueError
  with workdir_lock(tmp_path):
    pass


@pytest.mark.parametrize('error', (None, OSError('gone')))
@pytest.mark.parametrize('again', ('', 'folder', 'file'))
def test_a_folder_that_is_removed_meanwhile(again, error, tmp_path):
  """What is written makes it anew, without what was in it: that is no run."""
  path = tmp_path / 'run'
  path.mkdir()
  with pytest.raises(UserError, match='was removed, or replaced'):
    with workdir_lock(path):
      shutil.rmtree(path)
      if again == 'folder':
        path.mkdir()
        (path / '.lock').touch()
      elif again == 'file':
        path.touch()
      if error:
        raise error
  if again == 'file':
    path.unlink()
  store = Workdir(path)
  with pytest.raises(UserError, match='was removed, or replaced'):
    with store.held():
      shutil.rmtree(path)
      store.save(1, None)


def test_lock_of_another_process_ends_with_kill_9(tmp_path):
  """Another process holds it, is named, and loses it when killed."""
  process, pid = hold(tmp_path)
  try:
    check_refused(tmp_path, pid)
  finally:
    process.kill()
    process.join()
  with workdir_lock(tmp_path):
    assert json.loads((tmp_path / '.lock').read_text())['pid'] == os.getpid()


@pytest.mark.parametrize('shell', (False, True))
def test_run_with_a_living_parent_is_left_alone(shell, tmp_path):
  """Also when left-over runs may be ended: this one has somebody waiting for it."""
  process, pid = hold(tmp_path, shell=shell)
  told = []
  try:
    check_refused(tmp_path, pid, told.append)
    assert not told and psutil.pid_exists(pid)
  finally:
    os.kill(pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize('holder', ('plain', 'deaf'), indirect=True)
def test_left_over_run_is_ended(holder, tmp_path):
  """A run whose shell was killed is stopped, by SIGKILL if it is deaf to SIGTERM."""
  told = []
  with workdir_lock(tmp_path, told.append, patience=1.):
    assert json.loads((tmp_path / '.lock').read_text())['pid'] == os.getpid()
  assert len(told) == 1 and f'process {holder}' in told[0]
  for _ in range(100):  # init may take a moment to bury it
    if has_ended(holder):
      break
    time.sleep(.05)
  else:
    pytest.fail('the left-over run lives')


def test_left_over_run_is_refused_unless_it_may_be_ended(holder, tmp_path):
  """Commands that do not continue it do not stop it either."""
  check_refused(tmp_path, holder)
  assert psutil.pid_exists(holder)


@pytest.mark.parametrize('change', ({'host': 'elsewhere'}, {'created': 0.}, {'pid': 1},
                                    {'parent': os.getpid(), 'nonsense': 1}, None))
def test_holder_that_cannot_be_known_is_left_alone(change, holder, tmp_path):
  """Another host's, an id used again, a file that is no record of ours."""
  path = tmp_path / '.lock'
  record = json.loads(path.read_text())
  assert record['host'] == socket.gethostname() and record['pid'] == holder
  path.write_text('' if change is None else json.dumps(record | change))
  told = []
  with pytest.raises(UserError, match='Another run'):
    with workdir_lock(tmp_path, told.append):
      pytest.fail('two holders')
  assert not told and psutil.pid_exists(holder)


def test_process_that_ends_by_itself_meanwhile(holder, tmp_path):
  """The lock is taken although the signal finds nobody."""
  def tell(line):
    del line
    os.kill(holder, signal.SIGKILL)
    while not has_ended(holder):
      time.sleep(.01)

  with workdir_lock(tmp_path, tell):
    pass
