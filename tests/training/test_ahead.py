"""Both steps are compiled while a start is computed, once, and are those that run."""

import threading
import time

import jax
import jax.monitoring
import numpy as np
import pytest
from sklearn import datasets

import jdiffclust
from jdiffclust.config import default_config
from jdiffclust.errors import UserError
from jdiffclust.memory import COMPILED
from jdiffclust.training import ahead, loop
from tests import tiny

IMAGES = datasets.load_digits().images.astype(np.uint8)[:60]


@pytest.fixture
def compiled():
  """What was compiled, and by which threads: a list of (name, thread)."""
  found = []

  def heard(event, seconds, fun_name='', **_):
    del seconds
    if event == COMPILED:
      found.append((fun_name, threading.current_thread().name))

  jax.monitoring.register_event_duration_secs_listener(heard)
  yield found
  jax.monitoring.unregister_event_duration_listener(heard)


@pytest.fixture
def waits_for_its_start(monkeypatch):
  """K-means is taken for a start that takes long."""
  monkeypatch.setattr(loop, 'COMPARING_STARTS', ('kmeans',))
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield


def small_fit(**options):
  """A fit of 60 digits, of programs of its own."""
  jax.clear_caches()
  config = default_config()
  config.update_from_flattened_dict(tiny.SMALL | {'num_clusters': 3} | options)
  return jdiffclust.fit(config, IMAGES, build=tiny.build)


@pytest.mark.parametrize('options, steps', [
    ({'em.schedule': 'stepwise', 'start.max_images': 30, 'num_devices': 2},
     ('m_step', 'e_step')),
    ({'em.posterior': 'monte_carlo'}, ('m_step', 'e_step')),
    ({'method': 'latent_cddpm', 'em.max_iterations': 2, 'latent.iterations': 1},
     ('_step_of_first', '_score_of_first'))])
def test_steps_are_compiled_once_and_ahead(options, steps, compiled,
                                           waits_for_its_start):
  small_fit(**options)
  for step in steps:
    threads = [thread for name, thread in compiled if name in (step, f'jit({step})')]
    assert len(threads) == 1 and threads[0].startswith(ahead.COMPILER), compiled


class Refused:
  """A program that the compiler refuses."""

  def compile(self):
    """Refuses."""
    raise UserError('refused')


def test_what_the_compiler_says_reaches_who_waits():
  begun = ahead.Ahead([Refused()])
  begun.wait(0)
  with pytest.raises(UserError, match='refused'):
    begun.wait(2)


def test_a_compiler_at_work_is_seen():
  release, asked = threading.Event(), threading.Event()

  class Slow:
    def compile(self):
      asked.set()
      release.wait(30)

  no_compiler()
  begun = ahead.Ahead([Slow()])
  assert asked.wait(30) and ahead.compiling()
  release.set()
  begun.wait(1)
  no_compiler()


def no_compiler():
  """Waits until no compiler is at work."""
  deadline = time.monotonic() + 30
  while ahead.compiling():
    assert time.monotonic() < deadline
    time.sleep(.02)
