"""What of the start by recognition matters: one option changed at a time.

  python -m benchmarks.starts.recognition [--datasets=digits,mnist5k] [--seeds=0]
      [--changes=none,cells=1,...] [--fashion=DIR] [--out=DIR]

Question:  is each part of the start worth its time, and how near to its best are its
           options?
Time:      digits 10 minutes of one core, mnist5k half an hour.
Kept:      docs/benchmarks.md, Recognition.

The start alone, with the images and settings of `benchmarks.clustering`. Labels are read
by the scores alone. Each data set, change and seed leaves one JSON file in DIR and is not
repeated.
"""

from __future__ import annotations

from benchmarks.clustering.alone import recognition
from benchmarks.clustering.methods import our_config
from benchmarks.common import (
    DATASETS, SCORES, add_fashion, cell, make_parser, markdown, names, runs_of)
from jdiffclust.data.dataset import load_source
from jdiffclust.evaluation.scores import clustering_scores
from jdiffclust.fitted import finest_of

CHANGES = {'none': {}, **{f'{name}={value}': {f'recognition.{name}': value}
                          for name, value in (
                              ('rounds', 1), ('networks', 1), ('networks', 4),
                              ('cells', 1.), ('cells', 4.), ('view_size', 0.),
                              ('num_views', 0), ('channels', 16), ('steps', 325),
                              ('steps', 1300))}}


def measure(dataset: str, change: str, options: dict, seed: int) -> dict:
  """Scores, and seconds of the processor, of the start of one config."""
  config = our_config(dataset, seed, further={
      **options, 'start.kind': 'recognition', **CHANGES[change]})
  source = load_source(config.data, finest=finest_of(config))
  found = recognition(source, config)['recognition']
  scores = clustering_scores(source.labels, found.clusters)
  return {**{name: scores[name] for name in SCORES}, 'cpu': found.cpu_seconds}


def main() -> None:
  """Runs what is missing, prints the table."""
  parser = make_parser(__doc__, seeds='0', out='runs/recognition')
  parser.add_argument('--datasets', type=names(DATASETS), default='digits,mnist5k')
  parser.add_argument('--changes', type=names(CHANGES), default=','.join(CHANGES))
  add_fashion(parser)
  args = parser.parse_args()
  rows = [[dataset, change, *(cell([run[score] for run in runs]) for score in SCORES),
           cell([run['cpu'] for run in runs], '.0f')]
          for dataset, change, runs in runs_of(args, args.changes, measure)]
  print(markdown(('data', 'changed', 'ACC', 'NMI', 'ARI', 'CPU s'), rows))


if __name__ == '__main__':
  main()
