"""The lock on a workdir: one run at a time, and what becomes of a run left behind.

The system drops the lock with the process that holds it, so a killed run never blocks
the next. But where only the shell around a run was killed, the run itself goes on, with
nobody waiting for it: such a *left-over* run is ended by the next one, if that one says
so, which then goes on from its checkpoints.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import pathlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil

from jdiffclust.errors import UserError


class Holder(NamedTuple):
  """What the lock file says of the process that holds the lock.

  Attributes:
    pid: its process id.
    parent: its parent's process id when it took the lock.
    created: when it began, in seconds of the epoch: ids are used again.
    host: the machine it runs on.
  """

  pid: int
  parent: int
  created: float
  host: str


def this_process() -> Holder:
  """The calling process as a holder."""
  process = psutil.Process()
  return Holder(process.pid, process.ppid(), process.create_time(), socket.gethostname())


def read_holder(file) -> Holder | None:
  """Who holds the lock, by its open file; None if that cannot be read."""
  file.seek(0)
  try:
    return Holder(**json.load(file))
  except (ValueError, TypeError):
    return None


def left_over(holder: Holder | None) -> psutil.Process | None:
  """The holder's process, if its parent has died since it took the lock.

  Args:
    holder: who holds the lock; None: unknown.

  Returns:
    The process; None if its parent lives, or if that cannot be known from here (another
    host, another process of the same id, an unknown holder).
  """
  if holder is None or holder.host != socket.gethostname():
    return None
  try:
    process = psutil.Process(holder.pid)
    same = abs(process.create_time() - holder.created) < 1.
    return process if same and process.ppid() != holder.parent else None
  except psutil.Error:
    return None


def _locked(file) -> bool:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def _locked_within(file, seconds: float) -> bool:
  end = time.monotonic() + seconds
  while not _locked(file):
    if time.monotonic() > end:
      return False
    time.sleep(.05)
  return True


@contextlib.contextmanager
def workdir_lock(workdir, end_left_over: Callable[[str], None] | None = None,
                 patience: float = 30.) -> Iterator[None]:
  """Holds the workdir for this process.

  Args:
    workdir: a folder.
    end_left_over: called with a line for the user when a left-over run holds the
      workdir; that run is then stopped (SIGTERM, and SIGKILL if it does not listen).
      None: it is treated like any other run.
    patience: seconds that a left-over run has to stop, after each signal.

  Raises:
    UserError: another run holds it.
  """
  with open(pathlib.Path(workdir) / '.lock', 'a+', encoding='utf-8') as file:
    if not _locked(file):
      process = left_over(read_holder(file)) if end_left_over else None
      if process is None or not _end(process, file, end_left_over, patience):
        holder = read_holder(file)  # it may be another by now
        name = holder.pid if holder else 'unknown'
        raise UserError(f'Another run (process {name}) is using the workdir {workdir}: '
                        'wait for it, stop it, or choose another --workdir.')
    file.truncate(0)
    json.dump(this_process()._asdict(), file)
    file.flush()
    yield


def _end(process, file, tell, patience) -> bool:
  """Stops a left-over run; returns whether the lock is ours."""
  tell(f'An earlier run (process {process.pid}) outlived the shell that had started it '
       'and is still using the workdir: stopping it, going on from its checkpoints.')
  for stop in (process.terminate, process.kill):
    try:
      stop()
    except psutil.NoSuchProcess:
      pass  # it has ended by itself meanwhile
    except psutil.AccessDenied:
      return False
    if _locked_within(file, patience):
      return True
  return False
