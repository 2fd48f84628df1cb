"""How the C library hands out memory."""

from __future__ import annotations

import ctypes
import platform

# Parameters of glibc's mallopt, by malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
  """Has glibc keep the memory that is freed, for the next step of the same program.

  On a CPU every step takes and frees the same buffers. Left alone, glibc returns large
  ones to the kernel, which clears each page anew: a sixth of the time of a gradient step
  (docs/benchmarks.md). To be called before the first thread starts, which would have a
  heap of its own. Other C libraries are left as they are.
  """
  if platform.libc_ver()[0] != 'glibc':
    return
  mallopt = ctypes.CDLL(None).mallopt
  mallopt(MMAP_MAX, 0)  # all from the heap,
  mallopt(ARENA_MAX, 1)  # of which there is one,
  mallopt(TRIM_THRESHOLD, -1)  # and which does not shrink
