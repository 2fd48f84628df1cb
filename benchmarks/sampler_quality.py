"""Quality against the number of network evaluations, for every sampler.

  python -m benchmarks.sampler_quality [--num=4000] [--seeds=3] [--out=FOLDER]

The perfect denoiser of 25 Gaussians in 8 dimensions (modes 1/2 apart, standard deviation
1/8, unequal weights) on the VP path stands in for a network, so that what is measured is
the sampler alone. Quality is the sliced Wasserstein-2 distance (100 directions) to exact
draws; two exact samples of that size are the floor. Steps in sigma take the Karras grid,
steps in t the uniform one. Writes sampler_quality.json and .png, prints the table.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from jdiffclust.diffusion import analytic, samplers
from jdiffclust.diffusion.paths import VariancePreserving
from jdiffclust.files import replacing, write_text

DIM, DIRECTIONS = 8, 100
BUDGETS = (5, 9, 15, 25, 49, 99, 199)
TOLERANCES = (1e-2, 1e-4, 1e-6)
# Label -> (sampler, grid, options).
CASES = {
    'ddpm, posterior': ('ddpm', 'karras', {}),
    'ddpm, step': ('ddpm', 'karras', dict(variance='step')),
    'ddim': ('ddim', 'karras', {}),
    'euler': ('euler', 'uniform', {}),
    'euler_maruyama': ('euler_maruyama', 'uniform', {}),
    'reverse_diffusion': ('reverse_diffusion', 'uniform', {}),
    'predictor_corrector': ('predictor_corrector', 'uniform', dict(snr=.1)),
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


@jax.jit
def draw(path, sampler, data, keys):
  """Images of the perfect denoiser, and the evaluations they took."""
  drawn = samplers.draw(sampler, analytic.denoiser(path, data), keys,
                        jnp.zeros((len(keys), DIM)))
  return drawn.images, drawn.evaluations


def measure(num: int, seeds: int) -> dict:
  """Runs everything.

  Args:
    num: images a sampler and seed.
    seeds: at least 1.

  Returns:
    {'floor': [distances of exact samples], 'samplers': {label: [{'evaluations': mean,
    'distances': one a seed}]}} and the settings.
  """
  path, wide = VariancePreserving(), analytic.mixture_of_25(DIM, spacing=4.)
  data = wide._replace(means=wide.means / 8, variances=wide.variances / 64)
  exact = [data.sample(jax.random.key(100 + i), num) for i in range(2 * seeds)]
  keys = [jax.random.split(jax.random.key(seed), num) for seed in range(seeds)]

  def point(sampler):
    drawn = [draw(path, sampler, data, k) for k in keys]
    return {'evaluations': float(np.mean([np.mean(count) for _, count in drawn])),
            'distances': [distance(x, y) for (x, _), y in zip(drawn, exact)]}

  found = {label: [point(samplers.make_sampler(
      name, path, num_steps(name, budget), grid, **options)) for budget in BUDGETS]
           for label, (name, grid, options) in CASES.items()}
  found['adaptive'] = [point(samplers.make_sampler('adaptive', path, 1, rtol=t, atol=t))
                       for t in TOLERANCES]
  floor = [distance(x, y) for x, y in zip(exact, exact[seeds:])]
  return {'num': num, 'seeds': seeds, 'floor': floor, 'samplers': found}


def figure(result: dict, file) -> None:
  """Distances by evaluations, both on logarithmic axes."""
  matplotlib.use('Agg')
  import matplotlib.pyplot as plt  # after the choice of the backend
  chart, axes = plt.subplots(figsize=(7.5, 4.5), layout='constrained')
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
  chart.savefig(file, dpi=120)
  plt.close(chart)


def table(result: dict) -> str:
  """Means and standard deviations over the seeds as Markdown."""
  cell = lambda p: f"{np.mean(p['distances']):.3f} ± {np.std(p['distances']):.3f}"
  lines = ['| sampler | ' + ' | '.join(map(str, BUDGETS)) + ' |',
           '|---' * (len(BUDGETS) + 1) + '|']
  for label in CASES:
    lines.append(f"| `{label}` | "
                 + ' | '.join(cell(p) for p in result['samplers'][label]) + ' |')
  adaptive = ', '.join(f"{cell(p)} at {p['evaluations']:.0f} (tolerance {t:g})"
                       for p, t in zip(result['samplers']['adaptive'], TOLERANCES))
  floor = result['floor']
  return '\n'.join([*lines, '', f'`adaptive`: {adaptive}. Two exact samples: '
                    f'{np.mean(floor):.3f} ± {np.std(floor):.3f}.'])


def main() -> None:
  """Measures, writes and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--num', type=int, default=4000)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--out', type=pathlib.Path, default='benchmarks/results')
  options = parser.parse_args()
  result = measure(options.num, options.seeds)
  write_text(options.out / 'sampler_quality.json', json.dumps(result, indent=1) + '\n')
  with replacing(options.out / 'sampler_quality.png') as file:
    figure(result, file)
  print(table(result))


if __name__ == '__main__':
  main()
