"""How the C library hands out memory, and what is said where there is too little."""

from __future__ import annotations

import ctypes
import functools
import platform

# Parameters of glibc's mallopt, by malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
  """Has glibc keep the memory that is freed, for the next step of the same program.

  On a CPU every step takes and frees the same buffers. Left alone, glibc returns large
  ones to the kernel, which clears each page anew. This holds for the heap of the main
  thread: others have their own, since those of several devices would wait for each other
  at a single one, for a third of the time of a step of small images
  (docs/benchmarks.md). Other C libraries are left as they are.
  """
  if platform.libc_ver()[0] != 'glibc':
    return
  mallopt = ctypes.CDLL(None).mallopt
  mallopt(MMAP_MAX, 0)  # all from heaps,
  mallopt(TRIM_THRESHOLD, -1)  # which do not shrink


# What JAX calls the time that the compiler took, or reading a kept program did.
COMPILED = '/jax/core/compile/backend_compile_duration'
LEAST_SECONDS = .2  # of compiling; less leaves little behind


@functools.cache
def return_what_compilers_leave() -> None:
  """Has glibc return the memory that compiling a program took, before it first runs.

  A compiler takes several times what its program will need, in many small pieces: kept,
  they would stand beside what the program takes. Once for the process.
  """
  if platform.libc_ver()[0] != 'glibc':
    return
  from jax import monitoring  # slow to import
  malloc_trim = ctypes.CDLL(None).malloc_trim

  def heard(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del kwargs
    if event == COMPILED and duration_secs >= LEAST_SECONDS:
      malloc_trim(0)

  monitoring.register_event_duration_secs_listener(heard)


def shortage(error: BaseException) -> str:
  """What an error says of memory that there is not.

  Args:
    error: of Python, NumPy or JAX.

  Returns:
    Its first line; '': it is of something else.
  """
  text = next(iter(str(error).strip().splitlines()), '')
  known = isinstance(error, MemoryError) or (
      isinstance(error, ValueError) and 'array is too big' in text) or (
          isinstance(error, RuntimeError) and 'RESOURCE_EXHAUSTED: Out of memory' in text)
  return (text or type(error).__name__) if known else ''
