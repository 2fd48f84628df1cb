"""What a gradient step costs, and which operations of the compiled program take it.

  python -m benchmarks.speed.step [--config=mnist] [--batch=32] [--devices=1]
      [--steps=10] [--ops=20]

Question:  where do the milliseconds of a training step go?
Time:      a minute.
Kept:      benchmarks/speed/README.md.

The step is that of `benchmarks.speed.throughput` (config mnist: one U-Net on [x_t, mu] at
28x28), or of configs/digits.py or folder.py as they are, 16x16. Reported: medians of wall
and CPU milliseconds; with --ops, the longest kinds of operations in XLA's own trace of
three steps, summed over devices, whose trace itself takes some of the time. One core is
asked for by `taskset -c 0`.
"""

from __future__ import annotations

import collections
import pathlib
import re
import tempfile
import time

import numpy as np

from benchmarks.common import config_of, make_parser
from jdiffclust.config import SYMMETRIES
from jdiffclust.memory import keep_freed_memory, return_what_compilers_leave

# One whole U-Net on [x_t, mu], once an image, as PyTorch's.
ONE_UNET = {'network.dropout': 0., 'network.conditioning': 'concatenated',
            'em.posterior': 'monte_carlo'}
SIDES = {'digits': 8, 'folder': 16, 'mnist': 28}
TRACED = 3


def stepper(config, shape: tuple[int, int, int], steps: int = 1):
  """A function that takes gradient steps of a config and waits for the last one.

  To be called when memory is set as it shall be: JAX's threads start here.

  Args:
    config: its options; its images are noise.
    shape: of an image, (H, W, C).
    steps: how many.
  """
  import jax

  from jdiffclust.batch import Batch
  from jdiffclust.clustering.method import build
  from jdiffclust.sharding import mesh_of, replicate, split_rows
  mesh, size = mesh_of(config), config.m_step.batch_size
  method = build(config, shape, 256, mesh)
  images = np.random.default_rng(0).uniform(-1, 1, (size, *shape))
  minibatch = split_rows(
      Batch(images.astype(np.float32), np.arange(size, dtype=np.int32)), mesh)
  tau = replicate(np.full((size, config.num_clusters), 1 / config.num_clusters,
                          np.float32), mesh)
  state, key = [method.init_state()], jax.random.key(0)

  def step():
    for _ in range(steps):
      state[0], info = method.m_step(state[0], minibatch, tau, key)
    info.loss.block_until_ready()

  return step


def shape_of(name: str) -> tuple[int, int, int]:
  """(H, W, C) of the grey images that a config is timed with."""
  return SIDES[name], SIDES[name], 1


def options_of(name: str) -> dict:
  """The options of a config that is timed: its symmetries are given."""
  return dict.fromkeys(SYMMETRIES, 0.) | (ONE_UNET if name == 'mnist' else {})


def kinds_of_operations(step) -> collections.Counter:
  """Milliseconds a step by the kind of operation, from XLA's trace."""
  import jax
  found = collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(TRACED):
        step()
    path, = pathlib.Path(folder).rglob('*.xplane.pb')
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
      for line in plane.lines:
        for event in line.events:
          kind = re.sub(r'[.\d]+$', '', event.name)
          if re.fullmatch(r'[a-z_-]+', kind):  # what is left is of the runtime
            found[kind] += event.duration_ns / 1e6 / TRACED
  return found


def main() -> None:
  """Measures in this process."""
  parser = make_parser(__doc__)
  parser.add_argument('--config', choices=SIDES, default='mnist')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--devices', type=int, default=1)
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--ops', type=int, default=0)
  args = parser.parse_args()
  keep_freed_memory()  # as the command does, before JAX starts its threads
  return_what_compilers_leave()
  step = stepper(config_of(args.config, {
      **options_of(args.config), 'num_clusters': 10, 'num_devices': args.devices,
      'm_step.batch_size': args.batch}), shape_of(args.config))
  step()
  rows = []
  for _ in range(args.steps):
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    rows.append((time.perf_counter() - wall, time.process_time() - cpu))
  wall, cpu = np.median(rows, axis=0) * 1000
  print(f'{args.config}, batch {args.batch}, {args.devices} device(s): '
        f'{wall:.0f} ms, {cpu:.0f} ms of CPU')
  if args.ops:
    for kind, spent in kinds_of_operations(step).most_common(args.ops):
      print(f'{spent:8.1f} ms  {kind}')


if __name__ == '__main__':
  main()
