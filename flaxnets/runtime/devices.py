"""Devices and hosts: the start of JAX, the mesh, the shardings, and host batches turned into global arrays."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flaxnets.errors import InputError
from flaxnets.runtime import machine

# Fewer examples than this on a CPU device, and splitting the batch costs more than the cores gain.
LEAST_PER_CPU_DEVICE = 8


def start(batch_sizes: Sequence[int], *, coordinator: str = '', processes: int = 0, process: int = 0) -> None:
  """Sets JAX up for a whole program; to be called before anything touches a device.

  On CPUs, one device a core (a batch split over devices runs faster than one that XLA splits within an operation),
  unless JAX_NUM_CPU_DEVICES says otherwise. Compiled programs are kept in a folder of the user's, one per kind of CPU,
  unless JAX_COMPILATION_CACHE_DIR names another.

  Args:
    batch_sizes: global batches that CPU devices must divide.
    coordinator: 'host:port' of process 0, where there are several processes; '' for one, 'auto' to let JAX find
      out from the cluster's own environment (Slurm, Kubernetes, TPU pods, Open MPI).
    processes: how many there are.
    process: which of them this is, from 0.

  Raises:
    InputError: for arguments that do not fit each other, or processes that cannot meet.
  """
  _check_processes(coordinator, processes, process)
  if not machine.has_accelerator_plugin():  # nothing for the hosts of GPUs and TPUs
    machine.keep_freed_memory()
  try:
    if coordinator == 'auto':
      jax.distributed.initialize()
    elif coordinator:
      jax.distributed.initialize(coordinator, num_processes=processes, process_id=process)
  except (ValueError, RuntimeError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise InputError(f'--coordinator={coordinator}: the processes did not meet ({reason})') from error
  if 'JAX_NUM_CPU_DEVICES' not in os.environ:
    shares = [batch_size // max(processes, 1) for batch_size in batch_sizes]
    jax.config.update('jax_num_cpu_devices', cpu_devices(shares, machine.cores()))
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', str(machine.cache_folder()))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def _check_processes(coordinator: str, processes: int, process: int) -> None:
  if not coordinator:
    if processes > 1 or process:
      raise InputError('several processes need --coordinator=host:port, where the first of them is to be met')
  elif coordinator != 'auto':
    if not re.fullmatch(r'.+:\d+', coordinator):
      raise InputError(f"--coordinator={coordinator} is not host:port, nor 'auto'")
    if not 0 <= process < processes:
      raise InputError(
        f'--processes={processes} --process={process}: give how many there are, and which this is, '
        f'from 0 to {max(processes - 1, 0)}'
      )


def cpu_devices(batch_sizes: Sequence[int], most: int) -> int:
  """The largest number of devices up to `most` that divides all batches and leaves each device enough to do."""

  def fits(devices: int) -> bool:
    return all(size % devices == 0 and size // devices >= LEAST_PER_CPU_DEVICE for size in batch_sizes)

  return max(filter(fits, range(1, most + 1)), default=1)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Some devices, all of all hosts if not said, along one axis, `data`."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
  """The first axis, the batch, spread over all devices."""
  return NamedSharding(mesh, PartitionSpec('data'))


def check_batch(batch_size: int, mesh: Mesh, what: str) -> None:
  """InputError where the devices do not divide a batch."""
  if batch_size <= 0 or batch_size % mesh.size:
    below = batch_size // mesh.size * mesh.size
    raise InputError(
      f'{what} of {batch_size} cannot be spread over {mesh.size} devices; give a multiple, such as {below or mesh.size}'
    )


def to_devices(batches: Iterable[Mapping[str, Any]], mesh: Mesh, ahead: int = 2) -> Iterator[dict[str, jax.Array]]:
  """Turns each host's share of batches into global arrays, a few batches before they are asked for."""
  sharding = sharded(mesh)
  queue: collections.deque[dict[str, jax.Array]] = collections.deque()
  for batch in batches:
    queue.append({key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()})
    if len(queue) > ahead:
      yield queue.popleft()
  yield from queue


def to_host(tree: Any) -> Any:
  """Global arrays as NumPy arrays, whole on every host."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.tree.map(np.asarray, jax.device_get(tree))
