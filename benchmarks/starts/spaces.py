"""In what respect images are compared: the start by each of its spaces, and by several.

  python -m benchmarks.starts.spaces [--datasets=digits,mnist5k,fashion5k]
      [--seeds=5,6,7] [--spaces=pixels,edges] [--fashion=DIR] [--out=DIR]

Question:  what are pixels, edges or another space worth to the start from neighbourhoods,
           alone and together?
Time:      some 5 minutes of one core.
Kept:      docs/benchmarks.md, What was tried ("edges beside pixels").

The start alone, on the images and with the settings that `benchmarks.clustering` has, by
the cuts of every combination of the spaces. The seeds are by default not those of that
table. Labels are read by the scores alone. Each data set and seed leaves one JSON file in
DIR and is not repeated.
"""

from __future__ import annotations

import functools
import itertools

from threadpoolctl import threadpool_limits

from benchmarks.clustering.methods import our_config
from benchmarks.common import (
    DATASETS, SCORES, add_fashion, cell, data_options, kept, make_parser, markdown, names)
from jdiffclust.clustering.starts.neighbours import consensus_of_spaces, cuts_of
from jdiffclust.data.dataset import images_at, load_source
from jdiffclust.data.symmetry import settled
from jdiffclust.evaluation.scores import clustering_scores
from jdiffclust.registry import SPACES
from jdiffclust.streams import integer_seed


def measure(dataset: str, spaces: list[str], options: dict, seed: int) -> dict:
  """Scores by combination of spaces.

  Args:
    dataset: one of DATASETS.
    spaces: names of `registry.SPACES`.
    options: of `data_options`.
    seed: of the config.
  """
  config = our_config(dataset, seed, further=options)
  source = load_source(config.data)
  images = images_at(source, range(source.num_images))
  number, seed = config.num_clusters, integer_seed(config.seed, 'init')
  config, _ = settled(config, images.reshape(len(images), -1), source.image_shape)
  with threadpool_limits(1):
    found = {}
    for name in spaces:
      space = SPACES[name](images.reshape(len(images), -1), source.image_shape, config,
                           seed)
      if space:  # colours: not of grey images
        found[name] = cuts_of(images, space, number, seed)
    rows = {}
    for size in range(1, len(found) + 1):
      for some in itertools.combinations(found, size):
        tau = consensus_of_spaces([found[name] for name in some], number, seed)
        scores = clustering_scores(source.labels, tau.argmax(axis=1))
        rows[' + '.join(some)] = {name: scores[name] for name in SCORES}
  return rows


def main() -> None:
  """Runs what is missing, prints the table."""
  parser = make_parser(__doc__, seeds='5,6,7', out='runs/spaces')
  parser.add_argument('--datasets', type=names(DATASETS),
                      default='digits,mnist5k,fashion5k')
  parser.add_argument('--spaces', type=names(SPACES), default='pixels,edges')
  add_fashion(parser)
  args = parser.parse_args()
  rows = []
  for dataset in args.datasets:
    options = data_options(dataset, args.out, args.fashion)
    runs = kept(args.out, '-'.join([dataset, *args.spaces]), args.seeds,
                functools.partial(measure, dataset, args.spaces, options))
    rows += [[dataset, spaces, *(cell([run[spaces][score] for run in runs])
                                 for score in SCORES)] for spaces in runs[0]]
  print(markdown(('data', 'spaces', 'ACC', 'NMI', 'ARI'), rows))


if __name__ == '__main__':
  main()
