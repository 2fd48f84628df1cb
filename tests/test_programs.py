"""Compiled programs that are kept for the next command."""

import types

import jax
import jax.monitoring
import numpy as np
import platformdirs
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jdiffclust import programs
from jdiffclust.errors import UserError

SETTINGS = ('jax_compilation_cache_dir', 'jax_compilation_cache_max_size',
            'jax_persistent_cache_min_compile_time_secs',
            'jax_persistent_cache_min_entry_size_bytes')
X = np.arange(5, dtype=np.float32)
HEARD = []  # what JAX has told of its cache
jax.monitoring.register_event_listener(
    lambda name, **_: HEARD.append(name.rpartition('/')[2]))


@pytest.fixture
def fresh(monkeypatch):
  """A process that keeps nothing yet, and wants all that is compiled."""
  before = {name: getattr(jax.config, name) for name in SETTINGS}
  jax.config.update('jax_compilation_cache_dir', None)
  compilation_cache.reset_cache()
  monkeypatch.setattr(programs, 'LEAST_SECONDS', 0.)
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def asked(folder, limit_mb=100):
  """The section of a config."""
  return types.SimpleNamespace(folder=str(folder), limit_mb=limit_mb)


def events_of(number: float) -> list[str]:
  """What JAX tells of its cache while it compiles and runs 3 x + number."""
  HEARD.clear()
  jax.clear_caches()
  np.testing.assert_array_equal(jax.jit(lambda x: 3 * x + number)(X), 3 * X + number)
  return [name for name in HEARD if name in ('cache_hits', 'cache_misses')]


def entries(folder):
  """The files of compiled programs."""
  return [path for path in folder.rglob('*-cache') if path.is_file()]


def test_a_program_is_compiled_once(fresh, tmp_path):
  """Also by the next process, which has none in memory; in a folder of the machine's."""
  programs.keep_programs(asked(tmp_path))
  assert 'cache_misses' in events_of(1.)
  kept = entries(tmp_path / 'programs' / programs.machine())
  assert kept
  assert set(events_of(1.)) == {'cache_hits'}
  assert entries(tmp_path) == kept


def test_a_damaged_program_is_compiled_anew(fresh, tmp_path):
  """Cut short or of other bytes: the result is right all the same."""
  programs.keep_programs(asked(tmp_path))
  events_of(2.)
  for damage in (lambda data: data[:len(data) // 2], lambda data: b'x' * len(data),
                 lambda data: b''):
    for path in entries(tmp_path):
      path.write_bytes(damage(path.read_bytes()))
    events_of(2.)


def test_the_least_recently_used_go(fresh, tmp_path, monkeypatch):
  """The folder holds no more than it may."""
  monkeypatch.setattr(programs, 'MEGABYTE', 30_000)
  programs.keep_programs(asked(tmp_path, 1))
  for number in range(20):
    events_of(float(number))
  assert 0 < sum(path.stat().st_size for path in entries(tmp_path)) <= 30_000


def test_by_default_in_the_users_cache_folder(fresh, tmp_path, monkeypatch):
  """The one that the system names."""
  monkeypatch.setattr(platformdirs, 'user_cache_dir', lambda *_: str(tmp_path / 'mine'))
  programs.keep_programs(asked('auto'))
  events_of(3.)
  assert entries(tmp_path / 'mine')


def test_without_a_folder_that_can_be_written(fresh, tmp_path, monkeypatch):
  """One that is asked for is missed; that of the system is not."""
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='programs.folder = .*file.* cannot be written'):
    programs.keep_programs(asked(tmp_path / 'file'))
  monkeypatch.setattr(platformdirs, 'user_cache_dir', lambda *_: str(tmp_path / 'file'))
  programs.keep_programs(asked('auto'))
  assert jax.config.jax_compilation_cache_dir is None


def test_nothing_is_kept_where_nothing_is_asked_for(fresh, tmp_path):
  """An empty name; and a folder that JAX was told of stays."""
  programs.keep_programs(asked(''))
  assert jax.config.jax_compilation_cache_dir is None
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  programs.keep_programs(asked(tmp_path / 'other'))
  assert jax.config.jax_compilation_cache_dir == str(tmp_path)


def test_machines_that_differ_share_nothing(monkeypatch):
  """Cores, devices and flags of XLA: each says how a program is made."""
  here = programs.machine()
  monkeypatch.setenv('XLA_FLAGS', 'other')
  other = programs.machine()
  monkeypatch.setattr(programs, '_instructions', lambda: 'flags : none')
  assert len({here, other, programs.machine()}) == 3
