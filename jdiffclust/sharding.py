"""The one-dimensional mesh of devices, and how arrays lie on it."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jdiffclust.backend import check_backend_once
from jdiffclust.errors import UserError

DATA_AXIS = 'data'
# The least images of a minibatch for which a core is worth a device of its own.
LEAST_SHARE = 8
# Programs dispatched ahead: enough to keep devices busy.
MAX_IN_FLIGHT = 4
# How arrays lie on the devices: the same on each, or a part of the rows on each.
WHOLE, SPLIT = PartitionSpec(), PartitionSpec(DATA_AXIS)


def check_devices() -> None:
  """Raises UserError where JAX finds no device of the platform it was told to use."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # JAX raises either
    asked = os.environ.get('JAX_PLATFORMS', '')
    told = ' '.join(str(error).split())[:160]
    raise UserError(
        f'JAX finds no device with JAX_PLATFORMS={asked!r}{told and f" ({told})"}: unset '
        'it, set it to cpu, or install the jax of that platform.') from None


def _told_of_devices() -> bool:
  """Whether the user has told XLA how many devices a CPU shall count for."""
  return 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')


def share_out_cores() -> None:
  """Has JAX take each core of a CPU for a device of its own.

  XLA does much of a gradient step on one core, and minibatches are spread over devices
  anyway (docs/benchmarks.md). Nothing changes where JAX has its devices already, or where
  XLA_FLAGS or JAX_NUM_CPU_DEVICES say how many there are.
  """
  options: Any = jax.config  # they have no types
  if _told_of_devices() or options.jax_num_cpu_devices != -1:
    return
  cores = (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
           else os.cpu_count() or 1)  # not on macOS
  try:
    jax.config.update('jax_num_cpu_devices', cores)
  except RuntimeError:  # there are devices, of the program that we are a part of
    return


