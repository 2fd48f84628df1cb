"""Memory that is freed and taken again."""

import platform
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='other C libraries are '
                    'left as they are')
def test_freed_memory_is_not_cleared_anew():
  """80 MB, ten times: without a page from the kernel, where else all come from it."""
  pages = {how: int(subprocess.run([sys.executable, '-c', FAULTS, how], check=True,
                                   capture_output=True, text=True).stdout)
           for how in ('keep', 'leave')}
  assert pages['keep'] < 100 < pages['leave'], pages
