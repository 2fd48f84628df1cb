"""Checkpoints: everything a run needs to go on, by Orbax.

A checkpoint holds the training state, the responsibilities and a JSON object of progress.
Its number is gradient steps + completed E-steps, which grows with each of either.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from jdiffclust import files
from jdiffclust.errors import UserError
from jdiffclust.training.packing import (
    on_host, packed, packed_like, structure, unpacked)

# What Orbax, TensorStore and JSON raise on a damaged checkpoint.
DAMAGE = (ValueError, OSError, KeyError, TypeError, RuntimeError)


class Snapshot(NamedTuple):
  """What is saved.

  Attributes:
    state: the `TrainState`.
    responsibilities: float32 arrays by name: 'current', tau [N, Q]; 'start', that of the
      start [N, Q]; 'bound', of the last E-step, nats [N].
    progress: JSON-able: counters, history, shapes.
  """

  state: Any
  responsibilities: Any
  progress: dict


def digest(tree) -> int:
  """A checksum over the bytes of a tree's arrays: damage that still parses shows."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    total = zlib.crc32(on_host(leaf).tobytes(), total)
  return total


def sealed(progress: dict, arrays) -> dict:
  """Progress with checksums, of arrays and of itself."""
  whole = progress | {'digest': digest(arrays)}
  return whole | {'seal': _seal(whole)}


def _seal(progress: dict) -> int:
  text = json.dumps({name: value for name, value in progress.items() if name != 'seal'},
                    sort_keys=True)
  return zlib.crc32(text.encode())


def numbers_in(workdir) -> list[int]:
  """The numbers of the checkpoints that lie in a workdir, whole or not, newest first."""
  folder = pathlib.Path(workdir) / 'checkpoints'
  found = folder.iterdir() if folder.is_dir() else ()
  return sorted((int(path.name) for path in found if path.name.isdecimal()),
                reverse=True)


def _damage_warning(number, warn, error):
  while error.__cause__ is not None:
    error = error.__cause__
  reason = str(error).strip().splitlines() or [type(error).__name__]
  warn(f'checkpoint {number} is damaged and is passed over ({reason[0][:200]}); trying '
       'the one before it.')


@contextlib.contextmanager
def _without_notices():
  """Keeps from a person what Orbax warns of, such as that it only reads."""
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