def mesh_of(config) -> Mesh:
  """The mesh that a config asks for.

  Of a CPU's cores, `num_devices = 0` takes as many as the batch sizes can be shared
  among, `LEAST_SHARE` images or more to each.

  Args:
    config: a config.

  Raises:
    UserError: as of `make_mesh` and `check_backend`.
  """
  share_out_cores()
  check_devices()
  check_backend_once()
  count, devices = config.num_devices, jax.devices()
  if count == 0 and _are_cores(devices):
    size = config.m_step.batch_size
    shared = math.gcd(size, config.e_step.batch_size)
    count = max(n for n in range(1, len(devices) + 1)
                if n == 1 or shared % n == 0 and size // n >= LEAST_SHARE)
  return make_mesh(count)


def _are_cores(devices) -> bool:
  """Whether devices are the cores of a CPU, of which nobody has said how many to take."""
  return (devices[0].platform == 'cpu' and jax.process_count() == 1
          and not _told_of_devices())


def mesh_of_fit(config, kept: int, tell: Callable[[str], None]) -> Mesh:
  """The mesh for a fit that exists, which may have been made on other devices.

  Args:
    config: of the fit, perhaps with other options of the machine.
    kept: num_devices that the fit was made with. If that is what the config has, nobody
      has asked for it here: as many devices as there are, and as can share out the
      batches of the E-step, are taken, and so many are told of.
    tell: called with a line where they are fewer than the fit asked for, or than there
      are.

  Raises:
    UserError: another number that is asked for cannot be had; or as of `check_backend`.
  """
  share_out_cores()
  check_devices()
  count, size, devices = config.num_devices, config.e_step.batch_size, jax.devices()
  if (count != kept or jax.process_count() > 1 or count == 0 and _are_cores(devices)):
    mesh = mesh_of(config)
    check_batch_size('e_step.batch_size', size, mesh)
    return mesh
  check_backend_once()
  most = min(count or len(devices), len(devices))
  found = max(n for n in range(1, most + 1) if size % n == 0)
  if found < max(count, most):
    asked = f'; the fit asked for {count}' if count > len(devices) else ''
    even = '' if found == most else (
        f', among which batches of {size} (config.e_step.batch_size) can be shared out')
    tell(f'{found} of {len(devices)} {devices[0].platform} device(s) are used{even}'
         f'{asked}.')
  return _mesh_over(devices[:found])


def make_mesh(num_devices: int = 0) -> Mesh:
  """A mesh of the first devices, with the one axis `DATA_AXIS`.

  Args:
    num_devices: how many; 0 takes all. With several processes it must be 0 or all.

  Returns:
    The mesh.

  Raises:
    UserError: more devices than there are.
  """
  check_devices()
  devices = jax.devices()
  if num_devices > len(devices):
    raise UserError(
        f'config.num_devices = {num_devices}, but there are {len(devices)} '
        f'{devices[0].platform} device(s): set it to 1..{len(devices)}, or 0 for all '
        '(virtual CPU devices: XLA_FLAGS=--xla_force_host_platform_device_count=8).')
  if jax.process_count() > 1 and num_devices not in (0, len(devices)):
    raise UserError(f'config.num_devices = {num_devices} with '
                    f'{jax.process_count()} processes: set it to 0, all devices.')
  return _mesh_over(devices[:num_devices or len(devices)])


def local_mesh(parts: int, num_devices: int = 0) -> Mesh:
  """A mesh of as many of this process's devices as work can be shared out among.

  Args:
    parts: of the work; each device has as many of them.
    num_devices: the most devices; 0: all.
  """
  devices = jax.local_devices()[:num_devices or None]
  return _mesh_over(devices[:max(n for n in range(1, len(devices) + 1)
                                 if parts % n == 0)])


def _mesh_over(devices) -> Mesh:
  return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
  """Raises UserError unless the devices share out the batch evenly."""
  if batch_size % mesh.size:
    raise UserError(f'config.{name} = {batch_size} is not a multiple of the '
                    f'{mesh.size} devices: set it to a multiple of {mesh.size}, or '
                    'config.num_devices to a divisor of it.')


def replicate(tree, mesh: Mesh):
  """Copies a tree of host arrays (equal in every process) to all devices."""
  return _place(tree, NamedSharding(mesh, WHOLE))


def split_rows(tree, mesh: Mesh):
  """Spreads the rows of host arrays over the devices.

  Args:
    tree: arrays whose rows are this process's share of the global rows.
    mesh: the mesh.

  Returns:
    The same tree as global arrays.
  """
  return _place(tree, NamedSharding(mesh, SPLIT))


def _place(tree, sharding):
  return jax.tree.map(
      lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), tree)


def local_rows(batch_size: int) -> slice:
  """The rows of a global batch that this process provides."""
  share = batch_size // jax.process_count()
  return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def to_host(tree):
  """Copies arrays to NumPy, complete in every process: rows elsewhere are gathered."""
  def copy(array):
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
      array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
  return jax.tree.map(copy, tree)


def over_rows(function, mesh: Mesh, in_specs, out_specs=SPLIT):
  """Compiles a function of rows of images, each device having a part of them.

  Args:
    function: of arrays; it may sum over `DATA_AXIS`.
    mesh: one-dimensional.
    in_specs: WHOLE or SPLIT for each argument.
    out_specs: of the result.

  Returns:
    The jitted function; rows are a multiple of the device count.
  """
  return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs,
                               out_specs=out_specs))


class InFlight:
  """What a loop of programs has dispatched and not waited for, never much.

  More would only queue up. And on the devices of a CPU, XLA starts and runs programs by
  as many threads as there are cores: where 32 are under way on one device, all threads
  may wait, for room or for another device in a sum, and none is left to do the work.
  After 40 seconds XLA then ends the process.
  """

  def __init__(self):
    """Nothing is under way."""
    self._results: collections.deque = collections.deque()

  def add(self, result) -> None:
    """Notes what was dispatched last, and waits for what came MAX_IN_FLIGHT before."""
    self._results.append(result)
    if len(self._results) > MAX_IN_FLIGHT:
      jax.block_until_ready(self._results.popleft())
