"""Runs of the command as small as they can be, here or in another process."""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import re
import struct
import sys
import warnings
from unittest import mock

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tensorboardX.proto import event_pb2

from jdiffclust import main, outputs
from jdiffclust.clustering import method
from tests import command
from tests.tiny import (
    CLUSTER_DDPM, LATENT_CDDPM, NO_FIGURES, NO_PICTURES, TINY, TINY_NETWORKS, Shared)

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = f'--config={ROOT}/configs/digits.py'


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a command line gave."""

  code: int
  out: str
  err: str


def tiny(workdir, *options) -> list[str]:
  """The arguments of a tiny fit."""
  return [DIGITS, *TINY, *(f'--config.{option}' for option in options),
          f'--workdir={workdir}']


class Commands:
  """Runs command lines in this process, and fits in others."""

  config = DIGITS

  def __init__(self, cache):
    """Starts with no compiled method; `cache` is JAX's folder of compiled programs."""
    self.cache, self._shared = cache, Shared()
    self.change = lambda built: built  # tests of faults put theirs in here

  def build(self, config, image_shape, levels, mesh, networks=TINY_NETWORKS):
    """`method.build`, but what is compiled is shared between equal methods."""
    return self.change(self._shared(networks, config, image_shape, levels, mesh))

  def run(self, *argv, networks=method.Networks(), parts=outputs.Parts()) -> Outcome:
    """Runs `jdiffclust ARGV...`; methods of the same config are compiled once."""
    argv = ['jdiffclust', *map(str, argv)]
    out, err = io.StringIO(), io.StringIO()
    with (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
          mock.patch.object(sys, 'argv', argv),  # where ml_collections looks
          # Optax promotes implicitly.
          jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow')):
      code = main.run(argv, build=functools.partial(self.build, networks=networks),
                      parts=parts)
    return Outcome(code, out.getvalue(), err.getvalue())

  def new_workdir(self, tmp_path_factory, name, *options) -> pathlib.Path:
    """The workdir of a fit that has gone well."""
    workdir = tmp_path_factory.mktemp('runs') / name
    outcome = self.fit(workdir, *options)
    assert outcome.code == 0, outcome.err
    return workdir

  def fit(self, workdir, *options, flags=(), whole=False,
          networks=TINY_NETWORKS) -> Outcome:
    """A tiny fit with options such as 'seed=1'; whole: with U-Net and figures."""
    argv = *tiny(workdir, *options), *flags
    if whole:
      return self.run(*argv)
    return self.run(*argv, networks=networks, parts=NO_FIGURES if flags else NO_PICTURES)

  def small(self, *argv) -> Outcome:
    """`run` with the tiny denoiser and without figures."""
    return self.run(*argv, networks=TINY_NETWORKS, parts=NO_FIGURES)

  def spawn(self, workdir, *options, log, devices=1, function=command.run):
    """Starts `fit` in a process of its own; its stderr and stdout go to `log`.

    A function may take the place of `command.run`.
    """
    environment = {
        'JAX_COMPILATION_CACHE_DIR': str(self.cache / str(devices)),
        'PYTHONPATH': str(ROOT),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
        'XLA_FLAGS': re.sub(r'(device_count)=\d+', rf'\1={devices}',
                            os.environ['XLA_FLAGS'])}
    return command.Forked(['jdiffclust', *tiny(workdir, *options)], log, environment,
                          function)


def read_events(workdir) -> list:
  """Every record of the TensorBoard files of a workdir, in time order."""
  found = []
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:  # records: length (8), its CRC (4), event, its CRC (4)
      length, = struct.unpack('<Q', data[:8])
      found.append(event_pb2.Event.FromString(data[12:12 + length]))
      data = data[16 + length:]
  return found


@pytest.fixture
def promotion():
  """Implicit promotion, as a user has it."""
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    yield


@pytest.fixture
def cut_before_learning(monkeypatch):
  """[1] once a fit has come to its first M-step, at which it ends as by Ctrl-C."""
  came = []

  def interrupt(fitter):
    came.append(1)
    raise KeyboardInterrupt

  monkeypatch.setattr('jdiffclust.training.loop.Fitter.m_phase', interrupt)
  return came


@pytest.fixture(scope='session')
def events():
  """`read_events`."""
  return read_events


@pytest.fixture(scope='session')
def compiled(tmp_path_factory):
  """A folder where the session's processes keep the programs that they compile.

  In it is a folder for each number of devices: on that, which JAX's keys leave out,
  depends how a program is cut into threads, and so its last bit.
  """
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent  # of all workers
  folder /= 'compiled'
  settings = {'jax_compilation_cache_dir': str(folder / str(jax.device_count())),
              'jax_persistent_cache_min_compile_time_secs': 0.,
              'jax_persistent_cache_min_entry_size_bytes': -1}
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield folder
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='session')
def commands(compiled):
  """The `Commands` of the session."""
  return Commands(compiled)


@pytest.fixture(scope='session')
def first_fit(commands, tmp_path_factory):
  """(workdir, outcome) of a whole tiny fit; the workdir is not to be changed."""
  workdir = tmp_path_factory.mktemp('runs') / 'fitted'
  outcome = commands.fit(workdir, whole=True)
  assert outcome.code == 0, outcome.err
  return workdir, outcome


@pytest.fixture(scope='session')
def fitted(first_fit):
  """The workdir of `first_fit`."""
  return first_fit[0]


@pytest.fixture
def as_of_a_user(compiled):
  """Optax promotes implicitly; what a tiny fit warns of is not looked at."""
  del compiled
  with (jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'),
        warnings.catch_warnings()):
    warnings.simplefilter('ignore')
    yield


@pytest.fixture(scope='session')
def plain(commands, tmp_path_factory):
  """The workdir of a fit with the tiny denoiser, not to be changed."""
  return commands.new_workdir(tmp_path_factory, 'plain')


@pytest.fixture(scope='session')
def latent(commands, tmp_path_factory):
  """The workdir of a tiny fit of ClusterDDPM, not to be changed."""
  return commands.new_workdir(tmp_path_factory, 'latent', *CLUSTER_DDPM)


@pytest.fixture(scope='session')
def taken_over(commands, tmp_path_factory):
  """The workdir of a tiny fit of CDDPM on latents, not to be changed."""
  return commands.new_workdir(tmp_path_factory, 'taken_over', *LATENT_CDDPM)
