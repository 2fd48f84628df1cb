"""metrics.jsonl and TensorBoard, continued where a checkpoint was taken."""

from __future__ import annotations

import json
import pathlib
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from jdiffclust.files import write_text


class MetricsWriter:
  """Appends an object a line: `step`, `iteration` and named values.

  `step` counts gradient steps and `iteration` completed E-steps; their sum numbers
  checkpoints and TensorBoard's steps. What was written after the checkpoint that a run
  resumes from is dropped, since it is written anew.
  """

  def __init__(self, workdir, resumed_from: int = 0):
    """Opens the files.

    Args:
      workdir: folder of metrics.jsonl and tensorboard/.
      resumed_from: step + iteration of the checkpoint; 0 for a new run.
    """
    path = pathlib.Path(workdir) / 'metrics.jsonl'
    write_text(path, ''.join(
        json.dumps(line) + '\n' for line in read_metrics(workdir)
        if line['step'] + line['iteration'] <= resumed_from))
    self._file = open(path, 'ab', buffering=0)
    folder = pathlib.Path(workdir) / 'tensorboard'
    folder.mkdir(exist_ok=True)
    # Not its SummaryWriter: a full disk ends the thread of that one, and add_scalar then
    # waits for it for ever.
    self._board = EventsWriter(str(folder / 'events'))
    if resumed_from:
      self._board.write_event(event_pb2.Event(
          wall_time=time.time(), step=resumed_from + 1,
          session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)))
      self._board.flush()

  def write(self, step: int, iteration: int, **values: float) -> None:
    """Writes one line, and each value as a scalar at step + iteration.

    Raises:
      OSError: the disk does not take it.
    """
    line = json.dumps({'step': step, 'iteration': iteration, **values}) + '\n'
    self._file.write(line.encode())
    for name, value in values.items():
      if isinstance(value, (int, float)):
        self._board.write_event(event_pb2.Event(
            wall_time=time.time(), step=step + iteration, summary=scalar(name, value)))
    self._board.flush()

  def close(self) -> None:
    """Closes both."""
    self._file.close()
    self._board.close()


def read_metrics(workdir) -> list[dict]:
  """The lines of metrics.jsonl but for those that cannot be read.

  A kill cuts off the last one, a full disk any that another run has gone on after.
  """
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  found = []
  for line in path.read_bytes().splitlines() if path.exists() else ():
    try:
      line = json.loads(line)
      if type(line['step']) is type(line['iteration']) is int:
        found.append(line)
    except (ValueError, KeyError, TypeError):
      pass
  return found
