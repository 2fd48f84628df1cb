"""How many clusters: num_clusters='auto' where the number is known, over seeds.

  python -m benchmarks.num_clusters [--sets=digits,shapes,glyphs,both] [--seeds=0,1,2,3,4]
      [--out=DIR]

Digits (10) and the sets of `benchmarks.synthetic`: 4 shapes, 7 glyphs, and all 11 of
them, which every seed draws anew. Defaults throughout. Beside the choice: what each score
alone would have chosen. Choices already in DIR are not repeated.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import statistics
import time

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.synthetic import GLYPHS, SHAPES, draw
from jdiffclust import files
from jdiffclust.clustering.choose import choose_number
from jdiffclust.config import default_config

TRUTH = {'digits': 10, 'shapes': len(SHAPES), 'glyphs': len(GLYPHS),
         'both': len(SHAPES | GLYPHS)}
SCORES = ('modularity', 'icl', 'stability')


def images(name: str, seed: int) -> np.ndarray:
  """Images in [-1, 1], [n, H, W, 1]."""
  if name == 'digits':
    return (load_digits().images / 8 - 1).astype(np.float32)[..., None]
  figures, num = {'shapes': (SHAPES, 800), 'glyphs': (GLYPHS, 1000),
                  'both': (SHAPES | GLYPHS, 1500)}[name]
  return draw(figures, num, seed).images


def choice(name: str, seed: int, out: pathlib.Path) -> dict:
  """The choice for a set and a seed, unless it is there."""
  path = out / f'{name}-{seed}.json'
  if not path.exists():
    sample = images(name, seed)
    config = default_config()
    config.seed = seed
    began = time.process_time()
    found = choose_number(sample.reshape(len(sample), -1), sample.shape[1:], config)
    files.write_text(path, json.dumps(
        {**found.as_dict(), 'cpu_seconds': time.process_time() - began}))
    print(f'{name}, seed {seed}: {found.chosen}', flush=True)
  return json.loads(path.read_text(encoding='utf-8'))


def counts(numbers: list[int]) -> str:
  """How often each number occurs: '7 (4x), 8'."""
  return ', '.join(f'{number} ({times}x)' if times > 1 else str(number)
                   for number, times in sorted(collections.Counter(numbers).items()))


def row(name: str, choices: list[dict]) -> str:
  """A Markdown row of a set."""
  mean = lambda key: statistics.mean(found[key] for found in choices)
  best = lambda key: [found['numbers'][int(np.argmax(found[key]))] for found in choices]
  return ' | '.join((
      f'| {name} ({TRUTH[name]})', counts([found['chosen'] for found in choices]),
      f"{mean('confidence'):.0%}", f"{mean('within_one'):.0%}",
      *(counts(best(key)) for key in SCORES), f"{mean('cpu_seconds'):.0f} |"))


def main() -> None:
  """Runs all choices and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--sets', default=','.join(TRUTH))
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--out', type=pathlib.Path, default='runs/benchmark_num_clusters')
  args = parser.parse_args()
  seeds = [int(seed) for seed in args.seeds.split(',')]
  lines = ['| images (truth) | chosen | its share of the votes | within one | modularity '
           'alone | ICL alone | stability alone | CPU seconds |', '|' + '---|' * 8]
  for name in args.sets.split(','):
    lines.append(row(name, [choice(name, seed, args.out) for seed in seeds]))
  print('\n'.join(lines))


if __name__ == '__main__':
  main()
