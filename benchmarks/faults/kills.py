"""kill -9 at random moments of a run, saves included.

  python -m benchmarks.faults kills [--kills=200] [--how=tiny] [--out=DIR]

Question:  does a run that is killed again and again end with the same numbers?
Time:      an hour, on two cores beside other work.
Kept:      docs/benchmarks.md, Faults.

A quarter of the kills each on 1, 2 and 8 virtual devices and on 2 processes (both are
killed). A trial is one run, killed at moments that are uniform over the time that an
undisturbed run takes, and started again until it ends. Then every bit of tau, of the
bound and of all arrays of the last checkpoint is compared with the undisturbed run's.
To save time, compiled programs are kept between starts (by JAX's persistent cache), and
processes are forked from one that has made the imports; they draw no pictures, and their
network is that of the tests. --how=forked takes the U-Net of the config, --how=command
runs `python -m jdiffclust.main`.
"""

from __future__ import annotations

import argparse
import functools
import pathlib

import numpy as np

from benchmarks.common import kept, make_parser, markdown
from benchmarks.faults.runs import (
    HOWS, SMALL, WAYS, Way, differing_bits, half_written, options_of, reference, remove,
    running)

MOST_KILLS = 100  # in a trial; then it ends undisturbed


def trial(way: Way, how: str, out: pathlib.Path, number: int) -> dict:
  """Kills one run until it ends.

  Args:
    way: on what it runs.
    how: of `runs.HOWS`.
    out: the folder of the campaign.
    number: of the trial, which seeds it.
  """
  undisturbed = reference(options_of(*SMALL), way, out, 'small', how)
  rng = np.random.default_rng((number, way.devices, way.processes))
  workdir, kills = out / 'runs' / f'kills-{how}-{way.key()}-{number}', []
  remove(workdir)
  while True:
    after = rng.uniform(0, undisturbed['seconds'])
    with running(options_of(*SMALL), workdir, way, out / 'compiled', how) as run:
      if len(kills) == MOST_KILLS or run.ended(after):
        run.ended()
        break
      run.kill()
      told = run.told()
      kills.append({'after': after, 'half_written': half_written(workdir),
                    'last_line': told[-1][:80] if told else ''})
  told = [line for log in run.logs for line in log.read_text().splitlines()]
  found = {'way': str(way), 'kills': kills, 'codes': run.codes,
           'tracebacks': sum(line.startswith('Traceback') for line in told)}
  if not any(run.codes):
    found['differing_bits'] = differing_bits(workdir,
                                             pathlib.Path(undisturbed['workdir']))
    remove(workdir)
  return found


def trials(args: argparse.Namespace) -> dict[Way, list[dict]]:
  """As many trials of each way, by turns, as it takes to make a quarter of the kills."""
  found = {way: [] for way in WAYS}
  lacking = list(WAYS)
  while lacking:
    for way in lacking:
      found[way] += kept(args.out, f'kills-{args.how}-{way.key()}',
                         [len(found[way])],
                         functools.partial(trial, way, args.how, args.out))
    lacking = [way for way in WAYS if sum(len(one['kills']) for one in found[way])
               < args.kills / len(WAYS)]
  return found


def row(way: Way, found: list[dict]) -> list[str]:
  """The cells of a way of running."""
  kills = [kill for one in found for kill in one['kills']]
  within = sum(any('orbax' in name for name in kill['half_written']) for kill in kills)
  return [str(way), str(len(found)), str(len(kills)), str(within),
          str(sum(not kill['last_line'] for kill in kills)),
          str(sum(any(one['codes']) or one['tracebacks'] > 0 for one in found)),
          str(sum(one.get('differing_bits', 0) for one in found))]


def main() -> None:
  """Makes the trials that are missing and prints the table."""
  parser = make_parser(__doc__, out='runs/faults')
  parser.add_argument('--kills', type=int, default=200)
  parser.add_argument('--how', choices=HOWS, default='tiny')
  args = parser.parse_args()
  print(markdown(('runs on', 'runs', 'kills', 'in the midst of a save',
                  'before the first line', 'failed runs', 'differing bits'),
                 [row(way, found) for way, found in trials(args).items()]))


if __name__ == '__main__':
  main()
