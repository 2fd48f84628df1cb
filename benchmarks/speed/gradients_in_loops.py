"""Gradients within loops on the CPU: convolutions that state their own, against JAX's.

  python -m benchmarks.speed.gradients_in_loops [--rounds=7] [--slow_rounds=1]
      [--batch=32] [--out=FILE]

Question:  how much faster are gradients in a `jax.lax.scan`, and are they slower outside?
Time:      some 10 minutes on two cores, most of it one round of JAX's own in a scan.
Kept:      benchmarks/results/gradients_in_loops.json; docs/benchmarks.md, Speed and
           memory.

The U-Net of configs/mnist.py (28x28), as in benchmarks.speed.throughput: a training step
(forward, backward, Adam), and the gradient of a denoised image's squared error with
respect to the noisy image alone, which guided restoration asks for at each step. Each is
measured on its own and as one of two steps of a scan, with the gradients that
`jdiffclust.networks.convolution.conv` states ("stated") and with those that JAX derives
("derived"). All are compiled in one process and take turns; a scan with derived gradients
takes part in the first `--slow_rounds` rounds only. Reported: medians of a step's
seconds and CPU seconds (of all threads; other work beside it changes them less), and the
ratios of the medians.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from unittest import mock

import numpy as np

from benchmarks.common import (
    commit, config_of, folder, make_parser, markdown, processor, write_json)

SIDE = 28
LENGTH = 2  # of the scans; XLA unrolls a scan of one step
WORKS = {'train': 'training step', 'image': 'gradient of the image'}


def derived():
  """A context in which networks are traced with gradients that JAX derives."""
  from jax import lax

  def conv(image, kernel, strides, padding):
    return lax.conv_general_dilated(image, kernel, strides, padding,
                                    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  return mock.patch('jdiffclust.networks.convolution.conv', conv)


def make_calls(batch: int) -> dict:
  """Compiled calls by (work, 'alone' or 'scan'); each makes one, or LENGTH, steps."""
  import jax
  import jax.numpy as jnp

  from jdiffclust.batch import Batch
  from jdiffclust.clustering.method import build
  from jdiffclust.sharding import make_mesh
  config = config_of('mnist', {
      'm_step.batch_size': batch, 'network.dropout': 0.,
      'network.conditioning': 'concatenated', 'em.posterior': 'monte_carlo'})
  method = build(config, (SIDE, SIDE, 1), 256, make_mesh(1))
  images = jnp.asarray(
      np.random.default_rng(0).uniform(-1, 1, (batch, SIDE, SIDE, 1)), jnp.float32)
  minibatch = Batch(images, jnp.arange(batch, dtype=jnp.int32))
  tau = jnp.full((batch, config.num_clusters), 1 / config.num_clusters)
  t = jnp.full((batch,), 500, jnp.int32)
  network = method.init_state().params.network

  def train(state):
    return method.m_step(state, minibatch, tau, jax.random.key(0))[0]

  @jax.grad
  def error(x):
    return jnp.sum((method.model.denoise(network, x, t, images) - images)**2)

  def move(x):
    return x - 1e-3 * error(x)

  calls = {}
  for work, step, first in (('train', train, method.init_state), ('image', move,
                                                                 lambda: images + 0)):
    scan = lambda value, step=step: jax.lax.scan(
        lambda value, _: (step(value), None), value, None, length=LENGTH)[0]
    for place, function in (('alone', step), ('scan', scan)):
      compiled, value = jax.jit(function, donate_argnums=0), [first()]

      def call(compiled=compiled, value=value):
        value[0] = jax.block_until_ready(compiled(value[0]))

      call()
      calls[work, place] = call
  return calls


def main() -> None:
  """Alternates all calls, prints the table and writes the times."""
  parser = make_parser(__doc__)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--slow_rounds', type=int, default=1)
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--out', type=folder, default='runs/gradients_in_loops.json')
  args = parser.parse_args()
  calls = {}
  for kind, context in (('stated', contextlib.nullcontext), ('derived', derived)):
    with context():
      calls |= {(kind, *name): call for name, call in make_calls(args.batch).items()}
  times = {name: [] for name in calls}
  for number in range(args.rounds):
    for name in list(calls)[::-1 if number % 2 else 1]:
      if name[0] == 'derived' and name[2] == 'scan' and number >= args.slow_rounds:
        continue
      began, worked = time.perf_counter(), time.process_time()
      calls[name]()
      steps = LENGTH if name[2] == 'scan' else 1
      times[name].append(((time.perf_counter() - began) / steps,
                          (time.process_time() - worked) / steps))
  rows = []
  for work, title in WORKS.items():
    for place in ('alone', 'scan'):
      row = [f"{title}, {'in a scan' if place == 'scan' else 'alone'}"]
      for clock in (0, 1):
        own, stated = (statistics.median(pair[clock] for pair in times[kind, work, place])
                       for kind in ('derived', 'stated'))
        row += [f'{own:.2f}', f'{stated:.2f}', f'{own / stated:.2f}']
      rows.append(row)
  print(markdown(('one step', 'derived, s', 'stated, s', 'ratio', 'derived, CPU s',
                  'stated, CPU s', 'ratio'), rows))
  write_json(args.out, {
      'processor': processor(), 'commit': commit(), 'batch': args.batch,
      'seconds_and_cpu_seconds_a_step': {
          ' '.join(name): pairs for name, pairs in times.items()}})


if __name__ == '__main__':
  main()
