"""The share of useful time of a run that is killed each minute.

  python -m benchmarks.faults goodput [--kills=5] [--every=10,2] [--out=DIR]

Question:  how much of its time does a run keep that is killed (-9) each minute?
Time:      six minutes for each of --every, on two cores.
Kept:      docs/benchmarks.md, Faults.

The digits config, in the midst of an M-step, by the whole command. Each minute it is
killed and started again. Useful are the gradient steps that the newest checkpoint has
when it is killed, by the seconds that a step takes in the same minute; the rest is the
restart (imports, programs from JAX's persistent cache, reading images and checkpoint, up
to the end of the first step) and what was done since the checkpoint. --every are values
of checkpoint.every_seconds; 0 leaves the 200 steps of checkpoint.every_steps alone.
"""

from __future__ import annotations

import functools
import pathlib
import re
import statistics
import time

import psutil

from benchmarks.common import ROOT, integers, kept, make_parser, markdown
from benchmarks.faults.runs import LONGEST, Run, Way, checkpoints, remove, running

PERIOD = 60.  # seconds between kills
BATCH = 128  # images of a gradient step, m_step.batch_size
RATE = re.compile(r'M-step: .*, ([\d,]+) images/s')


def first_step(run: Run) -> bool:
  """Waits until a run has taken a gradient step; whether it did."""
  return run.wait_for('M-step: ', LONGEST)


def newest(workdir: pathlib.Path) -> int:
  """The number of the newest checkpoint; -1: there is none."""
  return max([int(path.name) for path in checkpoints(workdir)], default=-1)


def trial(kills: int, out: pathlib.Path, every: int) -> dict:
  """Kills a run each minute.

  Args:
    kills: how often.
    out: the folder of the campaign.
    every: checkpoint.every_seconds.
  """
  workdir, minutes = out / 'runs' / f'goodput-{every}', []
  remove(workdir)
  arguments = [f'--config={ROOT}/configs/digits.py', '--config.m_step.num_steps=100000',
               '--config.m_step.first_num_steps=0', '--config.start.kind=kmeans',
               f'--config.m_step.batch_size={BATCH}',
               f'--config.checkpoint.every_seconds={every}']
  start = lambda: running(arguments, workdir, Way(), out / 'compiled', 'command')
  with start() as run:  # fills the cache, and leaves a checkpoint to go on from
    first_step(run)
    while None in run.codes and newest(workdir) < 1:
      time.sleep(.1)
  while len(minutes) < kills:
    before = newest(workdir)
    with start() as run:
      if not first_step(run):
        raise RuntimeError(f'no step was taken: see {run.logs[0]}')
      restart = time.perf_counter() - run.began
      used = psutil.Process(run.processes[0].pid).cpu_times()
      run.ended(PERIOD)
      run.kill()
      wall = time.perf_counter() - run.began
      rates = [float(found[1].replace(',', ''))
               for line in run.told() if (found := RATE.search(line))]
      minutes.append({'restart': restart, 'restart_cpu': used.user + used.system,
                      'steps': newest(workdir) - before, 'wall': wall,
                      'seconds_per_step': BATCH / rates[-1] if rates else None})
  remove(workdir)
  return {'minutes': minutes}


def row(every: int, found: dict) -> list[str]:
  """The cells of a value of checkpoint.every_seconds."""
  minutes = [one for one in found['minutes'] if one['seconds_per_step']]
  useful = [one['steps'] * one['seconds_per_step'] for one in minutes]
  lost = [one['wall'] - one['restart'] - good for one, good in zip(minutes, useful)]
  middle = lambda values: f'{statistics.median(values):.1f} s'
  return [f'{every} s' if every else '200 steps', str(len(minutes)),
          middle([one['seconds_per_step'] for one in minutes]),
          middle([one['restart'] for one in minutes]),
          middle([one['restart_cpu'] for one in minutes]), middle(lost),
          f"{sum(useful) / sum(one['wall'] for one in minutes):.0%}"]


def main() -> None:
  """Makes the trials that are missing and prints the table."""
  parser = make_parser(__doc__, out='runs/faults')
  parser.add_argument('--kills', type=int, default=5)
  parser.add_argument('--every', type=integers, default='10,2')
  args = parser.parse_args()
  measure = functools.partial(trial, args.kills, args.out)
  print(markdown(('a checkpoint each', 'kills', 'a step', 'restart', 'its CPU time',
                  'lost since the checkpoint', 'useful'),
                 [row(every, kept(args.out, 'goodput', [every], measure)[0])
                  for every in args.every]))


if __name__ == '__main__':
  main()
