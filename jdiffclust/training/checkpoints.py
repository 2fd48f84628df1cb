"""Checkpoints: everything a run needs to go on, by Orbax.

A checkpoint holds the training state, the responsibilities and a JSON object of progress.
Its number is gradient steps + completed E-steps, which grows with each of either.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jdiffclust.errors import UserError

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
    local = leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
    total = zlib.crc32(np.ascontiguousarray(local).tobytes(), total)
  return total


def _damage_warning(number, warn, error):
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
    """Starts saving a checkpoint in the background; returns when memory is copied."""
    arrays = {'state': snapshot.state, 'responsibilities': snapshot.responsibilities}
    progress = snapshot.progress | {'digest': digest(arrays)}
    self._manager.save(number, args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(progress)))

  def _read_progress(self, number: int) -> dict:
    progress = self._manager.restore(number, args=ocp.args.Composite(
        progress=ocp.args.JsonRestore())).progress
    if not isinstance(progress, dict) or 'digest' not in progress:
      raise ValueError('its progress is not whole')
    return progress

  def _read_arrays(self, number: int, like: dict, wanted: int) -> dict:
    arrays = self._manager.restore(number, args=ocp.args.Composite(
        arrays=ocp.args.StandardRestore(like))).arrays
    if digest(arrays) != wanted:
      raise ValueError('its checksum is wrong')
    return arrays

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
      like = {'state': state, 'responsibilities': responsibilities}
      try:
        arrays = self._read_arrays(number, like, progress['digest'])
      except DAMAGE as error:
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
    """Waits until what was started is saved."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and closes."""
    self._manager.close()
