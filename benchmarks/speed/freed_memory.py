"""Gradient steps by how the C library hands out memory, on as many devices as cores.

  python -m benchmarks.speed.freed_memory [--config=digits|folder|mnist] [--rounds=5]
      [--steps=30]

Question:  what do `memory.keep_freed_memory`, a heap for each thread and
           `memory.return_what_compilers_leave` save?
Time:      some 5 minutes on two cores.
Kept:      docs/benchmarks.md, Speed and memory.

Fresh processes in turn: memory as glibc hands it out; kept when it is freed; kept but for
what compilers leave, as the command does; and kept at a single heap for all threads, as
the command did before. Programs are compiled, not read from those that were kept.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import time

from benchmarks.common import config_of, make_parser, markdown
from benchmarks.speed.rounds import alternate
from benchmarks.speed.step import SIDES, options_of, shape_of, stepper
from jdiffclust.memory import keep_freed_memory, return_what_compilers_leave

ARENA_MAX = -8  # a parameter of glibc's mallopt, by malloc.h
NAMES = {'leave': 'as glibc does', 'keep': 'kept',
         'return': 'kept, but for what compilers leave',
         'single': 'kept, at a single heap'}


def measure(how: str, name: str, steps: int) -> dict[str, float]:
  """A gradient step: ms, CPU seconds of the program and of the kernel, pages taken.

  And the peak of resident memory, MiB, of the process.
  """
  if how != 'leave':
    keep_freed_memory()
  if how == 'return':
    return_what_compilers_leave()
  if how == 'single':
    ctypes.CDLL(None).mallopt(ARENA_MAX, 1)
  step = stepper(config_of(name, {'num_clusters': 10, **options_of(name)}),
                 shape_of(name))
  for _ in range(2):
    step()
  before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
  for _ in range(steps):
    step()
  seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
  return {'ms': 1000 * seconds / steps, 'peak': after.ru_maxrss / 1024} | {
      kind: (getattr(after, field) - getattr(before, field)) / steps
      for kind, field in (('program', 'ru_utime'), ('kernel', 'ru_stime'),
                          ('pages', 'ru_minflt'))}


def main() -> None:
  """Alternates child processes and prints the table."""
  parser = make_parser(__doc__)
  parser.add_argument('--config', choices=SIDES, default='digits')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--steps', type=int, default=30)
  parser.add_argument('--child', choices=NAMES, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(measure(args.child, args.config, args.steps)))
    return
  found = alternate('benchmarks.speed.freed_memory', NAMES,
                    {'steps': args.steps, 'config': args.config}, args.rounds,
                    {'JAX_PLATFORMS': 'cpu'})
  print(markdown(('freed memory', 'ms a step', 'program, CPU s a step',
                  'kernel, CPU s a step', 'pages a step', 'peak, MiB'), [
      [NAMES[how], f"{middle['ms']:.0f}", f"{middle['program']:.3f}",
       f"{middle['kernel']:.3f}", f"{middle['pages']:,.0f}",
       f"{middle['peak']:,.0f}"]
      for how, middle in found.items()]))


if __name__ == '__main__':
  main()
