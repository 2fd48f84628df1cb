"""What several files of tests ask of a run or of a mistake."""

import csv
import json
import pathlib
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jdiffclust.errors import UserError

# Where clusters do not matter, nothing is learnt for them: it would take seconds.
LITTLE = {'num_steps': 3, 'num_draws': 2, 'batch_size': 8, 'by_examples': False}
FEW = tuple(f'restore.{name}={value}' for name, value in LITTLE.items())


def summary_of(workdir) -> dict:
  """The content of summary.json."""
  return json.loads((workdir / 'summary.json').read_bytes())


def metrics_of(workdir) -> list[dict]:
  """The lines of metrics.jsonl."""
  return [json.loads(line) for line in open(workdir / 'metrics.jsonl', encoding='utf-8')]


def predicted(workdir) -> list[int]:
  """The clusters of predictions.csv."""
  with open(workdir / 'predictions.csv', encoding='utf-8', newline='') as file:
    return [int(row['cluster']) for row in csv.DictReader(file)]


def check_error(outcome, *fragments) -> None:
  """Asserts exit code 2 and an error line with the fragments."""
  assert outcome.code == 2 and 'Traceback' not in outcome.err
  line = outcome.err.splitlines()[-1]
  assert line.startswith('error: ')
  for fragment in fragments:
    assert fragment in line, line


def refused(function, *args, **kwargs) -> str:
  """The one line that a mistake is answered with."""
  with pytest.raises(UserError) as caught:
    function(*args, **kwargs)
  message = str(caught.value)
  assert '\n' not in message and message
  return message


def restore(commands, workdir, *options):
  """The command with few steps."""
  return commands.small('--mode=restore', f'--workdir={workdir}',
                        *(f'--config.{option}' for option in (*FEW, *options)))


def done(outcome):
  """The outcome, which must be none of a mistake."""
  assert outcome.code == 0, outcome.err
  return outcome


def restored_rows(workdir):
  """The rows of restored.csv."""
  with open(workdir / 'restored.csv', newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def newest(workdir):
  """The folder of the newest checkpoint."""
  return max((workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name))


def wait_for(log, text, process, seconds=120):
  """Waits until a line of a process' log holds `text`; False if it ended before."""
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    if text in pathlib.Path(log).read_text(encoding='utf-8'):
      return True
    if process.poll() is not None:
      return False
    time.sleep(.01)
  process.kill()
  raise AssertionError(f'no {text!r} in {seconds} s')


def weights(workdir):
  """Every array of the newest checkpoint, as bytes by name."""
  arrays = newest(workdir) / 'arrays'
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  with ocp.StandardCheckpointer() as reader:
    shapes = reader.metadata(arrays).item_metadata.tree
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding), shapes)
    found = reader.restore(arrays, target)
  return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
          for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


def check_same(workdir, reference):
  """Asserts the same results and weights, bit for bit, and the same metrics."""
  for name in ('responsibilities.npy', 'assignments.csv'):
    assert (workdir / name).read_bytes() == (reference / name).read_bytes(), name
  assert metrics_of(workdir) == metrics_of(reference)
  assert weights(workdir) == weights(reference)
