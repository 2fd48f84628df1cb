"""What the programs of a fit are on GPUs and TPUs, as far as it is known without one.

  python -m benchmarks.speed.accelerator --lowering [--configs=mnist,cifar10]

JAX lowers a program for any platform; what is read here is what the compilers of CUDA and
TPUs are given (StableHLO): which arrays of activations are transposed or converted, and
why; whether anything in it asks for the host; how many operations it has, and how many
bytes it moves at least.
"""

from __future__ import annotations

import collections
import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import config_of, markdown
from benchmarks.speed.cards import CARDS, fastest
from jdiffclust.batch import Batch
from jdiffclust.clustering.generation import generate
from jdiffclust.clustering.method import Method, build
from jdiffclust.config import SYMMETRIES, copied
from jdiffclust.diffusion.paths import from_process
from jdiffclust.diffusion.samplers import make_sampler
from jdiffclust.inverse import moments, restorer
from jdiffclust.inverse.operators import box
from jdiffclust.inverse.problem import Problem
from jdiffclust.sharding import DATA_AXIS, make_mesh

SHAPES = {'mnist': (28, 28, 1), 'cifar10': (32, 32, 3)}
DTYPES = ('float32', 'bfloat16')
PLATFORMS = ('cuda', 'tpu')
# A batch by whose number arrays of activations are known: it divides no other length. (A
# race evaluates a quarter at once, by the layers of any E-step; those are not counted.)
BATCH = 17
STEPS = 4  # of samplers and of restoring: rows of their tables
LEAST = 32  # numbers of an image, from which an array is one of activations
BITS = {'i1': 8, 'bf16': 16, 'f16': 16, 'f32': 32, 'f64': 64}

# What is transposed or converted in one place of a layer, in one direction, at most, and
# why. Places are the module, or the function where no module is named.
MODEST = 'merged with the elementwise work around it'
WARPED = "a view's pixels, of the images alone"
LISTED = {
    ('convert', 'GroupNorm'): (2, f'moments and scale in float32; {MODEST}'),
    ('convert', 'ResidualBlock'): (1, f'scales and shifts in float32; {MODEST}'),
    ('convert', 'SelfAttention'): (2, f'the softmax in float32; {MODEST}'),
    ('convert', 'Output'): (1, f'the prediction in float32; {MODEST}'),
    ('convert', 'body'): (1, 'the image in the compute type'),
    ('convert', 'head'): (2, f'mu in the compute type, its mean in float32; {MODEST}'),
    ('convert', '_map_coordinates'): (2, f'{WARPED}: their places are integers'),
    ('transpose', '_map_coordinates'): (4, f'{WARPED}: colours first'),
    ('transpose', 'm_step'): (1, f'{WARPED}: colours last again'),
    ('transpose', 'closed_call'): (1, f'{WARPED}: colours last again'),
    ('transpose', 'eval_jaxpr'): (1, f'{WARPED}: colours last again'),  # JAX 0.12's name
    ('transpose', 'SelfAttention'): (
        2, 'heads before pixels, as products of matrices take them; at low resolution'),
}
# Asks the host, in the midst of a program.
HOST = ('stablehlo.infeed', 'stablehlo.outfeed', 'stablehlo.send', 'stablehlo.recv')


# -------------------------------------------------------------------------- the programs


def config_for(name: str, further: dict):
  """A config of configs/ whose images' symmetries are given, as of one device."""
  return config_of(name, {**dict.fromkeys(SYMMETRIES, 0.), 'num_clusters': 10,
                          'num_devices': 1, **further})


def arguments_of(method: Method, size: int) -> tuple:
  """Shapes of what a gradient step takes: state, a batch, its responsibilities, a key."""
  like = jax.ShapeDtypeStruct
  batch = Batch(like((size, *method.image_shape), jnp.float32), like((size,), jnp.int32))
  tau = like((size, method.config.num_clusters), jnp.float32)
  return (jax.eval_shape(method.new_state), batch, tau,
          jax.eval_shape(lambda: jax.random.key(0)))


