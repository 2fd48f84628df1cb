"""How many clusters: num_clusters='auto' where the number is known, over seeds.

  python -m benchmarks.starts.num_clusters [--sets=digits,shapes,glyphs,both]
      [--seeds=0,1,2,3,4] [--out=DIR]

Question:  how often is the true number chosen, how sure is the choice, and what would
           each score alone have chosen?
Time:      some 10 minutes of one core.
Kept:      docs/benchmarks.md, How many clusters.

Digits (10) and the sets of `benchmarks.starts.synthetic`: 4 shapes, 7 glyphs, and all 11
of them, which every seed draws anew. Defaults throughout. Choices already in DIR are not
repeated.
"""

from __future__ import annotations

import collections
import functools
import statistics
import time

import numpy as np

from benchmarks.common import config_of, kept, make_parser, markdown, names
from benchmarks.starts.synthetic import GLYPHS, SHAPES, draw
from jdiffclust.clustering.starts.choose import choose_number
from jdiffclust.config import default_config
from jdiffclust.data.dataset import images_at, load_source

# Of the synthetic sets: their figures, and how many images.
SETS = {'shapes': (SHAPES, 800), 'glyphs': (GLYPHS, 1000),
        'both': (SHAPES | GLYPHS, 1500)}
TRUTH = {'digits': 10, **{name: len(figures) for name, (figures, _) in SETS.items()}}
SCORES = ('modularity', 'icl', 'stability')


def images_of(name: str, seed: int) -> np.ndarray:
  """Images in [-1, 1], [n, H, W, 1]."""
  if name == 'digits':
    source = load_source(config_of('digits').data)
    return images_at(source, range(source.num_images))
  return draw(*SETS[name], seed).images


def choose(name: str, seed: int) -> dict:
  """The choice for a set and a seed, and its CPU seconds."""
  sample = images_of(name, seed)
  config = default_config()
  config.seed = seed
  began = time.process_time()
  found = choose_number(sample.reshape(len(sample), -1), sample.shape[1:], config)
  return {**found.as_dict(), 'cpu_seconds': time.process_time() - began}


def counts(numbers: list[int]) -> str:
  """How often each number occurs: '7 (4x), 8'."""
  return ', '.join(f'{number} ({times}x)' if times > 1 else str(number)
                   for number, times in sorted(collections.Counter(numbers).items()))


def row(name: str, choices: list[dict]) -> list[str]:
  """The cells of a set."""
  mean = lambda key: statistics.mean(found[key] for found in choices)
  best = lambda key: [found['numbers'][int(np.argmax(found[key]))] for found in choices]
  return [f'{name} ({TRUTH[name]})', counts([found['chosen'] for found in choices]),
          f"{mean('confidence'):.0%}", f"{mean('within_one'):.0%}",
          *(counts(best(key)) for key in SCORES), f"{mean('cpu_seconds'):.0f}"]


def main() -> None:
  """Runs all choices and prints the table."""
  parser = make_parser(__doc__, seeds='0,1,2,3,4', out='runs/num_clusters')
  parser.add_argument('--sets', type=names(TRUTH), default=list(TRUTH))
  args = parser.parse_args()
  print(markdown(
      ('images (truth)', 'chosen', 'its share of the votes', 'within one',
       'modularity alone', 'ICL alone', 'stability alone', 'CPU seconds'),
      [row(name, kept(args.out, name, args.seeds, functools.partial(choose, name)))
       for name in args.sets]))


if __name__ == '__main__':
  main()
