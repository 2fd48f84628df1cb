"""Several processes that share a run: how they meet, and how one ends with the others.

A collective waits for all of them. So where one is killed or fails, the others cannot go
on: they end too, with one line, and the same commands go on from the last checkpoint.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import tempfile
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from jdiffclust.errors import UserError
from jdiffclust.sharding import check_devices, share_out_cores

# Exit code where another process of the run has ended before its time.
LOST = 3
# Seconds without a sign of life after which a process counts as dead; those that the
# others take until they have been told of it; those that all have to meet at the start,
# and those that the main one has for the results at the end.
HEARTBEAT, TOLD_WITHIN, MEET_WITHIN, DRAWN_WITHIN = 30, 15, 300, 24 * 3600
# Bytes of what native code has written that are looked at when it gives up.
TAIL = 2**16

_kept_alive: list = []  # what C calls must outlive the function that hands it over


def join(options) -> bool:
  """Connects several processes, if the config says there are several.

  A process by itself has a device for each core of its CPU.

  Args:
    options: the section `distributed` of a config.

  Returns:
    Whether this one is the main one, which writes and tells.

  Raises:
    UserError: the coordinator's port cannot be opened, or JAX finds no devices.
  """
  if options.num_processes > 1:
    _end_with_the_others(options)
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    try:
      jax.distributed.initialize(
          options.coordinator, options.num_processes, options.process_id,
          initialization_timeout=MEET_WITHIN, heartbeat_timeout_seconds=HEARTBEAT,
          # The others wait at the exit for the main one, which draws the figures.
          shutdown_timeout_seconds=DRAWN_WITHIN)
    except RuntimeError as error:
      raise UserError(
          f'config.distributed.coordinator = {options.coordinator!r}: process '
          f"{options.process_id} cannot use it ({' '.join(str(error).split())[:160]}); "
          'name the host of process 0 and a port that is free there.') from None
  else:
    share_out_cores()
  check_devices()
  return jax.process_index() == 0


def as_the_main_one_has_it(text: str) -> str:
  """The text that the main process gives; all processes of a run have to ask for it."""
  if jax.process_count() == 1:
    return text
  own = np.frombuffer(text.encode(), np.uint8)
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(own))))
  sent = own if jax.process_index() == 0 else np.zeros(length, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes().decode()


def wait_for_the_end_of_another() -> None:
  """Gives JAX the time to find out that another process has died, which ends this one.

  For an exception that nobody expected: if it is that of a collective, its text is of no
  use to anybody.
  """
  time.sleep(HEARTBEAT + TOLD_WITHIN)


def _end_with_the_others(options) -> None:
  """Makes one line and exit code `LOST` of JAX's way to end with another process.

  JAX ends this process by abort(), after pages of native messages. So what native code
  writes to standard error is kept aside, and shown if it is of anything else.
  """
  shown = os.dup(2)
  aside = tempfile.TemporaryFile()
  sys.stderr.flush()
  os.dup2(aside.fileno(), 2)
  sys.stderr = os.fdopen(os.dup(shown), 'w', buffering=1, encoding=sys.stderr.encoding,
                         errors=sys.stderr.errors)

  def aborted(number):
    size = os.fstat(aside.fileno()).st_size
    told = os.pread(aside.fileno(), TAIL, max(0, size - TAIL)).decode(errors='replace')
    if 'JAX distributed service detected' not in told:
      os.write(shown, told.encode())
      os._exit(128 + number)
    met = 'RegisterTask' not in told
    os.write(shown, (_lost_line(told) if met else _unmet_line(options)).encode())
    os._exit(LOST if met else 2)

  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
  _kept_alive.extend((handler, aside))
  ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def _lost_line(told: str) -> str:
  found = re.search(r'stopped sending heartbeats\):\s*(\d+)', told)
  which = f'process {found[1]}' if found else 'another process'
  return (f'error: {which} of this run has ended before its time, so this one ends too: '
          'give the same commands again, and the run goes on from the last checkpoint.\n')


def _unmet_line(options) -> str:
  return (f'error: config.distributed.coordinator = {options.coordinator!r}: process '
          f'{options.process_id} did not meet the other '
          f'{options.num_processes - 1} there within {MEET_WITHIN} s: start all of them '
          'at the same time, with the same coordinator.\n')
