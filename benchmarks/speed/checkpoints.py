"""What a checkpoint costs: the state as long vectors, or each array by itself.

  python -m benchmarks.speed.checkpoints [--config=digits] [--rounds=5]

Question:  how many seconds of the processor does it take to save the training state of a
           config, and to read it again?
Time:      half a minute.
Kept:      docs/benchmarks.md, Speed and memory.

Both are written by Orbax with the same options and waited for. The first save, which
imports and starts what Orbax needs, is told apart; the others are medians.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.common import config_of, make_parser, markdown
from benchmarks.speed.step import SIDES, options_of, shape_of
from jdiffclust.clustering.method import build
from jdiffclust.sharding import mesh_of
from jdiffclust.training.packing import packed, packed_like, unpacked


def cpu_seconds(function: Callable) -> float:
  """Seconds of the processor that a call takes."""
  began = time.process_time()
  function()
  return time.process_time() - began


def measure(tree: Callable, like, rounds: int) -> list[float]:
  """CPU seconds of the first save, of the median of the others, and of reading.

  Args:
    tree: makes what is saved.
    like: the shapes, dtypes and places to read it into.
    rounds: saves after the first.
  """
  with tempfile.TemporaryDirectory() as folder:
    manager = ocp.CheckpointManager(
        pathlib.Path(folder), options=ocp.CheckpointManagerOptions(
            enable_async_checkpointing=True))
    with contextlib.closing(manager):
      def save(number):
        manager.save(number, args=ocp.args.StandardSave(tree()))
        manager.wait_until_finished()
      saves = [cpu_seconds(lambda number=number: save(number))
               for number in range(1 + rounds)]
      read = cpu_seconds(lambda: manager.restore(
          rounds, args=ocp.args.StandardRestore(like)))
  return [saves[0], float(np.median(saves[1:])), read]


def main() -> None:
  """Measures in this process, vectors first: so nothing is imported by the others."""
  parser = make_parser(__doc__)
  parser.add_argument('--config', choices=SIDES, default='digits')
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  config = config_of(args.config, {**options_of(args.config), 'num_clusters': 10})
  method = build(config, shape_of(args.config), 256, mesh_of(config))
  state, like = method.init_state(), method.abstract_state()
  jax.block_until_ready(state)
  whole = jax.tree.map(np.asarray, unpacked(packed(state), like))
  assert all(np.array_equal(one, other) for one, other in zip(
      jax.tree.leaves(whole), jax.tree.leaves(state)))
  found = {'long vectors': measure(lambda: packed(state), packed_like(like), args.rounds),
           'each array by itself': measure(lambda: state, like, args.rounds)}
  print(f'{args.config}: {len(jax.tree.leaves(state))} arrays of '
        f'{sum(leaf.size for leaf in jax.tree.leaves(state)):,} numbers')
  print(markdown(('CPU seconds', 'the first save', 'another', 'reading'), [
      [name, *(f'{seconds:.2f}' for seconds in row)] for name, row in found.items()]))


if __name__ == '__main__':
  main()
