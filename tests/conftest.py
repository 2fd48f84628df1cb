"""Strict JAX and eight virtual CPU devices, for every test."""

import gc
import importlib.metadata
import os
import pathlib

# Most of the time goes into compiling: little optimisation halves that, and one piece of
# code instead of 32, which are for as many cores, takes a sixth of the rest.
os.environ['XLA_FLAGS'] = (os.environ.get('XLA_FLAGS', '')
                           + ' --xla_force_host_platform_device_count=8'
                           + ' --xla_backend_optimization_level=0'
                           + ' --xla_llvm_disable_expensive_passes=true'
                           + ' --xla_cpu_parallel_codegen_split_count=1')
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ['XLA_FLAGS'] += ' --xla_cpu_use_fusion_emitters=false'  # 0.12 has it no more
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')
# A tenth of the time went into noting, for every operation, which lines asked for it.
jax.config.update('jax_traceback_in_locations_limit', 0)


# JAX makes so many objects that looking for cycles among all of them took a twentieth.
gc.set_threshold(20_000, 10, 10)


def pytest_collection_finish():
  """What is imported by now stays."""
  gc.collect()
  gc.freeze()


# Other files that take half a minute and more.
LONG = ('test_fitted.py', 'test_docs.py', 'test_notebooks.py', 'test_recognition.py',
        'test_methods_oracles.py')


def pytest_collection_modifyitems(items):
  """Marks the tests of slow.txt. Whole fits come first: their files take longest, and no
  process waits at the end."""
  slow = set(pathlib.Path(__file__).with_name('slow.txt').read_text('utf-8').splitlines())
  for item in items:
    name = item.nodeid
    if slow & {name, name.partition('[')[0], name.partition('::')[0]}:
      item.add_marker('slow')
  items.sort(key=lambda item: (item.path.parent.name != 'training',
                               item.path.name not in LONG))


MAPPINGS = '/proc/self/maps'


@pytest.fixture(autouse=True, scope='module')
def forget_programs():
  """Compiled programs are dropped after a module if there are many.

  Each takes some of the 65,530 memory mappings that Linux grants a process by default;
  one more, and XLA crashes.
  """
  yield
  if os.path.exists(MAPPINGS):
    with open(MAPPINGS, 'rb') as file:
      count = sum(1 for _ in file)
    if count > 30_000:
      jax.clear_caches()


@pytest.fixture
def few_cuts(monkeypatch):
  """Two graphs, two widths and two numbers of cells: 8 cuts of a graph, not 48."""
  from jdiffclust.clustering.starts import neighbours
  for name in ('NEIGHBOURS', 'EIGENVECTORS', 'CELLS'):
    factors = getattr(neighbours, name)
    monkeypatch.setattr(neighbours, name, (factors[0], factors[-1]))


@pytest.fixture
def x64():
  """Double precision for the length of a test."""
  with jax.enable_x64(True):
    yield
