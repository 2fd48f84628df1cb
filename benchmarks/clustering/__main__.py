"""Clustering methods on the same images, with the same seeds, in one table.

  pip install -e '.[bench]'
  python -m benchmarks.clustering [--datasets=digits,mnist5k,fashion5k,...]
      [--methods=kmeans,...] [--seeds=0,1,2,3,4] [--threads=1] [--timeout=7200]
      [--fashion=DIR] [--mnist=DIR] [--out=DIR] [--retry] [--table-only]
      [--any-settings]

Question:  which method finds the classes, what does our fit add to its start, and how
           long does each take?
Time:      seconds to half an hour a run, of one thread; some 15 hours for all seeds of
           the first three data sets.
Kept:      benchmarks/results/clustering; the table is in docs/benchmarks.md.

Methods and their settings, with where those are from, are in methods.py. Every run
has a process of its own with as many threads as any other, and leaves one JSON file in
DIR/runs, so that a killed benchmark goes on where it was; `recognition` and
`network_kmeans` share one training, and the process of either leaves both. A run counts
only as long as its settings and threads are those asked for; with --any-settings others
are shown and named; a failure is kept as one, and shown, until --retry. The table goes
to DIR/table.md, table.json and table.png: mean and standard deviation over all seeds,
none chosen.

Fashion-MNIST: `apt install dataset-fashion-mnist`, or --fashion=DIR with its four files;
MNIST: --mnist=DIR with its four. strokes, textures, shapes, letters and signs are made
here (made.py).
ClustPy needs a torchvision built as torch is: both from PyPI, or, where torch is a build
for CPUs, both for CPUs, which one command sees to:
  pip install -e '.[bench]' --extra-index-url https://download.pytorch.org/whl/cpu
"""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks.clustering.methods import METHODS, OWN
from benchmarks.clustering.runs import Run, cached, read_result, run_apart, run_here
from benchmarks.clustering.table import draw, markdown, summarise
from benchmarks.common import (
    DATASETS, add_fashion, add_mnist, make_parser, names, write_json)
from jdiffclust import files


def write_table(args: argparse.Namespace) -> str:
  """Writes table.md, table.json and table.png from what is there; returns the first."""
  from jdiffclust.report.figures import save_figure  # Matplotlib: not for single runs
  table = {
      dataset: {
          method: summarise({seed: kept(Run(dataset, method, seed), args)
                             for seed in args.seeds})
          for method in args.methods}
      for dataset in args.datasets}
  text = markdown(table, args.threads)
  files.write_text(args.out / 'table.md', text + '\n')
  write_json(args.out / 'table.json', table)
  save_figure(draw(table), args.out / 'table.png')
  return text


def kept(run: Run, args: argparse.Namespace) -> dict | None:
  """The result of a run for the table; of any settings, if that is asked for."""
  found = cached(run, args.out, args.threads)
  if found is None and args.any_settings:
    other = read_result(run, args.out)
    return other and other | {'other_settings': True}
  return found


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = make_parser(__doc__, seeds='0,1,2,3,4', out='runs/clustering')
  parser.add_argument('--datasets', type=names(DATASETS), default=list(DATASETS))
  parser.add_argument('--methods', type=names({**METHODS, **OWN}),
                      default=[*METHODS, *OWN])
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--timeout', type=float, default=7200., help='seconds for a run')
  add_fashion(parser)
  add_mnist(parser)
  parser.add_argument('--retry', action='store_true', help='repeat runs that failed')
  parser.add_argument('--table-only', action='store_true', help='run nothing')
  parser.add_argument('--any-settings', action='store_true',
                      help="show runs of other settings than today's, too")
  parser.add_argument('--one', help=argparse.SUPPRESS)  # a run in its own process
  return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
  """Runs what is missing, then writes and prints the table."""
  args = parse(argv)
  if args.one:
    dataset, method, seed = args.one.split(',')
    run_here(Run(dataset, method, int(seed)), args)
    return
  # Told to stop, we go through `finally` and take the run of the moment with us.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  runs = [Run(dataset, method, seed) for dataset in args.datasets
          for method in args.methods for seed in args.seeds]
  for run in [] if args.table_only else runs:
    found = cached(run, args.out, args.threads)
    if found is None or (args.retry and 'error' in found):
      found = run_apart(run, args)
      outcome = found.get('error') or (
          f"ACC {found['acc']:.3f} NMI {found['nmi']:.3f} in {found['seconds']:.0f} s")
      print(f"{' '.join(map(str, run))}: {outcome}", flush=True)
  print(write_table(args))


if __name__ == '__main__':
  main()
