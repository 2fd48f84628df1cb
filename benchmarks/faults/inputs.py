"""Random changes to the files that a run reads.

  python -m benchmarks.faults inputs [--mutations=300] [--out=DIR]

Question:  is a damaged or hostile file answered in a line, and never executed?
Time:      ten minutes, on two cores.
Kept:      docs/benchmarks.md, Faults.

Images (PNG, JPEG, TIFF, GIF) in a folder, .npz, .npy, IDX (plain and compressed), and of
a fitted workdir config.json, images.json, metrics.jsonl and any file of a checkpoint, in
turn. Their bits are flipped, their bytes cut off, swapped, inserted or overwritten, the
values of their JSON and the headers of their arrays changed, and pickles put in their
place that would make a file if they were loaded. A change may be harmless (exit code 0)
or be answered with an error line (2); a traceback, an executed pickle, more than two
minutes or a process that dies is a failure. The number of a change is its seed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import gzip
import io
import pathlib
import shutil
import subprocess
import sys
import time
import traceback
import typing
from unittest import mock

import numpy as np

from benchmarks.common import ROOT, make_parser, markdown, read_json, write_json
from benchmarks.faults import mutations
from benchmarks.faults.runs import checkpoints, options_of

if typing.TYPE_CHECKING:
  from jdiffclust.clustering.method import Networks

SUFFIXES = {'PNG': '.png', 'JPEG': '.jpg', 'TIFF': '.tif', 'GIF': '.gif'}
ARRAYS = {'NPZ': 'images.npz', 'NPY': 'images.npy', 'IDX': 'images-idx3-ubyte',
          'IDX.gz': 'images-idx3-ubyte.gz'}
JSON = ('config.json', 'images.json')
TARGETS = (*SUFFIXES, *ARRAYS, *JSON, 'metrics.jsonl', 'checkpoint')
PATIENCE = 120.  # seconds


# ------------------------------------------------------------------------ one change


def mutate(target: str, path: pathlib.Path, marker: pathlib.Path,
           rng: np.random.Generator) -> str:
  """Changes a file; returns how."""
  known = list(mutations.BYTES)
  if path.name in JSON or path.name == 'metadata':
    known += [mutations.values] * 6
  if path.suffix == '.npy':
    known += [mutations.array_header] * 4
  if target not in ('checkpoint', 'metrics.jsonl'):
    known.append({'NPY': mutations.pickled_array,
                  'NPZ': mutations.pickled_archive}.get(target, mutations.pickled))
  change = mutations.choose(known, rng)
  data = path.read_bytes()
  if change.__name__.startswith('pickled'):
    path.write_bytes(change(marker))
  elif data:
    path.write_bytes(change(data, rng))
  return change.__name__


def images(rng: np.random.Generator) -> np.ndarray:
  """Six images of two kinds, uint8 [6, 24, 24]."""
  rows, columns = np.indices((24, 24))
  found = [100 + 90 * np.sin((rows, columns)[i % 2] / 3 + i) for i in range(6)]
  return (np.array(found) + rng.uniform(0, 20, (6, 24, 24))).astype(np.uint8)


def write_images(target: str, folder: pathlib.Path,
                 rng: np.random.Generator) -> tuple[pathlib.Path, dict[str, str]]:
  """Writes whole images; returns the file to be changed, and the data options."""
  from PIL import Image
  found = images(rng)
  if target in SUFFIXES:
    for number, image in enumerate(found):
      Image.fromarray(image).save(folder / f'{number}{SUFFIXES[target]}')
    return folder / f'2{SUFFIXES[target]}', {
        'source': 'folder', 'path': str(folder),
        'unreadable': ('refuse', 'skip')[rng.integers(2)]}
  path = folder / ARRAYS[target]
  if target == 'NPZ':
    np.savez_compressed(path, images=found, labels=np.arange(6) % 2)
  elif target == 'NPY':
    np.save(path, found.astype(np.float32) if rng.integers(2) else found)
  else:
    data = bytes((0, 0, 8, 3)) + np.array(found.shape, '>i4').tobytes() + found.tobytes()
    path.write_bytes(gzip.compress(data) if target == 'IDX.gz' else data)
  return path, {'source': 'idx' if 'IDX' in target else 'npz', 'path': str(path)}


def read(options: dict[str, str]) -> None:
  """Reads images, as a fit does."""
  from jdiffclust import config as config_lib
  from jdiffclust.data.dataset import images_at, load_source
  from jdiffclust.data.fingerprint import fingerprint
  config = config_lib.default_config()
  config.data.update(options)
  source = load_source(config.data)
  fingerprint(source)
  images_at(source, range(source.num_images))


def trial(number: int, fitted: pathlib.Path, folder: pathlib.Path) -> dict:
  """Changes one file and reads it.

  Args:
    number: of the change: its seed, and which kind of file.
    fitted: a workdir, which is copied.
    folder: to work in.
  """
  from jdiffclust.errors import UserError
  rng, target = np.random.default_rng(number), TARGETS[number % len(TARGETS)]
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  marker, err, began = folder / 'marker', io.StringIO(), time.perf_counter()
  inside = folder / 'inside'
  found = {'target': target, 'code': None}
  if target in (*SUFFIXES, *ARRAYS):
    inside.mkdir()
    path, options = write_images(target, inside, rng)
    call = lambda: read(options)
  else:
    shutil.copytree(fitted, inside)
    path = inside / target
    if target == 'checkpoint':
      files = sorted(p for p in checkpoints(inside)[0].rglob('*') if p.is_file())
      path = mutations.choose(files, rng)
    call = lambda: fit(inside, err)
  found |= {'file': path.name, 'change': mutate(target, path, marker, rng)}
  try:
    with contextlib.redirect_stderr(err):
      found['code'] = call() or 0
  except UserError as error:
    found['code'] = 2
    err.write(f'error: {error}\n')
  except BaseException:
    found['traceback'] = traceback.format_exc().splitlines()[-12:]
  told = err.getvalue()
  if 'Traceback' in told:
    found['traceback'] = told.splitlines()[-12:]
  if found['code'] == 2:
    found['error'] = told.splitlines()[-1][:300]
  return found | {'executed': marker.exists(), 'seconds': time.perf_counter() - began}


def fit(workdir: pathlib.Path, err: io.StringIO, *options: str,
        networks: Networks | None = None) -> int:
  """The command in this process, without pictures; its exit code.

  Args:
    workdir: the folder of the run.
    err: what it tells.
    *options: that are changed.
    networks: of the method; None: those of the tests, which are compiled in no time.
  """
  from jdiffclust import main
  from jdiffclust.clustering import method
  from tests.tiny import NO_PICTURES, TINY_NETWORKS
  argv = ['', *options_of('num_devices=1', *options), f'--workdir={workdir}']
  build = functools.partial(method.build, networks=networks or TINY_NETWORKS)
  with (mock.patch.object(sys, 'argv', argv), contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err)):
    return main.run(argv, build=build, parts=NO_PICTURES)


# ---------------------------------------------------------------------- the campaign


def record(out: pathlib.Path, number: int) -> pathlib.Path:
  """The file of a change."""
  return out / f'inputs-{number}.json'


def missing(out: pathlib.Path, count: int) -> list[int]:
  """The numbers of the changes that are still to be made."""
  return [number for number in range(count) if not record(out, number).exists()]


def keep_programs(folder: pathlib.Path) -> None:
  """Has JAX keep the programs that this process compiles in a folder."""
  import jax
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def work(out: pathlib.Path, count: int) -> None:
  """Makes the changes that are missing, in this process."""
  keep_programs(out / 'compiled' / 'inputs')
  fitted = out / 'references' / 'inputs'
  if not fitted.exists():
    folder = fitted.with_name('inputs.new')
    shutil.rmtree(folder, ignore_errors=True)
    if fit(folder, io.StringIO()):
      raise RuntimeError('the fit to be changed fails')
    folder.rename(fitted)
  for number in missing(out, count):
    write_json(record(out, number), trial(number, fitted, out / 'runs' / 'inputs'))


def supervise(args: argparse.Namespace) -> None:
  """Has the changes made in another process, which may die or hang."""
  command = [sys.executable, '-m', 'benchmarks.faults', 'inputs', '--work',
             f'--mutations={args.mutations}', f'--out={args.out}']
  while left := missing(args.out, args.mutations):
    began = time.perf_counter()
    worker = subprocess.Popen(command, cwd=ROOT)
    while worker.poll() is None:
      time.sleep(.2)
      now = missing(args.out, args.mutations)
      if now != left:
        left, began = now, time.perf_counter()
      if time.perf_counter() - began > PATIENCE:
        worker.kill()
        worker.wait()
    if worker.returncode:
      left = missing(args.out, args.mutations)
      write_json(record(args.out, left[0]), {
          'target': TARGETS[left[0] % len(TARGETS)], 'code': None, 'executed': False,
          'died': worker.returncode, 'seconds': time.perf_counter() - began})


def table(found: list[dict]) -> str:
  """The Markdown table of all changes."""
  by_target = collections.defaultdict(list)
  for one in found:
    by_target[one['target']].append(one)
  count = lambda ones, test: str(sum(map(test, ones)))
  return markdown(
      ('file', 'changes', 'read', 'one line', 'tracebacks', 'executed', 'died or hung',
       'longest'),
      [[target, str(len(ones)), count(ones, lambda one: one['code'] == 0),
        count(ones, lambda one: one['code'] == 2),
        count(ones, lambda one: 'traceback' in one),
        count(ones, lambda one: one['executed']), count(ones, lambda one: 'died' in one),
        f"{max(one['seconds'] for one in ones):.1f} s"]
       for target, ones in by_target.items()])


def main() -> None:
  """Makes the changes that are missing and prints the table."""
  parser = make_parser(__doc__, out='runs/faults')
  parser.add_argument('--mutations', type=int, default=300)
  parser.add_argument('--work', action='store_true', help='in this process')
  args = parser.parse_args()
  if args.work:
    work(args.out, args.mutations)
    return
  supervise(args)
  print(table([read_json(record(args.out, number))
               for number in range(args.mutations)]))


if __name__ == '__main__':
  main()