class Checkpoints:
  """The checkpoints of a workdir."""

  def __init__(self, workdir, keep: int = 3, read_only: bool = False):
    """Opens `workdir/checkpoints`.

    Args:
      workdir: the run's folder.
      keep: how many of the newest are kept.
      read_only: never write or delete.
    """
    _hush_late_futures()
    self._directory = pathlib.Path(workdir).resolve() / 'checkpoints'
    self._read_only = read_only
    with _without_notices():
      self._manager = ocp.CheckpointManager(
          self._directory,
          options=ocp.CheckpointManagerOptions(
              create=not read_only, read_only=read_only,
              max_to_keep=None if read_only else keep,
              enable_async_checkpointing=not read_only))

  def numbers(self) -> list[int]:
    """The numbers of the checkpoints there are, newest first."""
    with _without_notices():
      return sorted(self._manager.all_steps(read=True), reverse=True)

  def save(self, number: int, snapshot: Snapshot) -> None:
    """Starts saving a checkpoint in the background; returns when memory is copied.

    Raises:
      OSError: the disk does not take it, or did not take the one before.
    """
    arrays = {'state': packed(snapshot.state),
              'responsibilities': snapshot.responsibilities}
    progress = sealed(snapshot.progress | {'packed': structure(snapshot.state)}, arrays)
    with _told_by_the_system():
      self._manager.save(number, args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(progress)))

  def _read_progress(self, number: int) -> dict:
    progress = self._manager.restore(number, args=ocp.args.Composite(
        progress=ocp.args.JsonRestore())).progress
    if not isinstance(progress, dict) or 'digest' not in progress:
      raise ValueError('its progress is not whole')
    # Earlier versions did not seal it.
    if progress.pop('seal', None) not in (None, _seal(progress)):
      raise ValueError('the checksum of its progress is wrong')
    return progress

  def _read_arrays(self, number: int, state, responsibilities, progress: dict) -> dict:
    packs = 'packed' in progress  # earlier versions kept each array by itself
    if packs and progress['packed'] != structure(state):
      raise ValueError('its arrays are of another network')
    like = {'state': packed_like(state) if packs else state,
            'responsibilities': responsibilities}
    arrays = self._manager.restore(number, args=ocp.args.Composite(
        arrays=ocp.args.StandardRestore(like))).arrays
    if digest(arrays) != progress['digest']:
      raise ValueError('its checksum is wrong')
    return arrays | ({'state': unpacked(arrays['state'], state)} if packs else {})

  def restore_newest(self, template,
                     warn: Callable[[str], None]) -> tuple[int, Snapshot] | None:
    """Restores the newest checkpoint that is whole.

    Args:
      template: from a checkpoint's progress to (state, responsibilities) as trees of
        `jax.ShapeDtypeStruct` with shardings.
      warn: called with a line about each damaged one, which is deleted unless
        read-only, so that the run can write it again.

    Returns:
      (number, `Snapshot`), or None if there is no checkpoint.

    Raises:
      UserError: there are checkpoints and all of them are damaged.
    """
    numbers = self.numbers()
    for number in numbers:
      damage = functools.partial(_damage_warning, number, warn)
      try:
        progress = self._read_progress(number)
      except DAMAGE as error:
        damage(error)
        continue
      # Outside of `try`: a mistake in here is ours, and no damage.
      state, responsibilities = template(progress)
      try:
        arrays = self._read_arrays(number, state, responsibilities, progress)
      except Exception as error:  # some of DAMAGE comes wrapped into a bare one
        damage(error)
        continue
      if not self._read_only:
        for damaged in [n for n in numbers if n > number]:
          self._manager.delete(damaged)
        if (self._directory / str(number) / 'iterator').exists():
          warn(f'checkpoint {number} is of an earlier version, in which Grain read '
               'images in another order: the run goes on in the order of this version.')
      return number, Snapshot(arrays['state'], arrays['responsibilities'], progress)
    if numbers:
      raise UserError(
          f'None of the checkpoints {numbers} in {self._directory} can be read: restore '
          'them from a backup, or fit into a new --workdir.')
    return None

  def wait(self) -> None:
    """Waits until what was started is saved.

    Raises:
      OSError: as of `save`.
    """
    with _told_by_the_system():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, removes what could not be written whole, and closes.

    Raises:
      OSError: as of `save`.
    """
    try:
      with _told_by_the_system():
        self._manager.close()
    finally:
      if not self._read_only and jax.process_index() == 0:
        for half in self._directory.glob('*.orbax-checkpoint-tmp*'):
          shutil.rmtree(half, ignore_errors=True)


# What the futures say that Orbax leaves behind where it gives up reading.
LATE = ('Event loop is closed', 'Encountered error while reading array index')


def _hush_late_futures() -> None:
  """Keeps TensorStore from printing a traceback of no use for each array of a checkpoint.

  Where Orbax gives up reading or writing one, it closes its event loop, to which the
  futures of the other arrays report afterwards. The error itself is raised.
  """
  if getattr(sys.unraisablehook, 'hushes_late_futures', False):
    return
  shown = sys.unraisablehook

  def hook(unraisable):
    if not str(unraisable.exc_value).startswith(LATE):
      shown(unraisable)

  setattr(hook, 'hushes_late_futures', True)  # mypy knows no attributes of functions
  sys.unraisablehook = hook


@contextlib.contextmanager
def _told_by_the_system() -> Iterator[None]:
  """Makes what a full disk causes in Orbax and TensorStore an OSError."""
  try:
    yield
  except DAMAGE as error:
    why = files.refusal(error)
    if not why:
      raise
    raise OSError(errno.EIO, why) from None
