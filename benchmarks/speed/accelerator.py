"""How fast a fit is on whatever device there is, and what is known of it without one.

  python -m benchmarks.speed.accelerator [--minutes=8] [--configs=mnist,cifar10]
      [--dtypes=float32,bfloat16] [--small] [--peak-tflops=FLOAT32,BFLOAT16]
      [--most-batch=N] [--out=FILE]
  python -m benchmarks.speed.accelerator --lowering [--configs=mnist,cifar10]

Question:  what does a GPU or TPU train and evaluate, how much of its peak is that, and
           are its numbers those of a CPU?
Time:      at most --minutes, 8; with --small a CPU minute or two for each config and
           type; --lowering a minute or two.
Kept:      FILE, by default runs/accelerator.json; docs/devices.md, docs/benchmarks.md.

Nothing is downloaded: images are noise. Each config and type runs in a process of its
own, each part of it after another, so that one that runs out of memory or time loses no
other; what is left out is told. Times are medians after a warm-up, of several steps that
are waited for once.

  train          images/s of a config's own gradient step, and peak memory
  E-step         evaluations/s of the network (its second stage, for each cluster)
  samples        images/s of DDIM
  one U-Net      the step of a whole U-Net an image, as PyTorch's
  utilisation    of the peak, by both steps: their FLOPs are XLA's count, loops over
                 clusters unrolled
  largest batch  batches doubled until memory ends; on a CPU, where that ends the process,
                 to --most-batch
  devices        images/s on 1, 2, 4, ... of them, as many images on each
  PyTorch        diffusers' U-Net of the same levels, where it is installed
  check          a gradient step, the bound and samples of a small network against the
                 CPU's in float32

The peaks of cards: `cards.py`; of others none is known unless --peak-tflops tells it.
--lowering needs no device: `lowering.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import (
    ROOT, commit, folder, make_parser, markdown, median_seconds, names, processor,
    write_json)
from benchmarks.speed.cards import card_of, utilisation

CONFIGS, DTYPES = ('mnist', 'cifar10'), ('float32', 'bfloat16')
PARTS = ('train', 'E-step', 'samples', 'one U-Net', 'utilisation', 'largest batch',
         'devices')
TORCH_PARTS = ('PyTorch',)
# The largest relative difference from the CPU's float32 that is taken for rounding, by
# how the device computes: float32 throughout; JAX's default (TF32 of 10 bits, on TPUs
# bfloat16); bfloat16, of 7.
TOLERANCES = {'float32, highest precision': 1e-3, 'float32': 1e-2, 'bfloat16': 3e-2}
LEFT_OUT = 'left_out'
MARGIN = 5  # seconds that ending takes
# The networks of --small and of the check.
SMALL = {'network.channels': 8, 'network.channel_multipliers': (1,),
         'network.attention_levels': (), 'network.blocks_per_level': 1,
         'network.num_groups': 4, 'network.num_heads': 2, 'network.head': 'small',
         'em.posterior': 'monte_carlo', 'diffusion.num_steps': 50,
         'e_step.num_draws': 2, 'e_step.batch_size': 8, 'm_step.batch_size': 8}
# What compiles the programs of --small in half the time, to run slowly.
CARELESS = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
CHECKED = (8, 8, 3)  # the shape of the images of the check


# ------------------------------------------------------------------------ budget, memory


class Budget(NamedTuple):
  """The time there is.

  Attributes:
    ends: when it is over, in seconds of `now`.
    now: the clock.
  """

  ends: float
  now: Callable[[], float] = time.time

  def left(self) -> float:
    """Seconds; none are below 0."""
    return max(0., self.ends - self.now())

  def share(self, number: int) -> Budget:
    """The budget of the first of `number` processes that share what is left."""
    return self._replace(ends=self.now() + self.left() / number)


def out_of_memory(error: BaseException) -> bool:
  """Whether an error says that memory has run out, of JAX, PyTorch or Python."""
  text = str(error)
  return isinstance(error, MemoryError) or any(
      word in text for word in ('RESOURCE_EXHAUSTED', 'out of memory', 'Out of memory'))


class Doubled(NamedTuple):
  """Batches that were tried.

  Attributes:
    rates: images/s by the size of the batch.
    ended: why there are no more.
  """

  rates: dict[int, float]
  ended: str


def doubled(rate: Callable[[int], float], rates: dict[int, float], first: int, most: int,
            budget: Budget) -> Doubled:
  """Doubles a batch until memory, time or a limit ends it.

  Args:
    rate: images/s of a batch; it raises where memory has run out.
    rates: those that are known.
    first: the first batch that is tried.
    most: the largest; 0: there is no limit.
    budget: none is begun when it is over.
  """
  rates, size = dict(rates), first
  while not most or size <= most:
    if not budget.left():
      return Doubled(rates, f'no time left for {size}')
    try:
      rates[size] = rate(size)
    except Exception as error:
      if not out_of_memory(error):
        raise
      return Doubled(rates, f'out of memory at {size}')
    size *= 2
  return Doubled(rates, f'no more than {most} were to be tried')


def run_parts(parts: dict[str, Callable[[], dict]], budget: Budget,
              tell: Callable[[dict], None]) -> None:
  """Runs parts one after another; what fails, or has no time, is told and left out."""
  for part, call in parts.items():
    if not budget.left():
      tell({'part': part, LEFT_OUT: 'no time left'})
      continue
    try:
      found = call()
    except Exception as error:
      found = {LEFT_OUT: 'out of memory' if out_of_memory(error) else
               f'{type(error).__name__}: {(str(error) or "?").splitlines()[0]}'}
    tell({'part': part, **found})


# --------------------------------------------------------------------- in a child process


def options_for(dtype: str, batch: int, devices: int, small: bool) -> dict:
  """Changes to a config: a type, images of a gradient step (0: its own), devices."""
  changes: dict[str, Any] = {'network.dtype': dtype, 'num_devices': devices}
  changes |= SMALL if small else {'e_step.num_draws': 4}
  return changes | ({'m_step.batch_size': batch} if batch else {})


def peak_memory() -> tuple[float, str]:
  """MiB that the first device has held at most, and of what they are."""
  import jax
  known = jax.devices()[0].memory_stats()
  if known and 'peak_bytes_in_use' in known:
    return known['peak_bytes_in_use'] / 2**20, "the device's"
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, "the process's"


def parts_of(name: str, dtype: str, args, budget: Budget) -> dict:
  """The parts of a config and a type, by name.

  Args:
    name: of the config.
    dtype: compute type.
    args: of the command line.
    budget: of this process.
  """
  import jax

  from benchmarks.speed.lowering import SHAPES, config_for, cost_of_step
  from benchmarks.speed.step import ONE_UNET, stepper
  from jdiffclust.sharding import share_out_cores
  share_out_cores()
  devices, shape = jax.devices(), SHAPES[name]
  on_cpu = devices[0].platform == 'cpu'
  steps, repeats = (1, 2) if on_cpu else (10, 5)
  peak = peaks_of(args.peak_tflops, devices[0].device_kind).get(dtype)
  config = lambda batch=0, devices=1, further={}: config_for(
      name, options_for(dtype, batch, devices, args.small) | further)

  own: dict[int, float] = {}  # images/s of the config's own batch, once it is known
  steps_of = {'train': config(), 'one U-Net': config(further=ONE_UNET)}
  rates: dict[str, float] = {}

  def images_per_second(config):
    step = stepper(config, shape, steps)
    seconds = median_seconds({'': step}, repeats)['']
    return steps * config.m_step.batch_size / seconds

  def train(part):
    batch = steps_of[part].m_step.batch_size
    rates[part] = rate = images_per_second(steps_of[part])
    return {'images_per_second': rate, 'batch': batch,
            'text': f'{rate:,.1f} images/s at batch {batch}'}

  def train_own():
    found = train('train')
    own[found['batch']] = rates['train']
    memory, whose = peak_memory()
    return found | {'peak_mib': memory, 'text':
                    f"{found['text']}, peak memory {memory:,.0f} MiB ({whose})"}

  def utilise():
    found: dict[str, Any] = {}
    for part, rate in rates.items():
      batch = steps_of[part].m_step.batch_size
      flops = cost_of_step(steps_of[part], shape).flops
      found[part] = {'flop_an_image': flops / batch, 'flop_per_second':
                     rate * flops / batch, 'utilisation':
                     utilisation(flops, batch / rate, 1, peak) if peak else None}
    if not found:
      return {LEFT_OUT: 'no speed is known'}
    say = lambda of: (
        f"{of['flop_an_image'] / 1e9:.3g} GFLOP an image, "
        f"{of['flop_per_second'] / 1e12:.3g} TFLOP/s, " + (
            f"{of['utilisation']:.1%} of the peak" if peak else
            'the peak is unknown (--peak-tflops)'))
    return found | {'text': '; '.join(f'{part}: {say(of)}' for part, of in found.items())}

  def largest():
    batch = config().m_step.batch_size
    most = args.most_batch or (2 * batch if on_cpu else 0)
    found = doubled(lambda size: images_per_second(config(size)), own,
                    2 * batch if own else batch, most, budget)
    return {**found._asdict(), 'text': ', '.join(
        f'{size}: {rate:,.1f} images/s' for size, rate in found.rates.items())
        + f'; {found.ended}'}

  def scaling():
    if len(devices) == 1:
      return {LEFT_OUT: 'there is one device'}
    batch = config().m_step.batch_size
    by_count, late = {1: own.get(batch) or images_per_second(config())}, ''
    for count in counts_up_to(len(devices)):
      if not budget.left():
        late = f'; no time left for {count}'
        break
      chosen = config(count * batch, count,
                      {'e_step.batch_size': count * config().e_step.batch_size})
      by_count[count] = images_per_second(chosen)
    return {'rates': by_count, 'text': ', '.join(
        f'{count}: {rate:,.1f} images/s ({rate / count / by_count[1]:.0%})'
        for count, rate in by_count.items()) + late
        + (' (cores of one processor)' if on_cpu else '')}

  return {'train': train_own, 'E-step': lambda: evaluations(config(), shape, repeats),
          'samples': lambda: samples(config(), shape, 5 if args.small else 50, repeats),
          'one U-Net': lambda: train('one U-Net'), 'utilisation': utilise,
          'largest batch': largest, 'devices': scaling}


def counts_up_to(number: int) -> list[int]:
  """2, 4, 8, ... devices, and all of them."""
  return sorted({*(2**n for n in range(1, number.bit_length())), number})


def evaluations(config, shape, repeats: int) -> dict:
  """Evaluations/s of an E-step on noise."""
  import jax
  method, images = built(config, shape, config.e_step.batch_size)
  params, key = method.init_state().params, jax.random.key(0)
  call = lambda: jax.block_until_ready(
      method.e_step(method.e_estimator, params, images, key))
  seconds = median_seconds({'': call}, repeats)['']
  size, draws = config.e_step.batch_size, config.e_step.num_draws
  rate = size * config.num_clusters * draws / seconds
  return {'evaluations_per_second': rate, 'batch': size, 'text':
          f'{rate:,.1f} evaluations/s at batch {size}, {config.num_clusters} clusters'}


def samples(config, shape, steps: int, repeats: int) -> dict:
  """Images/s of the sampler ddim."""
  import jax
  size = config.m_step.batch_size
  method, images = built(config, shape, size)
  draw, state = sampler_of(method, steps), method.init_state()
  keys = jax.random.split(jax.random.key(0), size)
  call = lambda: jax.block_until_ready(draw(state.params, keys, images.images))
  rate = size / median_seconds({'': call}, repeats)['']
  return {'images_per_second': rate, 'steps': steps, 'batch': size,
          'text': f'{rate:,.1f} images/s of {steps} steps of DDIM at batch {size}'}


def built(config, shape, size: int):
  """The method of a config, and a batch of noise on its device."""
  from jdiffclust.batch import Batch
  from jdiffclust.clustering.method import build
  from jdiffclust.sharding import mesh_of, split_rows
  method = build(config, shape, 256, mesh_of(config))
  images = np.random.default_rng(0).uniform(-1, 1, (size, *shape)).astype(np.float32)
  return method, split_rows(Batch(images, np.arange(size, dtype=np.int32)), method.mesh)


def sampler_of(method, steps: int):
  """(params, keys [B], mu [B, H, W, C]) -> images, by ddim."""
  from jdiffclust.clustering.generation import generate
  from jdiffclust.diffusion.paths import from_process
  from jdiffclust.diffusion.samplers import make_sampler
  from jdiffclust.sharding import replicate
  sampler, table = make_sampler('ddim', from_process(method.process), steps, 'leading')
  table = replicate(table, method.mesh)
  return lambda params, keys, mu: generate(
      table, method.denoiser(params), keys, mu, mesh=method.mesh, sampler=sampler,
      num_states=0).images


def peaks_of(told: list[float] | None, kind: str) -> dict[str, float]:
  """FLOP/s by compute type, as told in TFLOP/s or by the table; {}: unknown."""
  if told:
    return dict(zip(DTYPES, (1e12 * told[0], 1e12 * told[-1])))
  card = card_of(kind)
  return {dtype: getattr(card, dtype) for dtype in DTYPES} if card else {}


# ------------------------------------------------------------------------------ the check


def answers(device, dtype: str, precision: str) -> dict[str, np.ndarray]:
  """What a small network, the same on every device, makes of noise.

  Args:
    device: of JAX.
    dtype: compute type.
    precision: of products of float32 arrays, 'default' or 'highest'.

  Returns:
    The loss and the gradient's norm of a step, bounds of images, and samples.
  """
  import jax

  from benchmarks.speed.lowering import config_for
  from jdiffclust.batch import Batch
  from jdiffclust.clustering.method import build
  from jdiffclust.sharding import DATA_AXIS, replicate, to_host
  config = config_for('cifar10', options_for(dtype, 8, 1, True) | {
      'network.dropout': 0.})
  rng = np.random.default_rng(0)
  mesh = jax.sharding.Mesh(np.array([device]), (DATA_AXIS,))
  with jax.default_device(device), jax.default_matmul_precision(precision):
    method = build(config, CHECKED, 256, mesh)
    # Untrained, the last convolution is 0, and what comes before it is not seen.
    noise = lambda a: a + .05 * rng.normal(size=a.shape).astype(a.dtype)
    state = to_host(method.init_state())
    network = jax.tree.map(noise, state.params.network)
    params = state.params._replace(network=network)
    batch = replicate(Batch(rng.uniform(-1, 1, (8, *CHECKED)).astype(np.float32),
                            np.arange(8, dtype=np.int32)), mesh)
    tau = replicate(np.full((8, config.num_clusters), 1 / config.num_clusters,
                            np.float32), mesh)
    params = replicate(params, mesh)
    key = jax.random.key(0)
    _, info = method.e_step(method.e_estimator, params, batch, key)
    images = sampler_of(method, 5)(params, jax.random.split(key, 8), batch.images)
    _, step = method.m_step(replicate(state._replace(params=to_host(params)), mesh),
                            batch, tau, key)
    return to_host({'loss': step.loss, 'gradient norm': step.gradient_norm,
                    'bound': info.bound, 'samples': images})


def difference(found: dict, expected: dict) -> dict[str, float]:
  """The length of each difference over that of what is expected."""
  return {name: float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
          for name, value in expected.items()}


def check() -> dict:
  """Compares this device with the CPU, see TOLERANCES."""
  import jax
  device = jax.devices()[0]
  expected = answers(jax.devices('cpu')[0], 'float32', 'highest')
  found, lines = {}, []
  for kind, tolerance in TOLERANCES.items():
    dtype, _, precise = kind.partition(', ')
    of = difference(answers(device, dtype, 'highest' if precise else 'default'), expected)
    worst = max(of, key=of.__getitem__)
    good = bool(of[worst] <= tolerance)
    found[kind] = {'differences': of, 'tolerance': tolerance, 'within': good}
    lines.append(f'{kind}: {of[worst]:.1e} ({worst}), '
                 f"{'within' if good else 'NOT WITHIN'} {tolerance:g}")
  return {'found': found, 'text': '; '.join(lines) + (
      ' (the device is the CPU itself)' if device.platform == 'cpu' else '')}


# -------------------------------------------------------------------------------- PyTorch


def torch_parts(name: str, dtype: str, args) -> dict:
  """The U-Net of a config in PyTorch: images/s and evaluations/s."""
  def measure():
    import torch

    from benchmarks.speed.lowering import SHAPES, config_for
    from benchmarks.speed.throughput import matched_unet, steps_of_torch
    on_gpu = torch.cuda.is_available()
    device = 'cuda' if on_gpu else 'cpu'
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    config = config_for(name, options_for(dtype, 0, 1, args.small))
    shape, batch = SHAPES[name], config.m_step.batch_size
    steps, repeats = (10, 5) if on_gpu else (1, 2)
    network = matched_unet(config, shape, 2 * shape[2]).to(
        device, memory_format=torch.channels_last)
    context = contextlib.nullcontext if dtype == 'float32' else (
        lambda: torch.autocast(device, torch.bfloat16))
    calls = dict(zip(('train', 'evaluate'),
                     steps_of_torch(network, shape, batch, context)))

    def several(call):
      for _ in range(steps):
        call()
      if on_gpu:
        torch.cuda.synchronize()

    seconds = median_seconds({key: lambda call=call: several(call)
                              for key, call in calls.items()}, repeats)
    rates = {key: steps * batch / value for key, value in seconds.items()}
    count = sum(p.numel() for p in network.parameters())
    return {**rates, 'parameters': count, 'text':
            f"{rates['train']:,.1f} images/s, {rates['evaluate']:,.1f} evaluations/s at "
            f'batch {batch} on {device}, {count:,} parameters'}

  return {'PyTorch': measure}


# -------------------------------------------------------------------------- all processes


def machine() -> dict:
  """What JAX finds here."""
  import jax

  from jdiffclust.sharding import share_out_cores
  share_out_cores()
  devices = jax.devices()
  return {'platform': devices[0].platform, 'device_kind': devices[0].device_kind,
          'devices': len(devices), 'jax': jax.__version__}


def child(args) -> None:
  """Measures in this process, a line of JSON for each part."""
  kind, _, case = args.child.partition(':')
  name, _, dtype = case.partition(',')
  budget = Budget(args.ends)
  tell = lambda found: print(json.dumps(found), flush=True)
  if kind == 'torch':
    return run_parts(torch_parts(name, dtype, args), budget, tell)
  from jdiffclust.memory import keep_freed_memory, return_what_compilers_leave
  keep_freed_memory()  # as the command does, before JAX starts its threads
  return_what_compilers_leave()
  if kind == 'check':
    tell({'part': 'machine', **machine()})
    return run_parts({'check': check}, budget, tell)
  return run_parts(parts_of(name, dtype, args, budget), budget, tell)


def lines_of(command: list[str], hard: Budget,
             further: Mapping[str, str] = {}) -> Iterator[dict]:
  """What a process tells, line by line, and last how it ended if not well.

  Args:
    command: that starts it.
    hard: when it is over the process is ended.
    further: variables of its environment.
  """
  with tempfile.TemporaryFile('w+') as errors:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
        env={'XLA_PYTHON_CLIENT_MEM_FRACTION': '.92', **os.environ, **further})
    timer = threading.Timer(hard.left(), process.kill)
    timer.start()
    try:
      assert process.stdout is not None
      for line in process.stdout:
        if line.startswith('{'):
          yield json.loads(line)
      code = process.wait()
    finally:
      timer.cancel()
      process.kill()
    if code:
      errors.seek(0)
      last = (errors.read().strip().splitlines() or [''])[-1]
      yield {'process': 'no time left' if not hard.left() else
             f'the process ended with code {code}' + (
                 ', killed, perhaps for want of memory' if code == -9 else
                 f': {last}'[:200] if last else '')}


def measure_all(args) -> dict:
  """Runs all processes, prints what they tell, and returns it."""
  whole = Budget(time.time() + 60 * args.minutes - MARGIN)
  cases = [('check', '', '', ('machine', 'check'))]
  cases += [('measure', name, dtype, PARTS) for name in args.configs
            for dtype in args.dtypes]
  torch = [('torch', name, dtype, TORCH_PARTS) for name in args.configs
           for dtype in args.dtypes]
  missing = [module for module in ('torch', 'diffusers')
             if importlib.util.find_spec(module) is None]
  if missing:
    print(f"PyTorch: left out, {' and '.join(missing)} not installed (extra bench)",
          flush=True)
  else:
    cases += torch
  further = {'XLA_FLAGS': f"{os.environ.get('XLA_FLAGS', '')} {CARELESS}"} if (
      args.small) else {}
  asked = os.environ.get('JAX_PLATFORMS', '')
  if asked and 'cpu' not in asked.split(','):  # it checks, and counts operations
    further['JAX_PLATFORMS'] = f'{asked},cpu'
  found: dict[str, dict] = {}
  for number, (kind, name, dtype, parts) in enumerate(cases):
    ends = whole.share(len(cases) - number).ends
    label = ' '.join((name, dtype)).strip()
    results = found.setdefault(label or 'device', {})
    command = [sys.executable, '-m', 'benchmarks.speed.accelerator',
               f'--child={kind}:{name},{dtype}', f'--ends={ends}',
               f'--most-batch={args.most_batch}', *['--small'] * args.small,
               *([f"--peak-tflops={','.join(map(str, args.peak_tflops))}"]
                 if args.peak_tflops else [])]
    ended = 'no time left'
    if whole.left():
      for told in lines_of(command, whole, further):
        if 'process' in told:
          ended = told['process']
        else:
          results[told.pop('part')] = told
          show(label, list(results)[-1], told)
    for part in parts:
      if part not in results:
        results[part] = {LEFT_OUT: ended}
        show(label, part, results[part])
  return found


def show(label: str, part: str, told: dict) -> None:
  """Prints the line of a part."""
  text = f"left out, {told[LEFT_OUT]}" if LEFT_OUT in told else told.get('text') or (
      ', '.join(f'{key} {value}' for key, value in told.items()))
  print(f'{label} {part}: {text}'.strip(), flush=True)


def table_of(found: dict) -> str:
  """Our speeds and PyTorch's, a row for each config and type."""
  def cell(results, part, key, form=',.1f'):
    value = results.get(part, {}).get(key)
    if isinstance(value, dict):
      value = value['utilisation']
    return '–' if value is None else f'{value:{form}}'
  return markdown(
      ('', 'train, images/s', 'utilisation', 'E-step, evaluations/s', 'samples/s',
       'peak MiB', 'one U-Net, images/s', 'PyTorch, images/s'),
      [[label, cell(of, 'train', 'images_per_second'),
        cell(of, 'utilisation', 'train', '.1%'),
        cell(of, 'E-step', 'evaluations_per_second'),
        cell(of, 'samples', 'images_per_second'), cell(of, 'train', 'peak_mib', ',.0f'),
        cell(of, 'one U-Net', 'images_per_second'), cell(of, 'PyTorch', 'train')]
       for label, of in found.items() if label != 'device'])


