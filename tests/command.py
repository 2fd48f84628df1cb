"""The command with a tiny denoiser, in a process of its own.

`Forked` is a process that is forked from one that has imported everything: most of the
seconds of a small run are imports.
"""

import atexit
import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys

import jax

from jdiffclust import decisions, fitted, main, outputs, workdir
from tests.tiny import NO_PICTURES, build

# What JAX reads from the environment when it is imported.
OF_JAX = {'JAX_COMPILATION_CACHE_DIR': str,
          'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': float,
          'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': int}
del decisions, fitted, outputs, workdir  # the command imports them late
# As in conftest.py: what notes where operations are, and looks for cycles, takes long.
jax.config.update('jax_traceback_in_locations_limit', 0)
gc.set_threshold(20_000, 10, 10)
gc.freeze()


def run(argv: list[str]) -> None:
  """Runs a command line, and ends the process."""
  main.leave(main.run(argv, build=build, parts=NO_PICTURES))


def run_below(argv: list[str]) -> None:
  """`run` in a child of this process, which waits for it, as a shell does."""
  if os.fork():
    os.wait()
  else:
    run(argv)


def _in_child(function, arguments, log, environment):
  os.environ.update(environment)
  for name, kind in OF_JAX.items():
    if name in environment:
      jax.config.update(name.lower(), kind(environment[name]))
  file = os.open(log, os.O_WRONLY | os.O_APPEND)
  for number in (1, 2):
    os.dup2(file, number)
  sys.argv = list(arguments)  # where ml_collections looks
  try:
    function(arguments)
  finally:
    atexit._run_exitfuncs()  # a forked process ends without; JAX says goodbye there


@functools.cache
def server():
  """What forks processes; it imports once."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['tests.command'])
  return context


class Forked:
  """A process as `subprocess.Popen` shows it."""

  def __init__(self, arguments, log, environment, function=run):
    """Starts `function(arguments)`; stdout and stderr go to the file `log`.

    Args:
      arguments: a command line, the program's name first.
      log: a path; what is there stays.
      environment: variables that are set.
      function: of a module that can be imported.
    """
    open(log, 'a', encoding='utf-8').close()  # who waits for a line may read it at once
    self._process = server().Process(
        target=_in_child, args=(function, arguments, str(log), environment))
    self._process.start()
    self.pid = self._process.pid

  @property
  def returncode(self):
    """The exit code, minus the signal; None: it runs."""
    return self._process.exitcode

  poll = lambda self: self.returncode

  def wait(self, timeout):
    """Its exit code."""
    self._process.join(timeout)
    if self.returncode is None:
      raise subprocess.TimeoutExpired('a forked process', timeout)
    return self.returncode

  def send_signal(self, number):
    """To a process that runs."""
    if self.returncode is None:
      os.kill(self.pid, number)

  def kill(self):
    """At once, as by kill -9."""
    self.send_signal(signal.SIGKILL)
