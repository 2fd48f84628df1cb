"""What the devices of a run tell each other, and how fast many of them would be.

  python -m benchmarks.speed.devices [--config=mnist] [--share=8] [--steps=5]
      [--rate=IMAGES_PER_SECOND] [--fixed=MS] [--bandwidth=1,10,100] [--latency=10]

Question:  which part of a step are collectives, and what would 8, 64, 512 devices train?
Time:      some ten minutes on two cores, nearly all of them compiling.
Kept:      docs/benchmarks.md, Many devices.

Counted in the program that XLA has compiled for one device of n: floating-point
operations and bytes touched, by its own cost analysis, and the bytes that collectives
hand over.

The model: a step on b images takes a device s(b) = fixed + b / rate seconds, and a ring
of n devices hands G bytes on in 2 (n - 1) / n G / bandwidth + 2 (n - 1) latency; nothing
of the one hides behind the other. So n devices train n b / (s(b) + ring) images a second.
It is checked here for its shape: n virtual devices are n times the work on the same
cores, so CPU seconds of a step should be n s(b) plus those of handing G bytes on,
measured alone.
`--rate` and `--fixed` put another device's figures in the place of this core's.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import time
from typing import NamedTuple

import numpy as np

from benchmarks.common import config_of, make_parser, markdown
from benchmarks.speed.step import SIDES, options_of
from jdiffclust.memory import keep_freed_memory
from jdiffclust.programs import keep_programs

DEVICES = (1, 2, 4, 8)
FAR = (8, 64, 512)
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
               'collective-permute', 'collective-broadcast')
BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2, 's32': 4,
         'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}


# ------------------------------------------------------------------------- the program


class Cost(NamedTuple):
  """Of one device's program.

  Attributes:
    calls: collectives.
    handed: bytes of their results.
    touched: bytes that all operations read and write.
    flops: floating-point operations.
  """

  calls: int
  handed: int
  touched: float
  flops: float


def handed_on(text: str) -> list[int]:
  """The bytes of the result of each collective in the text of a compiled program."""
  found = []
  for line in text.splitlines():
    # One that ends later than it starts is counted where it ends: there its type is that
    # of the result alone.
    match = re.search(r'= (.+?) ({})(-done)?\('.format('|'.join(COLLECTIVES)), line)
    if match:
      found.append(sum(
          BYTES[kind] * math.prod(map(int, filter(None, sides.split(','))))
          for kind, sides in re.findall(r'(\w+)\[([\d,]*)\]', match[1])))
  return found


def cost_of(devices: int, function, *arguments) -> Cost:
  """The `Cost` of a jitted function for some arguments; one device hands nothing on."""
  compiled = function.lower(*arguments).compile()
  handed = handed_on(compiled.as_text()) if devices > 1 else []
  known = compiled.cost_analysis()
  return Cost(len(handed), sum(handed), known['bytes accessed'], known['flops'])


# --------------------------------------------------------------------------- the model


class Device(NamedTuple):
  """What is known of one device: `fixed` s a step, and `rate` images/s beyond it."""

  fixed: float
  rate: float

  def seconds(self, images: int) -> float:
    """Of a step on so many images."""
    return self.fixed + images / self.rate


class Link(NamedTuple):
  """Between neighbours in the ring: bytes/s, and seconds before the first arrives."""

  bandwidth: float
  latency: float

  def seconds(self, devices: int, size: int) -> float:
    """Of a sum of `size` bytes over a ring of devices: each hands on 2 (n - 1) parts."""
    return 2 * (devices - 1) * (size / devices / self.bandwidth + self.latency)


def images_per_second(devices: int, share: int, device: Device, link: Link,
                      size: int) -> float:
  """Of n devices with `share` images each, which sum `size` bytes a step."""
  return devices * share / (device.seconds(share) + link.seconds(devices, size))


def fitted(seconds: dict[int, float]) -> Device:
  """The `Device` that comes nearest to the seconds of steps on numbers of images."""
  slope, fixed = np.polyfit(list(seconds), list(seconds.values()), 1)
  return Device(max(0., float(fixed)), 1 / float(slope))


# ------------------------------------------------------------------------- measurements


def step_of(name: str, devices: int, share: int):
  """(the jitted gradient step, its arguments, the E-step, its arguments) of a config.

  Args:
    name: of SIDES.
    devices: n.
    share: images on each.
  """
  import jax

  from jdiffclust.batch import Batch
  from jdiffclust.clustering.method import build
  from jdiffclust.sharding import mesh_of, replicate, split_rows
  size, side = devices * share, SIDES[name]
  config = config_of(name, {
      **options_of(name), 'num_clusters': 10, 'num_devices': devices,
      'm_step.batch_size': size, 'e_step.batch_size': size})
  mesh = mesh_of(config)
  method = build(config, (side, side, 1), 256, mesh)
  images = np.random.default_rng(0).uniform(-1, 1, (size, side, side, 1))
  batch = split_rows(Batch(images.astype(np.float32), np.arange(size, dtype=np.int32)),
                     mesh)
  tau = replicate(np.full((size, config.num_clusters), 1 / config.num_clusters,
                          np.float32), mesh)
  key, state = jax.random.key(0), method.init_state()
  return (jax.jit(method.m_step, donate_argnums=0), (state, batch, tau, key),
          jax.jit(method.e_step), (method.e_estimator, state.params, batch, key))


def cpu_of(call, repeats: int) -> float:
  """The median CPU seconds of a call, after one that is not counted."""
  found = []
  for number in range(repeats + 1):
    began = time.process_time()
    call()
    if number:
      found.append(time.process_time() - began)
  return float(np.median(found))


def cpu_of_step(name: str, devices: int, share: int, repeats: int) -> float:
  """CPU seconds of a gradient step."""
  import jax
  step, (state, *rest), _, _ = step_of(name, devices, share)
  kept = [state]

  def call():
    kept[0], info = step(kept[0], *rest)
    jax.block_until_ready((kept[0], info))

  return cpu_of(call, repeats)


def cpu_of_sum(devices: int, size: int, repeats: int) -> float:
  """CPU seconds in which n virtual devices sum vectors of `size` bytes."""
  import jax
  import jax.numpy as jnp

  from jdiffclust.sharding import DATA_AXIS, SPLIT, WHOLE, make_mesh
  mesh = make_mesh(devices)
  total = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x[0], DATA_AXIS), mesh=mesh,
                                in_specs=SPLIT, out_specs=WHOLE))
  given = jax.device_put(jnp.ones((devices, size // 4)),
                         jax.sharding.NamedSharding(mesh, SPLIT))
  return cpu_of(lambda: total(given).block_until_ready(), repeats)


# ------------------------------------------------------------------------------ tables


def cells(label: str, of: Cost) -> list[str]:
  """A row of the table of costs."""
  return [label, f'{of.flops / 1e9:.2f}', f'{of.touched / 2**20:.0f}', str(of.calls),
          f'{of.handed / 2**20:.2f}', f'{of.handed / of.touched:.2%}']


def main() -> None:
  """Counts, measures and predicts."""
  parser = make_parser(__doc__)
  numbers = lambda text: [float(part) for part in text.split(',')]
  parser.add_argument('--config', choices=SIDES, default='mnist')
  parser.add_argument('--share', type=int, default=8)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--rate', type=float, help='images/s of one device')
  parser.add_argument('--fixed', type=float, default=0., help='ms a step, with --rate')
  parser.add_argument('--bandwidth', type=numbers, default='1,10,100', help='GB/s')
  parser.add_argument('--latency', type=float, default=10., help='microseconds')
  options = parser.parse_args()
  os.environ['XLA_FLAGS'] = (os.environ.get('XLA_FLAGS', '')
                             + f' --xla_force_host_platform_device_count={DEVICES[-1]}')
  keep_freed_memory()  # as the command does, before JAX starts its threads
  with tempfile.TemporaryDirectory() as folder:
    section = config_of(options.config).programs
    section.folder = folder  # what is counted is run afterwards
    keep_programs(section)
    report(options)


def report(options) -> None:
  """Prints the three tables."""
  name, share = options.config, options.share
  rows, size = [], 0
  for devices in DEVICES:
    m_step, given, e_step, images = step_of(name, devices, share)
    found = cost_of(devices, m_step, *given), cost_of(devices, e_step, *images)
    size = max(size, found[0].handed)
    rows += [cells(f'{step}, {devices} device(s)', cost)
             for step, cost in zip(('M-step', 'E-step'), found)]
  print(markdown((f'{name}, {share} images a device', 'GFLOP', 'MiB touched',
                  'collectives', 'MiB handed on', 'of the bytes'), rows) + '\n',
        flush=True)

  here = fitted({images: cpu_of_step(name, 1, images, options.steps)
                 for images in (share // 2, share, 2 * share)})
  print(f'One virtual device: {1000 * here.fixed:.0f} ms of CPU a step and '
        f'{here.rate:.0f} images/s beyond.\n', flush=True)
  rows = []
  for devices in DEVICES:
    steps = devices * here.seconds(share)
    sums = cpu_of_sum(devices, size, options.steps) if devices > 1 else 0.
    seen = cpu_of_step(name, devices, share, options.steps)
    rows.append([str(devices), *(f'{1000 * value:.0f}' for value in (
        steps, sums, steps + sums, seen)), f'{seen / (steps + sums):.2f}'])
  print(markdown(('virtual devices', 'steps, CPU ms', 'sum, CPU ms', 'predicted',
                  'measured', 'ratio'), rows) + '\n')

  device = Device(options.fixed / 1000, options.rate) if options.rate else here
  rows = []
  for bandwidth in options.bandwidth:
    link = Link(bandwidth * 1e9, options.latency / 1e6)
    alone = images_per_second(1, share, device, link, size)
    found = {n: images_per_second(n, share, device, link, size) for n in FAR}
    rows.append([f'{bandwidth:g}', f'{alone:,.0f}', *(
        f'{speed:,.0f} ({speed / n / alone:.0%})' for n, speed in found.items())])
  print(markdown(('link, GB/s', '1 device, images/s', *(f'{n} devices' for n in FAR)),
                 rows))


if __name__ == '__main__':
  main()