def programs(config, shape: tuple[int, int, int],
             size: int = BATCH) -> dict[str, Callable[[], Any]]:
  """Functions that trace each step of a fit by cddpm, and of what follows, by name.

  Args:
    config: its responsibilities are amortised; a table's are of it, changed.
    shape: of an image.
    size: images of a batch.
  """
  mesh, table = make_mesh(1), {'em.posterior': 'monte_carlo'}
  race = table | {'e_step.max_draws': 2 * config.e_step.num_draws,
                  'e_step.noise': 'antithetic'}
  made = functools.cache(lambda name: build(
      changed(config, {'table': table, 'race': race}.get(name, {})), shape, 256, mesh))

  def m_step(name):
    return jax.jit(made(name).m_step).trace(*arguments_of(made(name), size))

  def e_step(name):
    method = made(name)
    state, batch, _, key = arguments_of(method, size)
    return jax.jit(method.e_step).trace(method.e_estimator, state.params, batch, key)

  def sample():
    method, sampler, rows, known = drawing()
    draw = lambda params, rows, keys, mu: generate(
        rows, method.denoiser(params), keys, mu, mesh=mesh, sampler=sampler,
        num_states=0)
    return jax.jit(draw).trace(known[0], rows, *known[1:])

  def drawing():
    method = made('config')
    sampler, rows = make_sampler('ddim', from_process(method.process), STEPS, 'leading')
    state, batch, *_ = arguments_of(method, size)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
    return method, sampler, rows, (state.params, keys, batch.images)

  def restore():
    method, _, _, (params, keys, images) = drawing()
    chosen = restorer.make_restorer('pigdm')
    rows = jax.tree.map(
        jnp.asarray, chosen.table(from_process(method.process), STEPS, .5))
    operator, spread = box(shape, .25, .25, .5, .5), moments.of_gaussian(.5)

    def draw(params, rows, keys, mu, seen):
      problem = Problem(operator, seen, jnp.float32(.1))
      return restorer._restore(chosen, 1, mesh, rows, method.denoiser(params), problem,
                               keys, mu[None], spread, jnp.zeros((1, size)))

    return jax.jit(draw).trace(params, rows, keys, images, images)

  return {'M-step, amortised': lambda: m_step('config'),
          'M-step, a table': lambda: m_step('table'),
          'E-step, amortised': lambda: e_step('config'),
          'E-step, plain': lambda: e_step('table'),
          'E-step, raced': lambda: e_step('race'),
          'sampler': sample, 'restoring': restore}


def changed(config, options: dict):
  """A config of its own with some options changed."""
  config = copied(config)
  config.update_from_flattened_dict(options)
  return config


# ------------------------------------------------------------------- what they consist of


class Operation(NamedTuple):
  """An operation of a program.

  Attributes:
    op: of MLIR.
    function: of the program, that it stands in.
    times: how often that is called.
  """

  op: Any
  function: str
  times: int


def operations(lowered) -> Iterator[Operation]:
  """All operations of a lowered program; those of a loop are counted once."""
  functions = {str(f.attributes['sym_name']).strip('"'): list(_inside(f.operation))
               for f in lowered.compiler_ir('stablehlo').body.operations}

  calls = {name: collections.Counter(
      str(op.attributes['callee']).strip('@"') for op in ops if op.name == 'func.call')
      for name, ops in functions.items()}

  @functools.cache
  def times(name):
    return 1 if name == 'main' else sum(
        times(caller) * called[name] for caller, called in calls.items() if called[name])

  for name, ops in functions.items():
    for op in ops:
      yield Operation(op, name, times(name))


def _inside(op):
  for region in op.regions:
    for block in region:
      for inner in block:
        yield inner.operation
        yield from _inside(inner.operation)


class Found(NamedTuple):
  """Arrays of activations that are transposed or converted.

  Attributes:
    kind: 'transpose' or 'convert'.
    place: where, as in LISTED.
    count: of the program, each turn of a loop once.
    most: of one place, in one direction.
  """

  kind: str
  place: str
  count: int
  most: int


def layout_work(lowered, size: int, least: int) -> list[Found]:
  """The transposes and conversions of activations in a lowered program.

  Args:
    lowered: the program.
    size: images of the batch; of an array of activations, a side is a multiple of it.
    least: numbers of an image that such an array has, at least.
  """
  counts: dict = collections.defaultdict(collections.Counter)
  for op, function, times in operations(lowered):
    kind = op.name.removeprefix('stablehlo.')
    if kind not in ('transpose', 'convert'):
      continue
    sides = op.operands[0].type.shape
    if math.prod(sides) >= size * least and any(n and n % size == 0 for n in sides):
      path = (re.search(r'"([^"]*)"', str(op.location)) or ['', ''])[1]
      path = path.rpartition('/')[0]
      counts[kind, place_of(path, function)][path or function] += times
  return [Found(*key, sum(paths.values()), max(paths.values()))
          for key, paths in sorted(counts.items())]


