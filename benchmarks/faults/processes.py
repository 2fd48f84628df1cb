"""One of two processes of a run is killed.

  python -m benchmarks.faults processes [--trials=10] [--out=DIR]

Question:  does the other one end soon, with one line, and does the next start go on?
Time:      fifteen minutes, on two cores.
Kept:      docs/benchmarks.md, Faults.

The killed one is each of the two in turn, at a random moment between the start of EM and
the end of an undisturbed run. (While it waits for the other one to come, at the start, a
process cannot know that it never will: it waits five minutes for it.) The other one shows
warnings and errors only; anything that it tells and is no warning is counted. Then both
are started again, and every bit is compared as by `kills`.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
import time

import numpy as np

from benchmarks.common import kept, make_parser, markdown
from benchmarks.faults.runs import (
    SMALL, Way, differing_bits, half_written, options_of, reference, remove, running)

WAY = Way(1, 2)
SOON = 60.  # seconds


def trial(out: pathlib.Path, number: int) -> dict:
  """Kills one process, sees how the other one ends, and starts both again.

  Args:
    out: the folder of the campaign.
    number: of the trial, which seeds it; the last bit says which process.
  """
  arguments = options_of(*SMALL)
  undisturbed = reference(arguments, WAY, out, 'small', 'command')
  rng, killed = np.random.default_rng(number), number % 2
  workdir = out / 'runs' / f'processes-{number}'
  remove(workdir)
  found = {'killed': killed, 'killed_in_time': False}
  with running([*arguments, '--quiet'], workdir, WAY, out / 'compiled', 'command') as run:
    while not (workdir / 'config.json').exists() and None in run.codes:
      time.sleep(.02)
    begun = time.perf_counter() - run.began
    run.ended(begun + rng.uniform(0, max(0., undisturbed['seconds'] - begun)))
    if None in run.codes:
      run.kill([killed])
      at = time.perf_counter()
      run.ended(at - run.began + 10 * SOON)
      other = 1 - killed
      found |= {'killed_in_time': True, 'after': at - run.began,
                'seconds': time.perf_counter() - at, 'code': run.codes[other],
                'told': [line[:300] for line in run.told(other)
                         if not line.startswith('warning: ')],
                'half_written': half_written(workdir)}
  with running(arguments, workdir, WAY, out / 'compiled', 'command') as run:
    found['next'] = run.ended() and run.codes == [0, 0]
    found['resumed'] = any(line.startswith('Resuming') for line in run.told())
  if found['next']:
    found['differing_bits'] = differing_bits(workdir,
                                             pathlib.Path(undisturbed['workdir']))
    remove(workdir)
  return found


def row(killed: int, found: list[dict]) -> list[str]:
  """The cells of the trials in which a process was killed."""
  found = [one for one in found if one['killed'] == killed and one['killed_in_time']]
  if not found:
    return [f'process {killed}', '0', *[''] * 6]
  seconds = [one['seconds'] for one in found]
  return [f'process {killed}', str(len(found)),
          f'{statistics.median(seconds):.0f} s', f'{max(seconds):.0f} s',
          str(max(len(one['told']) for one in found)),
          ', '.join(sorted({str(one['code']) for one in found})),
          str(sum(one['next'] for one in found)),
          str(sum(one.get('differing_bits', 0) for one in found))]


def main() -> None:
  """Makes the trials that are missing and prints the table."""
  parser = make_parser(__doc__, out='runs/faults')
  parser.add_argument('--trials', type=int, default=10)
  args = parser.parse_args()
  found = kept(args.out, 'processes', list(range(args.trials)),
               functools.partial(trial, args.out))
  print(markdown(('killed', 'trials', 'the other one ends in, median', 'at most',
                  'lines, at most', 'exit codes', 'the next start ends',
                  'differing bits'), [row(killed, found) for killed in (1, 0)]))


if __name__ == '__main__':
  main()
