"""Runs to be disturbed: small ones of the real command, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.common import ROOT, read_json, write_json

# A checkpoint after each gradient step: saving takes a good part of the time.
SMALL = ('m_step.num_steps=6', 'checkpoint.every_steps=1')
# How a run is started: by `python -m jdiffclust.main`; or forked from a process that has
# made the imports, without pictures; or so with the network of the tests, which is small.
HOWS = ('command', 'forked', 'tiny')
LONGEST = 600.  # seconds that a run may take before it counts as hanging


class Way(NamedTuple):
  """On what a run runs.

  Attributes:
    devices: virtual CPU devices of each process.
    processes: how many.
  """

  devices: int = 1
  processes: int = 1

  def key(self) -> str:
    """For the names of files."""
    return f'{self.devices}-{self.processes}'

  def __str__(self) -> str:
    """In words."""
    number, what = ((self.devices, 'device') if self.processes == 1
                    else (self.processes, 'process'))
    return f"{number} {what}{'' if number == 1 else 'es' if what[-1] == 's' else 's'}"


WAYS = (Way(1), Way(2), Way(8), Way(1, 2))


def options_of(*further: str) -> list[str]:
  """Arguments of the command for the config of the tests, with options changed."""
  from tests.tiny import TINY
  return [f'--config={ROOT}/configs/digits.py', *TINY,
          *(f'--config.{option}' for option in further)]


class Run:
  """A started run: one process, or several."""

  def __init__(self, arguments: Iterable[str], workdir: pathlib.Path, way: Way = Way(),
               cache: pathlib.Path | None = None, how: str = 'forked'):
    """Starts it; what the processes tell is added to WORKDIR.log0, WORKDIR.log1, ...

    Args:
      arguments: of the command, without --workdir.
      workdir: the folder of the run.
      way: on what.
      cache: the folder in which JAX keeps compiled programs; None: none is kept.
      how: of HOWS.
    """
    arguments = [*arguments, f'--workdir={workdir}', '--config.num_devices=0']
    if way.processes > 1:
      arguments += [f'--config.distributed.coordinator=localhost:{free_port()}',
                    f'--config.distributed.num_processes={way.processes}']
    flags = f'--xla_force_host_platform_device_count={way.devices}'
    # The last bit depends on the number of devices, which JAX's keys leave out.
    cache = '' if cache is None else str(cache / way.key())
    workdir.parent.mkdir(parents=True, exist_ok=True)
    self.logs = [workdir.with_name(f'{workdir.name}.log{number}')
                 for number in range(way.processes)]
    self._told = [log.stat().st_size if log.exists() else 0 for log in self.logs]
    self.began, self.processes = time.perf_counter(), []
    for number, log in enumerate(self.logs):
      own = [f'--config.distributed.process_id={number}'] * (way.processes > 1)
      if how == 'command':
        self.processes.append(Command([*arguments, *own], log, flags, cache))
      else:
        from benchmarks.faults.forked import start
        self.processes.append(start(['jdiffclust', *arguments, *own], str(log), flags,
                                    cache, how == 'tiny'))

  def ended(self, within: float = LONGEST) -> bool:
    """Waits for the end of all processes; whether it came in so many seconds."""
    for process in self.processes:
      process.join(max(0., self.began + within - time.perf_counter()))
    return None not in self.codes

  def kill(self, which: Iterable[int] | None = None) -> None:
    """Sends SIGKILL to some of the processes, or to all, and waits for their ends."""
    chosen = [self.processes[number] for number in which] if which else self.processes
    for process in chosen:
      process.kill()
    for process in chosen:
      process.join()

  @property
  def codes(self) -> list[int | None]:
    """The exit codes; None: still running."""
    return [process.exitcode for process in self.processes]

  def told(self, number: int = 0) -> list[str]:
    """The lines that a process has told since it was started."""
    log = self.logs[number]
    text = log.read_bytes()[self._told[number]:] if log.exists() else b''
    return text.decode('utf-8', 'replace').splitlines()

  def wait_for(self, text: str, within: float = LONGEST) -> bool:
    """Waits until the main process has told a text; whether it did."""
    end = time.perf_counter() + within
    while time.perf_counter() < end:
      if any(text in line for line in self.told()):
        return True
      if None not in self.codes:
        return False
      time.sleep(.02)
    return False


class Command:
  """`python -m jdiffclust.main`, with the methods of a `multiprocessing.Process`."""

  def __init__(self, arguments: list[str], log: pathlib.Path, flags: str, cache: str):
    """Starts it; see `forked.start`."""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT),
                                'XLA_FLAGS': flags}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    if cache:
      environment |= {'JAX_COMPILATION_CACHE_DIR': cache,
                      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
                      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}
    with open(log, 'ab') as file:
      self._process = subprocess.Popen(
          [sys.executable, '-m', 'jdiffclust.main', *arguments],
          stdout=subprocess.DEVNULL, stderr=file, env=environment, cwd=ROOT)

  @property
  def pid(self) -> int:
    """The id of the process."""
    return self._process.pid

  @property
  def exitcode(self) -> int | None:
    """None: still running."""
    return self._process.poll()

  def join(self, timeout: float | None = None) -> None:
    """Waits for the end, so many seconds at most."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(timeout)

  def kill(self) -> None:
    """Sends SIGKILL."""
    self._process.kill()


