"""Clustering methods on the same images, with the same seeds, in one table.

  pip install -e '.[bench]'
  python -m benchmarks.clustering [--datasets=digits,mnist5k,fashion5k,fashion]
      [--methods=kmeans,...] [--seeds=0,1,2,3,4] [--threads=1] [--timeout=7200]
      [--fashion=DIR] [--out=DIR] [--retry] [--table-only]

Methods and their settings, with where those are from, are in methods.py. Every run
has a process of its own with as many threads as any other, and leaves one JSON file in
DIR/runs, so that a killed benchmark goes on where it was. A run counts only as long as
its settings and threads are those asked for; a failure is kept as one, and shown, until
--retry. The table goes to DIR/table.md, table.json and table.png: mean and standard
deviation over all seeds, none chosen.

Fashion-MNIST: `apt install dataset-fashion-mnist`, or --fashion=DIR with its four files.
ClustPy needs a torchvision built as torch is: both from PyPI, or both for CPUs.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import signal
import sys

from benchmarks.clustering.methods import DATASETS, METHODS, OWN
from benchmarks.clustering.runs import Run, cached, run_apart, run_here
from benchmarks.clustering.table import draw, markdown, summarise
from jdiffclust import files


def write_table(args: argparse.Namespace) -> str:
  """Writes table.md, table.json and table.png from what is there; returns the first."""
  from jdiffclust.report.figures import save_figure  # Matplotlib: not for single runs
  table = {
      dataset: {
          method: summarise({seed: cached(Run(dataset, method, seed), args.out,
                                          args.threads) for seed in args.seeds})
          for method in args.methods}
      for dataset in args.datasets}
  text = markdown(table, args.threads)
  files.write_text(args.out / 'table.md', text + '\n')
  files.write_text(args.out / 'table.json', json.dumps(table, indent=2) + '\n')
  save_figure(draw(table), args.out / 'table.png')
  return text


def parse(argv: list[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

  def names(known):
    def check(text):
      unknown = [name for name in text.split(',') if name not in known]
      if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is not one of {', '.join(known)}")
      return text.split(',')
    return check

  def integers(text):
    return [int(part) for part in text.split(',')]

  parser.add_argument('--datasets', type=names(DATASETS), default=list(DATASETS))
  parser.add_argument('--methods', type=names({**METHODS, **OWN}),
                      default=[*METHODS, *OWN])
  parser.add_argument('--seeds', type=integers, default=[0, 1, 2, 3, 4])
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--timeout', type=float, default=7200., help='seconds for a run')
  parser.add_argument('--fashion', type=pathlib.Path,
                      default='/usr/share/datasets/fashion-mnist')
  parser.add_argument('--out', type=pathlib.Path, default='runs/clustering')
  parser.add_argument('--retry', action='store_true', help='repeat runs that failed')
  parser.add_argument('--table-only', action='store_true', help='run nothing')
  parser.add_argument('--one', help=argparse.SUPPRESS)  # a run in its own process
  args = parser.parse_args(argv)
  args.out, args.fashion = args.out.resolve(), args.fashion.resolve()
  return args


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
