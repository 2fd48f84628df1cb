"""How many programs each command compiles, and which of them the fit had compiled.

Every command begins with no program in memory, as in a process of its own, and finds
those that the commands before it have left in JAX's folder. What is counted: `asked`, all
programs that a command runs, each of which costs its tracing and its reading; and the
names of those that were not there yet.
"""

import collections
import json
import os
import pathlib

import jax
import jax.monitoring
import numpy as np
import pytest
from PIL import Image

from jdiffclust import main
from tests import tiny
from tests.command import Forked

# In the fit: its state, the loop (minibatch and step), the means of the clusters, pilot
# and E-step, generated images, features. All else are single operations.
OF_THE_FIT = ('new_state', 'stage', 'minibatch', 'm_step', '_sums', '_means', 'pilot',
              'e_step', 'responsibilities_of', 'generate', '_encode', 'init')


def count(arguments) -> None:
  """Runs a fit and what follows it; writes what each compiled. (In its own process.)

  Args:
    arguments: a folder, and its folder of compiled programs.
  """
  folder, cache = map(pathlib.Path, arguments)
  heard, found = collections.Counter(), {}
  jax.monitoring.register_event_listener(
      lambda name, **_: heard.update([name.rpartition('/')[2]]))
  known = lambda: {path.name for path in cache.rglob('*-cache')}
  mask = np.zeros((8, 8), np.uint8)
  mask[:4] = 255
  Image.fromarray(mask).save(folder / 'mask.png')
  root = pathlib.Path(__file__).parents[2]
  fit = (f'--config={root}/configs/digits.py', *tiny.TINY,
         # What tells damaged images is as small: fewer steps, no fewer programs.
         '--config.recognition.channels=8', '--config.recognition.steps=4',
         '--config.recognition.batch_size=16')
  commands = {
      'fit': fit, 'again': fit, 'evaluate': ('--mode=evaluate',),
      'predict': ('--mode=predict',), 'sample': ('--mode=sample',),
      'restore': ('--mode=restore', '--config.data.max_images=8',
                  f'--config.restore.mask={folder}/mask.png',
                  '--config.restore.num_steps=4', '--config.restore.num_draws=1')}
  for name, options in commands.items():
    jax.clear_caches()
    before = known()
    heard.clear()
    workdir = folder / ('other' if name == 'again' else 'run')
    code = main.run(['', f'--workdir={workdir}', '--quiet', *options], build=tiny.build,
                    parts=tiny.NO_FIGURES)
    new = collections.Counter(
        name.rsplit('-', 2)[0].removeprefix('jit_') for name in known() - before)
    assert new.total() == heard['cache_misses'], (new, heard)
    found[name] = {'code': code, 'asked': heard['compile_requests_use_cache'], 'new': new}
  (folder / 'found.json').write_text(json.dumps(found))


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  """{command: what `count` wrote of it}."""
  folder = tmp_path_factory.mktemp('compilations')
  log = folder / 'log'
  process = Forked([str(folder), str(folder / 'cache')], log, {
      'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
      'XLA_FLAGS': os.environ['XLA_FLAGS']}, function=count)
  assert process.wait(timeout=300) == 0, log.read_text()
  return json.loads((folder / 'found.json').read_text())


def test_all_went_well(found):
  """Or the counts would be those of something else."""
  assert {name: of['code'] for name, of in found.items()} == dict.fromkeys(found, 0)


def test_a_fit_compiles_each_program_once(found):
  """Two orders of stages and two kinds of single operations have two; no step has."""
  new = found['fit']['new']
  assert {name: new.get(name, 0) for name in OF_THE_FIT} == {
      **dict.fromkeys(OF_THE_FIT, 1), 'stage': 2}


def test_a_second_fit_compiles_nothing(found):
  """Another process, another folder: all programs are there."""
  assert found['again']['new'] == {}


def test_evaluate_compiles_other_numbers_of_images_alone(found):
  """Its images are more than those of the report, so they are drawn by another one."""
  assert set(found['evaluate']['new']) <= {'generate', '_grid'}
  assert found['evaluate']['new']['generate'] == 1


def test_predict_compiles_what_new_images_need(found):
  """Numbers that follow from their content; the E-step is that of the fit."""
  assert set(found['predict']['new']) == {'content_numbers'}


def test_sample_compiles_nothing(found):
  """As many images as in the report, by the same sampler."""
  assert found['sample']['new'] == {}


@pytest.mark.parametrize('command, most', [
    ('fit', 52), ('evaluate', 43), ('predict', 21), ('sample', 27), ('restore', 128)])
def test_few_programs_are_run(command, most, found):
  """A seventh more than they are today (45, 37, 18, 23 and 111): single operations
  outside of `jit` add up."""
  assert found[command]['asked'] <= most
