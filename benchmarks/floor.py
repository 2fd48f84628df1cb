"""Do the defaults still find the digits? An accuracy they must not fall below.

  python -m benchmarks.floor [--seeds=0,1,2] [--out=DIR]

Question:  does every fit of configs/digits.py, and the start it goes on from, reach an
           accuracy of FLOOR on the 1,797 digits?
Time:      some 3 minutes a seed on two cores; too long for the tests, which ask it of
           the start alone.
Kept:      nothing: the exit code is 1 if one does not.

The labels score what was found, after the fit. Fits already in DIR are not repeated.
"""

from __future__ import annotations

import sys

from benchmarks.common import fit, make_parser, markdown

FLOOR = .96


def main() -> None:
  """Runs the fits, prints their scores and tells whether all are high enough."""
  args = make_parser(__doc__, seeds='0,1,2', out='runs/floor').parse_args()
  rows, low = [], []
  for seed in args.seeds:
    found = fit('digits', {'seed': seed}, args.out / f'digits-{seed}')
    accs = {'start': found['init']['acc'], 'fit': found['acc']}
    rows.append([str(seed), *(f'{acc:.3f}' for acc in accs.values())])
    low += [f'{name} of seed {seed}' for name, acc in accs.items() if acc < FLOOR]
  print(markdown(('seed', 'ACC of the start', 'ACC of the fit'), rows))
  if low:
    sys.exit(f"Below {FLOOR}: {', '.join(low)}.")


if __name__ == '__main__':
  main()
