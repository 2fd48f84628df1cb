"""The command without its slow imports: a server has made them, and forks each run."""

from __future__ import annotations

import multiprocessing
import os
import sys

from jdiffclust import main

main.prepare_process()

import jax  # noqa: E402

import jdiffclust.fitted  # noqa: E402, F401
import jdiffclust.outputs  # noqa: E402, F401
import jdiffclust.processes  # noqa: E402, F401
import jdiffclust.workdir  # noqa: E402, F401
from tests.tiny import NO_PICTURES, build  # noqa: E402


def start(argv: list[str], log: str, flags: str, cache: str,
          tiny: bool) -> multiprocessing.Process:
  """Starts the command, without pictures, in a process that can be killed like any other.

  Args:
    argv: with the program's name first.
    log: the file to which standard error goes.
    flags: XLA_FLAGS.
    cache: the folder in which JAX keeps compiled programs; '': none is kept.
    tiny: take the network of the tests in the place of the config's.
  """
  server = multiprocessing.get_context('forkserver')
  server.set_forkserver_preload([__name__])
  process = server.Process(target=_run, args=(argv, log, flags, cache, tiny))
  process.start()
  return process


def _run(argv, log, flags, cache, tiny):
  os.environ |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
  jax.config.update('jax_platforms', 'cpu')
  if cache:
    jax.config.update('jax_compilation_cache_dir', cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 2)
  sys.argv = argv
  main.leave(main.run(argv, build=build if tiny else None, parts=NO_PICTURES))
