"""Gradient steps with and without `memory.keep_freed_memory`, CPU seconds each.

  python -m benchmarks.speed.freed_memory [--rounds=5] [--steps=10]

Question:  what does a gradient step save where freed memory is kept?
Time:      some 6 minutes.
Kept:      docs/benchmarks.md, Speed and memory.

Rounds alternate between fresh processes of one thread, so that work beside them slows
both alike; medians over rounds. The model is that of configs/folder.py, 10 clusters.
"""

from __future__ import annotations

import argparse
import json
import resource

from benchmarks.common import config_of, make_parser, markdown
from benchmarks.speed.rounds import alternate
from jdiffclust.config import SYMMETRIES
from jdiffclust.memory import keep_freed_memory

ONE_THREAD = {'JAX_PLATFORMS': 'cpu', 'NPROC': '1',
              'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false'}
NAMES = {'leave': 'as glibc does', 'keep': 'kept'}


def measure(keep: bool, steps: int) -> dict[str, float]:
  """CPU seconds a gradient step, of the program and of the kernel, and pages taken."""
  if keep:
    keep_freed_memory()
  # JAX starts threads: it is imported after that.
  import jax
  import jax.numpy as jnp

  from jdiffclust.batch import Batch
  from jdiffclust.clustering.method import build
  from jdiffclust.sharding import make_mesh
  config = config_of('folder', {'num_clusters': 10, **dict.fromkeys(SYMMETRIES, 0.)})
  method = build(config, (16, 16, 1), 256, make_mesh(1))
  size = config.m_step.batch_size
  images = jax.random.uniform(jax.random.key(0), (size, 16, 16, 1), minval=-1, maxval=1)
  batch = Batch(images, jnp.arange(size, dtype=jnp.int32))
  table, state = jnp.full((size, 10), .1), method.init_state()

  def step(state):
    state, info = method.m_step(state, batch, table, jax.random.key(0))
    info.loss.block_until_ready()
    return state

  state = step(step(state))
  before = resource.getrusage(resource.RUSAGE_SELF)
  for _ in range(steps):
    state = step(state)
  after = resource.getrusage(resource.RUSAGE_SELF)
  return {name: (getattr(after, field) - getattr(before, field)) / steps
          for name, field in (('program', 'ru_utime'), ('kernel', 'ru_stime'),
                              ('pages', 'ru_minflt'))}


def main() -> None:
  """Alternates child processes and prints the table."""
  parser = make_parser(__doc__)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--child', choices=NAMES, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(measure(args.child == 'keep', args.steps)))
    return
  found = alternate('benchmarks.speed.freed_memory', NAMES, {'steps': args.steps},
                    args.rounds, ONE_THREAD)
  print(markdown(('freed memory', 'program, CPU s a step', 'kernel, CPU s a step',
                  'pages a step'), [
      [NAMES[how], f"{middle['program']:.3f}", f"{middle['kernel']:.3f}",
       f"{middle['pages']:,.0f}"] for how, middle in found.items()]))


if __name__ == '__main__':
  main()
