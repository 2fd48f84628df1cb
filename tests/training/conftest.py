"""Runs of the command as small as they can be, here or in another process.

`python tests/training/conftest.py ARGV...` is the command with a tiny denoiser.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import re
import struct
import subprocess
import sys
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tensorboardX.proto import event_pb2

from jdiffclust import config as config_lib
from jdiffclust import main
from jdiffclust.report import results
from jdiffclust.training import cddpm, cluster_ddpm, methods, sampling

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = f'--config={ROOT}/configs/digits.py'
# 60 digits in 3 clusters: 2 EM iterations of 6 gradient steps and 2 E-step calls.
TINY = tuple(f'--config.{option}' for option in (
    'num_devices=1', 'num_clusters=3', 'data.max_images=60', 'network.channels=8',
    'network.channel_multipliers=(1,)', 'network.blocks_per_level=1',
    'network.middle_attention=False', 'diffusion.num_steps=20',
    'diffusion.beta_end=.01', 'em.max_iterations=2',
    'em.init=gaussian_mixture', 'em.init_restarts=1', 'em.posterior=monte_carlo',
    'e_step.num_draws=4', 'e_step.batch_size=32', 'm_step.num_steps=6',
    'm_step.first_num_steps=0', 'm_step.batch_size=16', 'log.every_steps=2',
    'checkpoint.every_steps=4', 'sample.num_images=2', 'quality.num_images=12',
    'quality.splits=2'))


class TinyDenoiser(nn.Module):
  """Two convolutions in the place of the U-Net: compiled in no time."""

  @nn.compact
  def __call__(self, x, t, mu, dropout_keys=None):
    """The noise in x, [B, H, W, C]."""
    del dropout_keys
    hidden = nn.Conv(8, (3, 3))(jnp.concatenate([x, mu], axis=-1))
    time = nn.Dense(8)(t.astype(jnp.float32)[:, None] / 20)
    return nn.Conv(x.shape[-1], (3, 3))(nn.silu(hidden + time[:, None, None]))


class TinyEncoder(nn.Module):
  """Two linear maps in the place of the encoder."""

  size: int

  @nn.compact
  def __call__(self, images, dropout_keys=None):
    """Mean and log variance of z, [B, J]."""
    del dropout_keys
    flat = images.reshape(len(images), -1)
    return nn.Dense(self.size)(flat), nn.Dense(self.size)(flat) - 3


class TinyContext(TinyDenoiser):
  """The tiny denoiser, which sees a picture of z beside x."""

  @nn.compact
  def __call__(self, x, t, z, visible=None, dropout_keys=None):
    """The noise in x, [B, H, W, C]."""
    if visible is not None:
      z = jnp.where(visible[:, None], z, 0)
    picture = nn.Dense(x[0].size)(z).reshape(x.shape)
    return TinyDenoiser()(x, t, picture, dropout_keys)


def tiny_networks(config):
  """In the place of `clusterddpm_networks`."""
  return TinyEncoder(config.latent.size), TinyContext()


@contextlib.contextmanager
def small(samples=False):
  """With the tiny denoiser, and without figures (and samples), which take seconds."""
  none = lambda model, params, clusters, options, task: sampling.Samples(np.zeros(
      (len(clusters), options.num_images, *model.image_shape), np.float32), 0., None)
  with (mock.patch.object(cddpm, 'unet_from_config', lambda _: TinyDenoiser()),
        mock.patch.object(cluster_ddpm, 'clusterddpm_networks', tiny_networks),
        mock.patch.object(results, 'draw_figures', lambda *args: {}),
        contextlib.nullcontext() if samples else
        mock.patch.object(main, 'draw_samples', none)):
    yield


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
    """Starts with no compiled model; `cache` is JAX's folder of compiled programs."""
    self.cache, self._built = cache, {}
    self.change = lambda model: model  # tests of faults put theirs in here

  def _build(self, config, image_shape, levels, mesh):
    """`methods.build`, but what is compiled is shared between equal models."""
    sections = ('method', 'seed', 'num_clusters', 'network', 'diffusion', 'latent',
                'e_step', 'm_step', 'em.posterior', 'posterior', 'views')
    compiled_for = {name: value for name, value in config_lib.flatten(config).items()
                    if name.startswith(sections)
                    and ('num_steps' not in name or config.method != 'cddpm')}
    compiled_for['T'] = config.diffusion.num_steps
    key = (repr(compiled_for), tuple(image_shape), levels, mesh,
           cddpm.unet_from_config.__name__)
    if key not in self._built:
      self._built[key] = methods.build(config, image_shape, levels, mesh)
    return self.change(dataclasses.replace(self._built[key], config=config))

  def run(self, *argv) -> Outcome:
    """Runs `jdiffclust ARGV...`; models of the same config are compiled once."""
    argv = ['jdiffclust', *map(str, argv)]
    out, err = io.StringIO(), io.StringIO()
    with (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
          mock.patch.object(sys, 'argv', argv),  # where ml_collections looks
          mock.patch.object(main, 'build', self._build),
          # Optax promotes implicitly.
          jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow')):
      code = main.run(argv)
    return Outcome(code, out.getvalue(), err.getvalue())

  def fit(self, workdir, *options, flags=(), whole=False) -> Outcome:
    """A tiny fit with options such as 'seed=1'; whole: with U-Net and figures."""
    with contextlib.nullcontext() if whole else small(bool(flags)):
      return self.run(*tiny(workdir, *options), *flags)

  def small(self, *argv) -> Outcome:
    """`run` with the tiny denoiser and without figures."""
    with small(samples=True):
      return self.run(*argv)

  def spawn(self, workdir, *options, log, devices=1, shell=False) -> subprocess.Popen:
    """Starts `fit` in a process of its own; its stderr and stdout go to `log`.

    With a shell, which waits for it and has more to do, the result is the shell.
    """
    around = ['sh', '-c', '"$@"; true', 'sh'] * shell
    environment = os.environ | {
        'JAX_COMPILATION_CACHE_DIR': str(self.cache / str(devices)),
        'PYTHONPATH': str(ROOT),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
        'XLA_FLAGS': re.sub(r'(device_count)=\d+', rf'\1={devices}',
                            os.environ['XLA_FLAGS'])}
    with open(log, 'a', encoding='utf-8') as file:
      return subprocess.Popen(
          [*around, sys.executable, __file__, *tiny(workdir, *options)],
          stdout=file, stderr=file, env=environment, cwd=ROOT)


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


@pytest.fixture(scope='session')
def plain(commands, tmp_path_factory):
  """The workdir of a fit with the tiny denoiser, not to be changed."""
  workdir = tmp_path_factory.mktemp('runs') / 'plain'
  outcome = commands.fit(workdir)
  assert outcome.code == 0, outcome.err
  return workdir


if __name__ == '__main__':
  with small():
    sys.exit(main.run(sys.argv))
