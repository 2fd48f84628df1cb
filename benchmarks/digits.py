"""Digits over seeds: the start, CDDPM, K-means, a Gaussian mixture; and Algorithm 1.

  python -m benchmarks.digits [--seeds=0,1,2,3,4] [--out=DIR]

Each row is the mean and standard deviation over all seeds of the final partition: none
is chosen, and labels are read only here. Fits already in DIR are not repeated.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

CONFIGS = ('digits', 'digits_paper')


def fit(config: str, seed: int, out: pathlib.Path) -> dict:
  """Runs one fit in a process of its own, unless it is there; returns its summary."""
  workdir = out / f'{config}-{seed}'
  if not (workdir / 'summary.json').exists():
    subprocess.run(
        [sys.executable, '-m', 'jdiffclust.main', f'--config=configs/{config}.py',
         f'--workdir={workdir}', f'--config.seed={seed}', '--quiet'], check=True)
  return json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))


def row(name: str, scores: list[dict]) -> str:
  """A Markdown row: mean and standard deviation of ACC, NMI and ARI."""
  cells = [f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}"
           for v in ([s[key] for s in scores] for key in ('acc', 'nmi', 'ari'))]
  return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
  """Runs all fits and prints the table; writes it with the summaries to DIR."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--out', type=pathlib.Path, default='runs/benchmark_digits')
  args = parser.parse_args()
  seeds = [int(seed) for seed in args.seeds.split(',')]
  if len(seeds) < 2:
    parser.error('--seeds needs at least two seeds: a deviation is reported')
  summaries = {config: [fit(config, seed, args.out) for seed in seeds]
               for config in CONFIGS}
  ours, paper = summaries['digits'], summaries['digits_paper']
  lines = [f'Digits, {len(seeds)} seeds ({args.seeds}), mean ± standard deviation:', '',
           '| method | ACC | NMI | ARI |', '|---|---|---|---|',
           row('K-means', [s['baselines']['kmeans'] for s in ours]),
           row('Gaussian mixture = our start', [s['init'] for s in ours]),
           row('CDDPM (configs/digits.py)', ours),
           row('random start', [s['init'] for s in paper]),
           row('CDDPM, Algorithm 1 (configs/digits_paper.py)', paper), '']
  for name, group in summaries.items():
    for key in ('bound_bits_per_dim', 'mean_entropy', 'uncertain_fraction',
                'wall_seconds', 'train_images_per_second',
                'e_step_evaluations_per_second', 'peak_memory_mib'):
      values = [s[key] for s in group]
      lines.append(f'{name}: {key} {statistics.mean(values):.4g} ± '
                   f'{statistics.stdev(values):.2g}')
  text = '\n'.join(lines)
  print(text)
  (args.out / 'table.md').write_text(text + '\n', encoding='utf-8')
  (args.out / 'summaries.json').write_text(json.dumps(summaries, indent=2),
                                           encoding='utf-8')


if __name__ == '__main__':
  main()
