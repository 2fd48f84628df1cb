"""The steps of a fit, compiled while its start is computed.

XLA compiles a program on one core, and much of a start runs on one core, too. Only the
compiler has a thread of its own: JAX traces by settings that belong to a thread, and
holds Python's lock while it does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent import futures

from jax.stages import Lowered

COMPILER = 'compiler'  # how threads are called that compile


class Ahead:
  """Programs that are being compiled, one after the other.

  JAX has them when they are called with arguments like those they were lowered for.
  """

  def __init__(self, lowered: Sequence[Lowered]):
    """Begins to compile them."""
    pool = futures.ThreadPoolExecutor(1, COMPILER)
    self._found = [pool.submit(one.compile) for one in lowered]
    pool.shutdown(wait=False)  # the thread ends with the last of them

  def wait(self, number: int) -> None:
    """Waits until the first `number` programs, or all, are compiled.

    Raises:
      Exception: what the compiler says of one.
    """
    for found in self._found[:number]:
      found.result()


def compiling() -> bool:
  """Whether a compiler is at work."""
  return any(thread.name.startswith(COMPILER) for thread in threading.enumerate())
