"""In what respect images are compared: the start by each of its spaces, and by several.

  python -m benchmarks.spaces [--datasets=digits,mnist5k,fashion5k] [--seeds=5,6,7]
      [--spaces=pixels,edges] [--fashion=DIR] [--out=DIR]

The start from neighbourhoods alone, on the images and with the settings that
`benchmarks.clustering` has, by the cuts of every combination of the spaces. The seeds are
by default not those of that table. Labels are read by the scores alone. Each data set and
seed leaves one JSON file in DIR and is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import sys

from threadpoolctl import threadpool_limits

from benchmarks.clustering.methods import our_config
from benchmarks.clustering.runs import data_overrides
from benchmarks.clustering.table import SCORES, cell
from jdiffclust import files
from jdiffclust.clustering.initialise import looks
from jdiffclust.clustering.neighbours import consensus_of_spaces, cuts_of
from jdiffclust.data.dataset import load_source
from jdiffclust.evaluation.clustering import clustering_scores
from jdiffclust.streams import integer_seed
from jdiffclust.training.loop import flat_images


def measure(dataset: str, seed: int, spaces: list[str], out: pathlib.Path,
            fashion: pathlib.Path) -> dict:
  """Scores by combination of spaces."""
  config = our_config(dataset, seed)
  config.update_from_flattened_dict(
      {**data_overrides(dataset, out, fashion), 'em.init_spaces': tuple(spaces)})
  source = load_source(config.data)
  flat = flat_images(source, range(source.num_images))
  images = flat.reshape(-1, *source.image_shape)
  number, seed = config.num_clusters, integer_seed(config.seed, 'init')
  with threadpool_limits(1):
    seen = zip(spaces, looks(flat, source.image_shape, seed, config))
    found = {name: cuts_of(images, space, number, seed) for name, space in seen}
    rows = {}
    for size in range(1, len(spaces) + 1):
      for names in itertools.combinations(spaces, size):
        tau = consensus_of_spaces([found[name] for name in names], number, seed)
        scores = clustering_scores(source.labels, tau.argmax(axis=1))
        rows[' + '.join(names)] = {name: float(scores[name]) for name in SCORES}
  return rows


def main(arguments=None) -> int:
  """Runs what is missing, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
  parser.add_argument('--datasets', default='digits,mnist5k,fashion5k')
  parser.add_argument('--seeds', default='5,6,7')
  parser.add_argument('--spaces', default='pixels,edges')
  parser.add_argument('--fashion', type=pathlib.Path, default=pathlib.Path(
      '/usr/share/datasets/fashion-mnist'), help="Debian's dataset-fashion-mnist")
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/spaces'))
  options = parser.parse_args(arguments)
  spaces = options.spaces.split(',')
  print('| data | spaces | ACC | NMI | ARI |\n|---|---|---|---|---|')
  for dataset in options.datasets.split(','):
    runs = []
    for seed in map(int, options.seeds.split(',')):
      path = options.out / f"{dataset}-{'-'.join(spaces)}-{seed}.json"
      if not path.exists():
        rows = measure(dataset, seed, spaces, options.out, options.fashion)
        files.write_text(path, json.dumps(rows, indent=1) + '\n')
      runs.append(json.loads(path.read_text(encoding='utf-8')))
    for names in runs[0]:
      cells = [cell([run[names][score] for run in runs]) for score in SCORES]
      print(f"| {dataset} | {names} | {' | '.join(cells)} |", flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
