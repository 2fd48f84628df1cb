"""Full disks, and checkpoints that were cut off or flipped.

  python -m benchmarks.faults damage [--disks=12] [--damages=50] [--out=DIR]

Question:  is the last good checkpoint used, and is that said in a line?
Time:      ten minutes, on two cores.
Kept:      docs/benchmarks.md, Faults.

Disks: the workdir lies on a file system of a random size that is too small for the run
(a tmpfs: this part needs Linux and root). The run must end with exit code 2 and one line
that names the newest checkpoint there, and leave nothing that is not whole; when room has
been made, the same command must end it, with the bits of an undisturbed run.

Damages: one file of the newest checkpoint of a finished run is cut off, or has a bit
flipped, at a random place; half of the files are chosen by their number, half by their
size. The command is run again (in this process and without pictures, to save time). It
must end as the undisturbed run, bit for bit, and must have told that the checkpoint is
damaged, unless nothing was lost: Orbax leaves files that nobody reads.
"""

from __future__ import annotations

import functools
import io
import pathlib
import re
import shutil
import subprocess
import traceback

import numpy as np

from benchmarks.common import kept, make_parser, markdown
from benchmarks.faults import inputs, mutations
from benchmarks.faults.runs import (
    SMALL, Way, checkpoints, differing_bits, half_written, options_of, reference, remove,
    running)


def undisturbed_run(out: pathlib.Path) -> pathlib.Path:
  """The workdir of an undisturbed run on one device."""
  return pathlib.Path(reference(options_of(*SMALL), Way(), out, 'small')['workdir'])


def command(out: pathlib.Path, workdir: pathlib.Path) -> tuple[int | None, list[str]]:
  """Runs the command; returns its exit code, and what it told."""
  with running(options_of(*SMALL), workdir, Way(), out / 'compiled') as run:
    run.ended()
    return run.codes[0], run.told()


# ----------------------------------------------------------------------- full disks


def disk_trial(out: pathlib.Path, number: int) -> dict:
  """Runs on a disk that is too small, makes room, and runs again.

  Args:
    out: the folder of the campaign.
    number: of the trial, which seeds it.
  """
  whole = undisturbed_run(out)
  needed = sum(path.stat().st_size for path in whole.rglob('*') if path.is_file())
  # tmpfs counts by pages, and a fourth checkpoint is there before the first is deleted.
  size = int(np.random.default_rng(number).uniform(.02, 1) * needed) + 2**15
  disk = out / 'runs' / f'disk-{number}'
  disk.mkdir(parents=True, exist_ok=True)
  subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', disk], check=True)
  try:
    code, told = command(out, disk / 'run')
    newest = [int(path.name) for path in checkpoints(disk / 'run')[:1]]
    named = [int(text) for text in re.findall(r'last good checkpoint is (\d+)\.',
                                              told[-1] if told else '')]
    found = {'size': size, 'code': code, 'last_line': told[-1][:300] if told else '',
             'lines': sum(line.startswith('error: ') for line in told),
             'tracebacks': sum('Traceback' in line for line in told),
             'newest': newest, 'named': named,
             'half_written': half_written(disk / 'run')}
    subprocess.run(['mount', '-o', f'remount,size={16 * needed}', disk], check=True)
    found['code_then'], told = command(out, disk / 'run')
    if not found['code_then']:
      found['differing_bits'] = differing_bits(disk / 'run', whole)
  finally:
    subprocess.run(['umount', disk], check=True)
  return found


def disk_row(found: list[dict]) -> list[str]:
  """The cells of all disks."""
  full = [one for one in found if one['code']]
  count = lambda test: str(sum(map(test, full)))
  return ['full disk', str(len(full)), count(lambda one: one['code'] == 2),
          count(lambda one: one['lines'] == 1 and one['newest'] == one['named']),
          count(lambda one: one['tracebacks'] > 0),
          count(lambda one: bool(one['half_written'])),
          count(lambda one: one['code_then'] == 0),
          str(sum(one.get('differing_bits', 0) for one in found))]


# ---------------------------------------------------------------------- damaged files


def damage_trial(out: pathlib.Path, number: int) -> dict:
  """Damages a file of the newest checkpoint and runs the command again.

  Args:
    out: the folder of the campaign.
    number: of the trial, which seeds it.
  """
  from jdiffclust.clustering.method import Networks
  whole, rng = undisturbed_run(out), np.random.default_rng(number)
  workdir = out / 'runs' / f'damage-{number}'
  remove(workdir)
  shutil.copytree(whole, workdir)
  newest, before = checkpoints(workdir)[:2]
  files = sorted(path for path in newest.rglob('*')
                 if path.is_file() and path.stat().st_size)
  sizes = np.array([path.stat().st_size for path in files], float)
  shares = sizes / sizes.sum() if number % 4 > 1 else None
  chosen = files[rng.choice(len(files), p=shares)]
  name, change = str(chosen.relative_to(newest)), (mutations.truncate, flip)[number % 2]
  chosen.write_bytes(change(chosen.read_bytes(), rng))
  err = io.StringIO()
  try:
    code = inputs.fit(workdir, err, *SMALL, networks=Networks())
  except Exception:  # whatever it is: that nothing is raised is what is counted
    code = None
    err.write(traceback.format_exc())
  text = err.getvalue()
  found = {'file': name, 'change': change.__name__, 'code': code,
           'tracebacks': text.count('Traceback'),
           'said': f'checkpoint {newest.name} is damaged' in text,
           'resumed_from': re.findall(r'Resuming from checkpoint (\d+)', text),
           'newest': newest.name, 'before': before.name}
  if code == 0:
    found['differing_bits'] = differing_bits(workdir, whole)
    remove(workdir)
  return found


def flip(data: bytes, rng: np.random.Generator) -> bytes:
  """Flips one bit."""
  changed = bytearray(data)
  changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
  return bytes(changed)


def damage_row(name: str, found: list[dict]) -> list[str]:
  """The cells of the damages of a kind."""
  found = [one for one in found if one['change'] == name]
  said = [one for one in found if one['said']]
  return [{'truncate': 'cut off', 'flip': 'bit flipped'}[name], str(len(found)),
          str(sum(one['code'] == 0 for one in found)), str(len(said)),
          str(sum(one['resumed_from'] == [one['before']] for one in said)),
          str(sum(one['tracebacks'] for one in found)),
          str(sum(one.get('differing_bits', 0) for one in found))]


def main() -> None:
  """Makes the trials that are missing and prints the tables."""
  parser = make_parser(__doc__, out='runs/faults')
  parser.add_argument('--disks', type=int, default=12)
  parser.add_argument('--damages', type=int, default=50)
  args = parser.parse_args()
  inputs.keep_programs(args.out / 'compiled' / 'damage')
  damages = kept(args.out, 'damage', list(range(args.damages)),
                 functools.partial(damage_trial, args.out))
  print(markdown(('newest checkpoint', 'trials', 'exit code 0', 'said to be damaged',
                  'then the one before is used', 'tracebacks', 'differing bits'),
                 [damage_row(name, damages) for name in ('truncate', 'flip')]))
  disks = kept(args.out, 'disk', list(range(args.disks)),
               functools.partial(disk_trial, args.out))
  print('\n' + markdown(('', 'trials', 'exit code 2',
                         'one line, naming the newest checkpoint', 'tracebacks',
                         'with something half-written', 'end when there is room',
                         'differing bits'), [disk_row(disks)]))


if __name__ == '__main__':
  main()