def place_of(path: str, function: str) -> str:
  """The module that the names of an operation end in; else the function, without numbers.

  Args:
    path: such as 'jvp(UNet)/body/SelfAttention_1/bqhd,bkhd->bhqk'.
    function: of the program.
  """
  modules = [part for part in path.split('/') if re.fullmatch(r'[A-Za-z]\w*', part)]
  place = re.sub(r'_\d+$', '', modules[-1] if modules else function)
  return place


def asks_host(lowered) -> list[str]:
  """The operations of a program by which it would wait for the host."""
  found = []
  for op, _, _ in operations(lowered):
    target = str(op.attributes['call_target_name']) if (
        op.name == 'stablehlo.custom_call') else ''
    if op.name in HOST or 'callback' in target:
      found.append(op.name + target)
  return found


def open_loops(jaxpr) -> int:
  """Loops whose end depends on data: a GPU's host reads whether they go on."""
  count = 0
  for eqn in jaxpr.eqns:
    count += eqn.primitive.name == 'while'
    for value in jax.tree.leaves(list(eqn.params.values()),
                                 is_leaf=lambda v: hasattr(v, 'eqns')):
      inner = getattr(value, 'jaxpr', value)
      count += open_loops(inner) if hasattr(inner, 'eqns') else 0
  return count


def unlisted(found: list[Found]) -> list[Found]:
  """Those of which LISTED does not tell the place, or not so many of one place."""
  return [one for one in found
          if one.most > LISTED.get((one.kind, one.place), (0, ''))[0]]


# ------------------------------------------------------------------------- the roofline


class Cost(NamedTuple):
  """Of a gradient step.

  Attributes:
    flops: by XLA's cost analysis, loops over clusters unrolled.
    least: bytes that are moved if all but convolutions and products of matrices is merged
      with these: their operands and results, and the program's.
    unmerged: bytes that are moved if nothing is merged, by the same analysis.
  """

  flops: float
  least: float
  unmerged: float


def unrolled(function, xs, *, batch_size=None):
  """In the place of `jax.lax.map`, each turn of which XLA would count but once."""
  del batch_size
  rows = [jax.tree.map(lambda a, i=i: a[i], xs) for i in range(
      len(jax.tree.leaves(xs)[0]))]
  return jax.tree.map(lambda *parts: jnp.stack(parts), *map(function, rows))


def cost_of_step(config, shape: tuple[int, int, int]) -> Cost:
  """The `Cost` of a gradient step of a config, of images of a shape."""
  # On the CPU: other backends have no cost analysis of what is not compiled.
  device = jax.devices('cpu')[0]
  mesh = jax.sharding.Mesh(np.array([device]), (DATA_AXIS,))
  with jax.default_device(device), mock.patch.object(jax.lax, 'map', unrolled):
    method = build(config, shape, 256, mesh)
    traced = jax.jit(method.m_step).trace(
        *arguments_of(method, config.m_step.batch_size))
    lowered = traced.lower(lowering_platforms=('cuda',))
    known = lowered.cost_analysis()
  ends = [*jax.tree.leaves(traced.in_avals), *traced.jaxpr.out_avals]
  return Cost(known['flops'], moved_by_products(lowered) + sum(
      a.size * a.dtype.itemsize for a in ends), known['bytes accessed'])


def moved_by_products(lowered) -> float:
  """Bytes of what convolutions and products of matrices take and give."""
  return sum(
      times * math.prod(value.type.shape) * BITS[str(value.type.element_type)] / 8
      for op, _, times in operations(lowered)
      if op.name in ('stablehlo.convolution', 'stablehlo.dot_general')
      for value in (*op.operands, *op.results))


