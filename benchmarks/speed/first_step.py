"""From the start of Python to the end of the first gradient step, part by part.

  python -m benchmarks.speed.first_step [--config=mnist] [--batch=16] [--rounds=3]

Question:  how long does one wait for the first step, without compiled programs and with
           those that a run before has kept (`config.programs`)?
Time:      some 3 minutes on two cores.
Kept:      docs/benchmarks.md, Speed and memory.

Fresh processes in turn: with an empty folder of programs, and with the one that a
process before has filled. JAX itself tells how long it traced, lowered, compiled and
read; what is left beside these and imports is the first draw of the weights and the step.
The network is the config's own (`benchmarks.speed.step`: for mnist one whole U-Net), a
device for each core, as the command has them.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import shutil
import tempfile
import time

import psutil

from benchmarks.common import config_of, make_parser, markdown
from benchmarks.speed.rounds import alternate
from benchmarks.speed.step import SIDES, options_of, shape_of, stepper
from jdiffclust.memory import keep_freed_memory, return_what_compilers_leave

# The durations that JAX records, by their names here. Reading lies within compiling.
PARTS = {'/jax/core/compile/jaxpr_trace_duration': 'tracing',
         '/jax/core/compile/jaxpr_to_mlir_module_duration': 'lowering',
         '/jax/core/compile/backend_compile_duration': 'compiling',
         '/jax/compilation_cache/cache_retrieval_time_sec': 'reading'}
NAMES = {'empty': 'no compiled programs', 'kept': 'those of a run before'}
COLUMNS = 'all', 'imports', *PARTS.values()


def measure(how: str, name: str, batch: int, folder: pathlib.Path) -> dict[str, float]:
  """Seconds of the first gradient step in this process, which has just begun.

  Args:
    how: 'empty' or 'kept'.
    name: a config.
    batch: images of a minibatch.
    folder: where programs are kept.

  Returns:
    {one of COLUMNS: seconds}; compiling is without reading.
  """
  began = psutil.Process().create_time()
  config = config_of(name, {
      **options_of(name), 'num_clusters': 10, 'm_step.batch_size': batch,
      'programs.folder': str(folder)})
  import jax

  from jdiffclust.programs import keep_programs
  from jdiffclust.sharding import share_out_cores
  keep_freed_memory()
  return_what_compilers_leave()
  share_out_cores()
  if how == 'empty':
    shutil.rmtree(folder, ignore_errors=True)
  keep_programs(config.programs)
  found = collections.Counter(dict.fromkeys(COLUMNS, 0.))

  def heard(event, seconds, **_):
    if event in PARTS:
      found[PARTS[event]] += seconds

  jax.monitoring.register_event_duration_secs_listener(heard)
  import jdiffclust.clustering.method  # noqa: F401  what stepper needs
  found['imports'] = time.time() - began
  step = stepper(config, shape_of(name))
  step()
  found['all'] = time.time() - began
  found['compiling'] -= found['reading']
  return dict(found)


def main() -> None:
  """Alternates child processes and prints the table."""
  parser = make_parser(__doc__)
  parser.add_argument('--config', choices=SIDES, default='mnist')
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--folder', type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument('--child', choices=NAMES, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(measure(args.child, args.config, args.batch, args.folder)))
    return
  with tempfile.TemporaryDirectory() as folder:
    found = alternate('benchmarks.speed.first_step', NAMES,
                      {'config': args.config, 'batch': args.batch, 'folder': folder},
                      args.rounds, {'JAX_PLATFORMS': 'cpu'})
  print(markdown(('seconds, with', *COLUMNS), [
      [NAMES[how], *(f'{middle[column]:.1f}' for column in COLUMNS)]
      for how, middle in found.items()]))


if __name__ == '__main__':
  main()
