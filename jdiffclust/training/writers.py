"""metrics.jsonl and TensorBoard, continued where a checkpoint was taken."""

from __future__ import annotations

import json
import pathlib

from tensorboardX import SummaryWriter

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
    self._file = open(path, 'a', encoding='utf-8')
    self._board = SummaryWriter(str(pathlib.Path(workdir) / 'tensorboard'),
                                purge_step=resumed_from + 1 if resumed_from else None)

  def write(self, step: int, iteration: int, **values: float) -> None:
    """Writes one line, and each value as a scalar at step + iteration."""
    self._file.write(json.dumps({'step': step, 'iteration': iteration, **values}) + '\n')
    self._file.flush()
    for name, value in values.items():
      if isinstance(value, (int, float)):
        self._board.add_scalar(name, value, step + iteration)

  def close(self) -> None:
    """Flushes and closes both."""
    self._file.close()
    self._board.close()


def read_metrics(workdir) -> list[dict]:
  """Returns the lines of metrics.jsonl; a last line cut off by a kill is left out."""
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  if not path.exists():
    return []
  whole, _, _ = path.read_text(encoding='utf-8').rpartition('\n')
  return [json.loads(line) for line in whole.splitlines()]
