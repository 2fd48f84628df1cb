"""Quality against the number of network evaluations, for every sampler.

  python -m benchmarks.samplers.quality [--num=4000] [--seeds=0,1,2] [--out=DIR]

Question:  how near do a sampler's images come to exact draws, by what they cost?
Time:      a minute or two.
Kept:      benchmarks/results/samplers; docs/benchmarks.md, Samplers.

The perfect denoiser of 25 Gaussians in 8 dimensions (modes 1/2 apart, standard deviation
1/8, unequal weights) on the VP path stands in for a network, so that what is measured is
the sampler alone. Quality is the sliced Wasserstein-2 distance (100 directions) to exact
draws; two exact samples of that size are the floor. Steps in sigma take the Karras grid,
steps in t the uniform one. Writes quality.json and quality.png to DIR, prints the table.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import cell, make_parser, markdown, write_json
from jdiffclust.diffusion import analytic, samplers
from jdiffclust.diffusion.paths import VariancePreserving
from jdiffclust.report.figures import save_figure

DIM, DIRECTIONS = 8, 100
BUDGETS = (5, 9, 15, 25, 49, 99, 199)
TOLERANCES = (1e-2, 1e-4, 1e-6)
# Label -> (sampler, grid, options).
CASES = {
    'ddpm, posterior': ('ddpm', 'karras', {'variance': 'posterior'}),
    'ddpm, step': ('ddpm', 'karras', {'variance': 'step'}),
    'ddim': ('ddim', 'karras', {}),
    'euler': ('euler', 'uniform', {}),
    'euler_maruyama': ('euler_maruyama', 'uniform', {}),
    'reverse_diffusion': ('reverse_diffusion', 'uniform', {}),
    'predictor_corrector': ('predictor_corrector', 'uniform', {'snr': .1}),
    'heun': ('heun', 'karras', {}),
    'dpm_solver_pp_2m': ('dpm_solver_pp_2m', 'karras', {}),
}


def num_steps(name: str, budget: int) -> int:
  """Grid times whose evaluations are the (odd) budget."""
  return (budget + 1) // 2 if name in ('heun', 'predictor_corrector') else budget


def distance(x, y) -> float:
  """Sliced Wasserstein-2 distance of two samples [n, DIM]."""
  directions = np.random.default_rng(0).normal(size=(DIM, DIRECTIONS))
  directions /= np.linalg.norm(directions, axis=0)
  ordered = lambda z: np.sort(np.asarray(z, np.float64) @ directions, axis=0)
  return float(np.sqrt(np.mean((ordered(x) - ordered(y))**2)))


@functools.partial(jax.jit, static_argnums=0)
def draw(sampler, table, denoiser, keys):
  """Images of a denoiser, and the evaluations they took."""
  drawn = samplers.run(sampler, table, denoiser, keys, jnp.zeros((len(keys), DIM)))
  return drawn.images, drawn.evaluations


def measure(num: int, seeds: list[int]) -> dict:
  """Runs everything.

  Args:
    num: images a sampler and seed.
    seeds: of the samplers' noise.

  Returns:
    {'floor': [distances of exact samples], 'samplers': {label: [{'evaluations': mean,
    'distances': one a seed}]}} and the settings.
  """
  path, wide = VariancePreserving(), analytic.mixture_of_25(DIM, spacing=4.)
  data = wide._replace(means=wide.means / 8, variances=wide.variances / 64)
  denoiser = analytic.denoiser(path, data)
  exact = [data.sample(jax.random.key(100 + i), num) for i in range(2 * len(seeds))]
  keys = [jax.random.split(jax.random.key(seed), num) for seed in seeds]

  def point(*args, **options):
    sampler, table = samplers.make_sampler(*args, **options)
    drawn = [draw(sampler, table, denoiser, k) for k in keys]
    return {'evaluations': float(np.mean([np.mean(count) for _, count in drawn])),
            'distances': [distance(x, y) for (x, _), y in zip(drawn, exact)]}

  found = {label: [point(name, path, num_steps(name, budget), grid, **options)
                   for budget in BUDGETS]
           for label, (name, grid, options) in CASES.items()}
  found['adaptive'] = [point('adaptive', path, 1, tolerance=t) for t in TOLERANCES]
  floor = [distance(x, y) for x, y in zip(exact, exact[len(seeds):])]
  return {'num': num, 'seeds': seeds, 'floor': floor, 'samplers': found}


def figure(result: dict) -> Figure:
  """Distances by evaluations, both on logarithmic axes."""
  chart = Figure(figsize=(7.5, 4.5), dpi=120, layout='constrained')
  axes = chart.subplots()
  markers = 'osD^v<>P*X'
  for (label, points), marker in zip(result['samplers'].items(), markers):
    x = [p['evaluations'] for p in points]
    y = np.array([p['distances'] for p in points])
    axes.errorbar(x, y.mean(1), y.std(1), marker=marker, markersize=4, linewidth=1,
                  label=label)
  axes.axhline(np.mean(result['floor']), color='black', linestyle=':',
               label='two exact samples')
  axes.set(xscale='log', yscale='log', xlabel='network evaluations an image',
           ylabel='sliced Wasserstein distance to exact draws')
  axes.legend(fontsize=8, ncols=2)
  return chart


def table(result: dict) -> str:
  """Means and standard deviations over the seeds as Markdown."""
  found = result['samplers']
  rows = [[f'`{label}`', *(cell(point['distances']) for point in found[label])]
          for label in CASES]
  adaptive = ', '.join(
      f"{cell(point['distances'])} at {point['evaluations']:.0f} (tolerance {t:g})"
      for point, t in zip(found['adaptive'], TOLERANCES))
  return '\n'.join([
      markdown(['sampler', *map(str, BUDGETS)], rows), '',
      f"`adaptive`: {adaptive}. Two exact samples: {cell(result['floor'])}."])


def main() -> None:
  """Measures, writes and prints."""
  parser = make_parser(__doc__, seeds='0,1,2', out='runs/sampler_quality')
  parser.add_argument('--num', type=int, default=4000, help='images a sampler and seed')
  args = parser.parse_args()
  result = measure(args.num, args.seeds)
  write_json(args.out / 'quality.json', result)
  save_figure(figure(result), args.out / 'quality.png')
  print(table(result))


if __name__ == '__main__':
  main()
