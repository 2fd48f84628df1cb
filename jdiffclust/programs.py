"""Compiled programs that are kept from one command to the next.

JAX keeps them in a folder, by what they compute and for which compiler and kind of
device; the least recently used go when there are too many. On a CPU a program is also cut
into threads by the cores there are, and made of the instructions that they know, neither
of which JAX's keys tell: each kind of machine has a folder of its own within that folder.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
from typing import Any

import jax
import platformdirs

from jdiffclust.errors import UserError

AUTO = 'auto'
MEGABYTE = 2**20
# Seconds that a program takes to compile, at least, to be worth a file.
LEAST_SECONDS = .1
_SET: Any = jax.config  # its options have no types


def keep_programs(options) -> None:
  """Has JAX keep compiled programs, unless the user has told it of a folder already.

  Args:
    options: the section `programs` of a config.

  Raises:
    UserError: the folder that is asked for cannot be written.
  """
  if not options.folder or _SET.jax_compilation_cache_dir:
    return
  asked = options.folder != AUTO
  folder = (pathlib.Path(os.path.expanduser(options.folder)) if asked
            else pathlib.Path(platformdirs.user_cache_dir('jdiffclust', False)))
  folder = folder / 'programs' / machine()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    writable = os.access(folder, os.W_OK)
  except OSError:
    writable = False
  if not writable:
    if asked:
      raise UserError(f'config.programs.folder = {options.folder!r} cannot be written: '
                      "name a folder that can, or '' to keep no compiled programs.")
    return  # nothing depends on it: there may be no home, as in a container
  for name, value in (('compilation_cache_dir', str(folder)),
                      ('compilation_cache_max_size', options.limit_mb * MEGABYTE),
                      ('persistent_cache_min_compile_time_secs', LEAST_SECONDS),
                      ('persistent_cache_min_entry_size_bytes', -1)):
    jax.config.update(f'jax_{name}', value)


def machine() -> str:
  """A short name of what programs for this machine's cores depend on."""
  known = [platform.machine(), platform.processor(), _instructions(),
           str(os.cpu_count()), str(_SET.jax_num_cpu_devices),
           os.environ.get('XLA_FLAGS', ''), os.environ.get('PJRT_NPROC', '')]
  if hasattr(os, 'sched_getaffinity'):  # not on macOS
    known.append(str(len(os.sched_getaffinity(0))))
  return hashlib.sha256('\n'.join(known).encode()).hexdigest()[:16]


def _instructions() -> str:
  """The sets of instructions of the CPU, as Linux tells them; '' elsewhere."""
  try:
    with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:
      return next((line for line in file if line.startswith(('flags', 'Features'))), '')
  except OSError:
    return ''
