"""Memory that is freed and taken again."""

import platform
import subprocess
import sys

import numpy as np
import pytest

from jdiffclust import memory

FAULTS = '''
import resource, sys
if sys.argv[1] == 'keep':
  from jdiffclust.memory import keep_freed_memory
  keep_freed_memory()
import numpy as np
def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(10_000_000)
before = faults()
for _ in range(10):
  np.ones(10_000_000)
print(faults() - before)
'''

# What a compiler leaves: many small pieces, of which the last one stays.
LEFT = '''
import ctypes, sys
from jdiffclust import memory
memory.keep_freed_memory()
import jax
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident():
  with open('/proc/self/statm') as file:
    return 4096 * int(file.read().split()[1])
pieces = [libc.malloc(50_000) for _ in range(4_000)]
for piece in pieces:
  ctypes.memset(piece, 1, 50_000)
for piece in pieces[:-1]:
  libc.free(piece)
memory.LEAST_SECONDS = float(sys.argv[1])
memory.return_what_compilers_leave()
before = resident()
jax.jit(lambda x: x + 1)(1.)
print(before - resident())
'''


@pytest.mark.skipif(sys.platform != 'linux' or platform.libc_ver()[0] != 'glibc',
                    reason='other C libraries are left as they are')
def test_what_compiling_leaves_is_returned():
  """200 MB of pieces, when JAX has compiled something that took long enough."""
  left = {least: int(subprocess.run([sys.executable, '-c', LEFT, least], check=True,
                                    capture_output=True, text=True).stdout)
          for least in ('0', '1000')}
  assert left['1000'] < 50_000_000 < 100_000_000 < left['0'], left


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='other C libraries are '
                    'left as they are')
def test_freed_memory_is_not_cleared_anew():
  """80 MB, ten times: without a page from the kernel, where else all come from it."""
  pages = {how: int(subprocess.run([sys.executable, '-c', FAULTS, how], check=True,
                                   capture_output=True, text=True).stdout)
           for how in ('keep', 'leave')}
  assert pages['keep'] < 100 < pages['leave'], pages


@pytest.mark.parametrize('fail', [
    lambda: np.empty((10**12, 64)), lambda: np.empty((10**12, 10**12))])
def test_a_shortage_is_told_from_other_errors(fail):
  """Of NumPy's own errors, and of JAX's; a full disk and a mistake are none."""
  with pytest.raises((MemoryError, ValueError)) as caught:
    fail()
  assert memory.shortage(caught.value)
  for error, told in ((RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 5\nx'),
                       'RESOURCE_EXHAUSTED: Out of memory allocating 5'),
                      (MemoryError(), 'MemoryError'), (ValueError('x'), ''),
                      (OverflowError('too large'), ''),  # of ours: a traceback
                      (ValueError('RESOURCE_EXHAUSTED: Error writing "x"'), '')):
    assert memory.shortage(error) == told
