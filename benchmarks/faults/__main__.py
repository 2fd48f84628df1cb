"""A fault campaign: `python -m benchmarks.faults NAME`, and --help after the name.

  kills      kill -9 at random moments: the results are the same, bit for bit
  processes  one of two processes is killed: the other ends soon, with one line
  damage     full disks, truncated and bit-flipped checkpoints: the last good one is used
  devices    8, then 1, then 4 devices: the results are those of 1
  goodput    the share of useful time with a kill each minute
  inputs     mutated images, arrays, configs and checkpoints: never a traceback
  merged     no program has the form that jaxlib 0.10 gets wrong
"""

from __future__ import annotations

import importlib
import sys

NAMES = ('kills', 'processes', 'damage', 'devices', 'goodput', 'inputs',
         'merged')


def main() -> None:
  """Runs the script of the name that the command line begins with."""
  if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
    sys.exit(__doc__)
  name = sys.argv.pop(1)
  importlib.import_module(f'benchmarks.faults.{name}').main()


if __name__ == '__main__':
  main()
