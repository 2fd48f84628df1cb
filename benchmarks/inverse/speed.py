"""What does a step of each method cost beside a step of DDIM?

  python -m benchmarks.inverse.speed [--rounds=5] [--out=DIR]

Question:  how many times longer than DDIM's are the steps of each method, of equal rows
           (draws, or particles of one image)?
Time:      5 minutes.
Kept:      docs/benchmarks.md, Restoring; results/inverse/speed.json.

The U-Nets of configs/digits.py (8x8, 64 rows) and configs/mnist.py (28x28, 16 rows),
weights not trained; 10 steps in one scan; half of the pixels are seen. Medians over
rounds that alternate the methods.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.common import (
    ROOT, config_of, make_parser, markdown, median_seconds, write_json)
from jdiffclust.clustering.method import build
from jdiffclust.diffusion import samplers
from jdiffclust.diffusion.paths import from_process
from jdiffclust.inverse import moments, operators, restorer
from jdiffclust.inverse.problem import Problem
from jdiffclust.registry import RESTORERS
from jdiffclust.sharding import make_mesh

STEPS = 10
SIZES = {'digits': (8, 8, 1, 64), 'mnist': (28, 28, 1, 16)}


def calls_of(name: str) -> dict:
  """Functions that run DDIM and each method once, compiled."""
  *shape, rows = SIZES[name]
  shape = tuple(shape)
  config = config_of(name)
  method = build(config, shape, 256, make_mesh(1))
  params, path = method.init_state().ema, from_process(method.process)
  denoiser = method.denoiser(params)
  keys = jax.random.split(jax.random.key(0), rows)
  sampler, table = samplers.make_sampler('ddim', path, STEPS, 'karras')
  ddim = jax.jit(lambda table, denoiser, keys, mu: samplers.run(
      sampler, table, denoiser, keys, mu).images)
  mu = jnp.zeros((rows, *shape))
  calls = {'ddim': lambda: ddim(table, denoiser, keys, mu).block_until_ready()}
  operator = operators.random_pixels(shape, .5, 0)
  known = moments.of_gaussian(.5)

  def of(name):
    own = {'particles': rows} if name in ('mcgdiff', 'tds') else {}
    chosen = restorer.make_restorer(name, **own, **(
        {'repeats': 1} if name == 'repaint' else {}))
    problems = 1 if own else rows
    problem = Problem(operator, jnp.zeros((problems, *shape)), jnp.float32(0.))
    return lambda: restorer.restore(
        chosen, path, denoiser, problem, keys[:problems],
        mu.reshape(rows // problems, problems, *shape), known, 1,
        STEPS).images.block_until_ready()

  calls |= {name: of(name) for name in RESTORERS}
  for call in calls.values():
    call()
  return calls


def main() -> None:
  """Prints the table."""
  parser = make_parser(__doc__, out=str(ROOT / 'benchmarks' / 'results' / 'inverse'))
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  rows, kept = [], {}
  for size in SIZES:
    seconds = median_seconds(calls_of(size), args.rounds)
    kept[size] = {name: value / STEPS for name, value in seconds.items()}
    rows += [[size, name, f'{value / STEPS * 1e3:.1f}', f"{value / seconds['ddim']:.2f}"]
             for name, value in seconds.items()]
  write_json(args.out / 'speed.json', kept)
  print(markdown(['network', 'method', 'ms a step', 'times DDIM'], rows))


if __name__ == '__main__':
  main()
