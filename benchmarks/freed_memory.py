"""Gradient steps with and without `memory.keep_freed_memory`, CPU seconds each.

  python -m benchmarks.freed_memory [--rounds=5] [--steps=10]

Rounds alternate between fresh processes of one thread, so that work beside them slows
both alike; medians over rounds. The model is that of configs/folder.py, 10 clusters.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys


def measure(keep: bool, steps: int) -> dict:
  """CPU seconds a gradient step, of the program and of the kernel, and pages taken."""
  if keep:
    from jdiffclust.memory import keep_freed_memory
    keep_freed_memory()
  import jax
  import jax.numpy as jnp

  from configs.folder import get_config
  from jdiffclust.batch import Batch
  from jdiffclust.sharding import make_mesh
  from jdiffclust.training.methods import build
  config = get_config()
  config.num_clusters = 10
  machinery = build(config, (16, 16, 1), 256, make_mesh(1))
  size = config.m_step.batch_size
  images = jax.random.uniform(jax.random.key(0), (size, 16, 16, 1), minval=-1, maxval=1)
  batch = Batch(images, jnp.arange(size, dtype=jnp.int32))
  table, state = jnp.full((size, 10), .1), machinery.init_state()

  def step(state):
    state, info = machinery.m_step(state, machinery.m_estimator, batch, table,
                                   jax.random.key(0))
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
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--child', choices=('keep', 'leave'), help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(measure(args.child == 'keep', args.steps)))
    return
  found = {'leave': [], 'keep': []}
  for _ in range(args.rounds):
    for how, runs in found.items():
      done = subprocess.run(
          [sys.executable, '-m', 'benchmarks.freed_memory', f'--child={how}',
           f'--steps={args.steps}'], check=True, capture_output=True, text=True,
          env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'NPROC': '1',
               'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false'})
      runs.append(json.loads(done.stdout.splitlines()[-1]))
  print('| freed memory | program, CPU s a step | kernel, CPU s a step | pages a step |\n'
        '|---|---|---|---|')
  for how, name in (('leave', 'as glibc does'), ('keep', 'kept')):
    middle = {key: statistics.median(run[key] for run in found[how])
              for key in found[how][0]}
    print(f"| {name} | {middle['program']:.3f} | {middle['kernel']:.3f} | "
          f"{middle['pages']:,.0f} |")


if __name__ == '__main__':
  main()
