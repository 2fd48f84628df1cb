"""A run that goes on with another number of devices.

  python -m benchmarks.faults devices [--seeds=0,1,2] [--out=DIR]

Question:  how far are tau and weights from those of one device?
Time:      five minutes, on two cores.
Kept:      docs/benchmarks.md, Faults.

A run is begun on 8 virtual devices, killed (-9) when it has reached a checkpoint of the
first EM iteration, goes on on 1, is killed at one of the second, and ends on 4. What it
ends with is compared to an undisturbed run on 1. The seed chooses the two checkpoints,
and is that of the run, too. A run on 8 alone stands beside it: what devices do by
themselves.
"""

from __future__ import annotations

import functools
import pathlib
import time

import numpy as np

from benchmarks.common import kept, make_parser, markdown
from benchmarks.faults.runs import (
    SMALL, Way, checkpoints, largest_difference, options_of, remove, running)

STEPS = 6  # of an EM iteration of SMALL; its checkpoints are those and the E-step's


def trial(out: pathlib.Path, seed: int) -> dict:
  """Runs on 1; on 8; and on 8, 1 and 4.

  Args:
    out: the folder of the campaign.
    seed: see above.
  """
  rng, arguments = np.random.default_rng(seed), options_of(*SMALL, f'seed={seed}')
  ends = [int(rng.integers(1, STEPS)), STEPS + 1 + int(rng.integers(1, STEPS))]
  workdirs = {name: out / 'runs' / f'devices-{name}-{seed}' for name in ('1', '8', '814')}
  started = [('1', 1, None), ('8', 8, None), ('814', 8, ends[0]), ('814', 1, ends[1]),
             ('814', 4, None)]
  for workdir in workdirs.values():
    remove(workdir)
  resumed = []
  for name, devices, end in started:
    workdir = workdirs[name]
    with running(arguments, workdir, Way(devices), out / 'compiled') as run:
      if end is None:
        if not run.ended() or any(run.codes):
          raise RuntimeError(f'exit codes {run.codes}: see {run.logs[0]}')
      else:
        while None in run.codes and reached(workdir) < end:
          time.sleep(.01)
        run.kill()
      resumed += [line for line in run.told() if line.startswith('Resuming')]
  found = {'killed_at': ends, 'resumed': resumed,
           '8': largest_difference(workdirs['8'], workdirs['1']),
           '8, 1, 4': largest_difference(workdirs['814'], workdirs['1'])}
  for workdir in workdirs.values():
    remove(workdir)
  return found


def reached(workdir: pathlib.Path) -> int:
  """The number of the newest checkpoint; -1: there is none."""
  return max([int(path.name) for path in checkpoints(workdir)], default=-1)


def main() -> None:
  """Makes the trials that are missing and prints the table."""
  parser = make_parser(__doc__, seeds='0,1,2', out='runs/faults')
  args = parser.parse_args()
  found = kept(args.out, 'devices', args.seeds, functools.partial(trial, args.out))
  cells = lambda values: [f'{max(one[name] for one in values):.1e}'
                          for name in ('tau', 'weights', 'bound')]
  print(markdown(('devices', 'runs', 'tau', 'weights', 'bound, nats an image'),
                 [[name, str(len(found)), *cells([one[name] for one in found])]
                  for name in ('8', '8, 1, 4')]))


if __name__ == '__main__':
  main()