@contextlib.contextmanager
def running(*args, **kwargs) -> Iterator[Run]:
  """A `Run` of which nothing is left running."""
  run = Run(*args, **kwargs)
  try:
    yield run
  finally:
    run.kill()


def free_port() -> int:
  """A port that nobody listens at."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def reference(arguments: list[str], way: Way, out: pathlib.Path, name: str,
              how: str = 'forked') -> dict:
  """An undisturbed run: its workdir, and the seconds it takes with a full cache.

  Args:
    arguments: of the command.
    way: on what.
    out: the folder of the campaign.
    name: of the campaign.
    how: of HOWS.

  Raises:
    RuntimeError: it failed.
  """
  key = f'{name}-{how}-{way.key()}'
  path = out / 'references' / f'{key}.json'
  while (read_json(path) or {}).get('runs', 0) < 2:  # the first one fills the cache
    workdir = out / 'references' / key
    remove(workdir)
    with running(arguments, workdir, way, out / 'compiled', how) as run:
      if not run.ended() or any(run.codes):
        raise RuntimeError(f'{key}: exit codes {run.codes}, see {run.logs[0]}')
      write_json(path, {'runs': (read_json(path) or {}).get('runs', 0) + 1,
                        'workdir': str(workdir),
                        'seconds': time.perf_counter() - run.began})
  return read_json(path)


def remove(workdir: pathlib.Path) -> None:
  """Removes a workdir and its logs, if they are there."""
  shutil.rmtree(workdir, ignore_errors=True)
  for log in workdir.parent.glob(f'{workdir.name}.log*'):
    log.unlink()


def checkpoints(workdir: pathlib.Path) -> list[pathlib.Path]:
  """The folders of the whole checkpoints of a workdir, newest first."""
  found = (workdir / 'checkpoints').glob('[0-9]*')
  return sorted((path for path in found if path.name.isdecimal()),
                key=lambda path: -int(path.name))


def half_written(workdir: pathlib.Path) -> list[str]:
  """The names of what lies in a workdir and is not whole."""
  return [str(path.relative_to(workdir)) for path in workdir.rglob('*')
          if 'orbax-checkpoint-tmp' in path.name
          or path.name.startswith('.') and path.name != '.lock']


def arrays_of(workdir: pathlib.Path, other: pathlib.Path) -> dict[str, np.ndarray]:
  """tau, as written, and every array of the newest checkpoint: weights, tau and bound.

  Args:
    workdir: of a run.
    other: one of the same config, whose newest checkpoint says which arrays there are.
  """
  import jax
  import orbax.checkpoint as ocp
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  folder, whole = (checkpoints(path)[0] / 'arrays' for path in (workdir, other))
  with ocp.StandardCheckpointer() as reader:
    shapes = reader.metadata(whole).item_metadata.tree
    found = reader.restore(folder, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes))
  return {'tau': np.load(workdir / 'responsibilities.npy'),
          **{jax.tree_util.keystr(path): np.asarray(leaf)
             for path, leaf in jax.tree_util.tree_leaves_with_path(found)}}


def differing_bits(workdir: pathlib.Path, other: pathlib.Path) -> int:
  """The number of bits of tau, the bound and the weights in which two runs differ."""
  if checkpoints(workdir)[0].name != checkpoints(other)[0].name:
    raise ValueError(f'{workdir} and {other} end with other checkpoints')
  ours, theirs = arrays_of(workdir, other), arrays_of(other, other)
  return sum(int(np.bitwise_count(np.bitwise_xor(
      *(np.frombuffer(array.tobytes(), np.uint8) for array in pair))).sum())
             for pair in ((ours[name], theirs[name]) for name in theirs))


def largest_difference(workdir: pathlib.Path, other: pathlib.Path) -> dict[str, float]:
  """The largest differences of tau, and of any other number of the last checkpoint."""
  ours, theirs = arrays_of(workdir, other), arrays_of(other, other)
  found = {name: float(np.abs(ours[name].astype(float)
                              - theirs[name].astype(float)).max(initial=0))
           for name in ours}
  return {'tau': found.pop('tau'),
          'weights': max(value for name, value in found.items() if "'state'" in name),
          'bound': max(value for name, value in found.items() if "'bound'" in name)}