def teraflops(text: str) -> list[float]:
  """One number, or two, above 0."""
  found = [float(part) for part in text.split(',')]
  if len(found) > 2 or min(found) <= 0:
    raise argparse.ArgumentTypeError(
        f'{text!r}: give the peak in TFLOP/s, of float32 and of bfloat16, as 494,989')
  return found


def main() -> None:
  """Measures, or tells what is known without a device; writes it down."""
  parser = make_parser(__doc__)
  parser.add_argument('--minutes', type=float, default=8.)
  parser.add_argument('--configs', type=names(CONFIGS), default=','.join(CONFIGS))
  parser.add_argument('--dtypes', type=names(DTYPES), default=','.join(DTYPES))
  parser.add_argument('--small', action='store_true', help='small networks and batches')
  parser.add_argument('--peak-tflops', type=teraflops, help="a device's peak, TFLOP/s of "
                      'float32 and of bfloat16, where the table has it not')
  parser.add_argument('--most-batch', type=int, default=0, help='the largest batch that '
                      'is tried; 0: on a CPU twice the first, else what fits')
  parser.add_argument('--lowering', action='store_true', help='what is known without a '
                      'device')
  parser.add_argument('--out', type=folder, default='runs/accelerator.json')
  parser.add_argument('--child', help=argparse.SUPPRESS)
  parser.add_argument('--ends', type=float, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    child(args)
    return
  began = time.time()
  if args.lowering:
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    from benchmarks.speed import lowering
    found = lowering.report(args.configs, args.small)
  else:
    found = measure_all(args)
    print('\n' + table_of(found))
  settings = {key: value for key, value in vars(args).items()
              if key not in ('child', 'ends', 'out')}
  write_json(args.out, {'commit': commit(), 'processor': processor(),
                        'settings': settings, 'seconds': time.time() - began,
                        'found': found})


if __name__ == '__main__':
  main()