def roofline(costs: dict[tuple[str, str], tuple[Cost, int]]) -> str:
  """The table of what each card could train at most.

  Args:
    costs: by (config, compute type): of a gradient step, and its images.
  """
  def cell(card, dtype, cost, images):
    """Thousands of images/s, nothing merged and all that could be, and its bound."""
    peak = getattr(card, dtype)
    least, bound = fastest(cost.flops, cost.least, peak, card.bandwidth)
    most, _ = fastest(cost.flops, cost.unmerged, peak, card.bandwidth)
    return f'{images / most / 1e3:.3g} to {images / least / 1e3:.3g}, {bound}'

  return markdown(
      ('card', 'TFLOP/s, float32', 'bfloat16', 'TB/s', *map(' '.join, costs)),
      [[card.name, f'{card.float32 / 1e12:g}', f'{card.bfloat16 / 1e12:g}',
        f'{card.bandwidth / 1e12:g}', *(cell(card, dtype, *known)
                                        for (_, dtype), known in costs.items())]
       for card in CARDS])


# Of a network whose every step is lowered within a minute or two: the layers of the
# configs, fewer of them.
SMALL = {'network.channels': 8, 'network.channel_multipliers': (1, 2),
         'network.attention_levels': (1,), 'network.blocks_per_level': 1,
         'network.num_groups': 4, 'network.num_heads': 2, 'e_step.num_draws': 4,
         'posterior.channels': 8, 'posterior.num_views': 2, 'diffusion.num_steps': 50}
SMALL_SHAPE = (8, 8, 3)


def report(names: list[str], small: bool) -> dict:
  """Prints what is known without a card, and returns it.

  Args:
    names: of SHAPES.
    small: the roofline is of small networks, too.
  """
  config = config_for('cifar10', SMALL | {'network.dtype': 'bfloat16'})
  steps, found = {}, collections.Counter()
  for name, trace in programs(config, SMALL_SHAPE).items():
    traced = trace()
    lowered = {platform: traced.lower(lowering_platforms=(platform,))
               for platform in PLATFORMS}['cuda']
    work = layout_work(lowered, BATCH, LEAST)
    steps[name] = {'asks_host': asks_host(lowered), 'work': work,
                   'open_loops': open_loops(traced.jaxpr.jaxpr),
                   'unlisted': unlisted(work)}
    for one in work:
      found[one.kind, one.place] = max(found[one.kind, one.place], one.most)
  count = lambda work, kind: str(sum(one.count for one in work if one.kind == kind))
  print('Every step has been lowered for CUDA and TPU. Activations that are transposed '
        f'or converted in what CUDA is given, of a small network in bfloat16, {BATCH} '
        'images, each turn of a loop once:\n')
  print(markdown(
      ('step', 'transposes', 'conversions', 'not listed', 'asks the host',
       'loops that data end'),
      [[name, count(step['work'], 'transpose'), count(step['work'], 'convert'),
        str(len(step['unlisted'])), str(len(step['asks_host'])), str(step['open_loops'])]
       for name, step in steps.items()]) + '\n')
  print(markdown(
      ('', 'in', 'at most, of one layer and direction', 'why'),
      [[kind, place, str(most), LISTED.get((kind, place), (0, 'not listed'))[1]]
       for (kind, place), most in sorted(found.items())]) + '\n', flush=True)

  costs, rows = {}, []
  for name in names:
    for dtype in DTYPES:
      config = config_for(name, (SMALL if small else {}) | {'network.dtype': dtype})
      cost, images = cost_of_step(config, SHAPES[name]), config.m_step.batch_size
      costs[name, dtype] = cost, images
      rows.append([name, dtype, str(images), f'{cost.flops / images / 1e9:,.3g}',
                   f'{cost.least / 1e9:,.3g}', f'{cost.unmerged / 1e9:,.3g}',
                   f'{cost.flops / cost.least:,.0f}',
                   f'{cost.flops / cost.unmerged:,.1f}'])
  print('A gradient step on paper:\n\n' + markdown(
            ('config', 'type', 'images', 'GFLOP an image', 'GB at least',
             'GB if nothing is merged', 'FLOP a byte, at most', 'at least'), rows))
  print('\nThousands of images/s: if nothing is merged, and at most, with what bounds '
        'it then:\n\n' + roofline(costs))
  return {'steps': {name: step | {key: [one._asdict() for one in step[key]]
                                  for key in ('work', 'unlisted')}
                    for name, step in steps.items()},
          'costs': {' '.join(of): cost._asdict() | {'images': images}
                    for of, (cost, images) in costs.items()}}
