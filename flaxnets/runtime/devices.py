"""Devices and hosts: starts JAX, makes meshes and shardings, and turns host batches into global arrays."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flaxnets.errors import InputError, first_line
from flaxnets.runtime import interrupts, machine

# With fewer examples per CPU device, splitting the batch costs more time than the additional cores save.
MIN_PER_CPU_DEVICE = 8

# Seconds without a sign of life after which the other processes give up a process as dead. JAX's own 100 s keep all
# hosts of a run waiting longer than they take to restart.
HEARTBEAT_TIMEOUT = 40

# Seconds that a process with an error gives the others to end with the same error. Less than HEARTBEAT_TIMEOUT.
WAIT_FOR_OTHERS = 10

_ERROR = '<error>'  # the name of a message that is sent in place of arrays


def start(
  batch_sizes: Sequence[int],
  *,
  coordinator: str = '',
  processes: int = 0,
  process: int = 0,
  agree_to_stop: bool = False,
) -> None:
  """Configures JAX for the process. Call it before anything uses a device.

  A CPU becomes one device per core, because splitting a batch over devices is faster than XLA's parallelism within an
  operation. JAX_NUM_CPU_DEVICES overrides this. Compiled programs are cached in the user's cache folder, in a subfolder
  per CPU type, if it can be written. JAX_COMPILATION_CACHE_DIR overrides this.

  Args:
    batch_sizes: global batch sizes; the number of CPU devices must divide each.
    coordinator: 'host:port' of process 0 if there are several processes, '' for a single process, 'auto' to let JAX
      read the cluster's environment (Slurm, Kubernetes, TPU pods, Open MPI).
    processes: the number of processes.
    process: the index of this process, from 0.
    agree_to_stop: whether SIGTERM is left to the service of `jax.distributed`, by which several processes agree on the
      step to stop at. Otherwise it does what it did before.

  Raises:
    InputError: for inconsistent arguments, or if the processes cannot connect.
  """
  _check_processes(coordinator, processes, process)
  if not machine.has_accelerator_plugin():  # hosts of GPUs and TPUs keep malloc's defaults
    machine.keep_freed_memory()
  try:
    if coordinator == 'auto':
      jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
      # JAX has no public name for what it read from the cluster, and jax.process_count() would create the devices.
      from jax._src import distributed

      processes = distributed.global_state.num_processes
    elif coordinator:
      jax.distributed.initialize(
        coordinator, num_processes=processes, process_id=process, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT
      )
  except (ValueError, RuntimeError) as error:
    raise InputError(f'--coordinator={coordinator}: the processes could not connect ({first_line(error)})') from error
  if coordinator and not agree_to_stop:
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # the service has put its own in place, in C++
  if 'JAX_NUM_CPU_DEVICES' not in os.environ:
    shares = [batch_size // max(processes, 1) for batch_size in batch_sizes]
    jax.config.update('jax_num_cpu_devices', cpu_devices(shares, machine.cores()))
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR') and (folder := machine.cache_folder()):
    jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@contextlib.contextmanager
def ending_with_others(program: str, resumes: bool = False) -> Iterator[None]:
  """Ends a run of several processes when an error ends the block in one of them: a line, and exit code 1.

  A signal does so too, with the line and the exit code of `interrupts.exit_code`.

  By default a process that fails waits for minutes at JAX's shutdown barrier, while the other processes wait for it at
  their next sum. Here it prints its error and waits at the barrier for `WAIT_FOR_OTHERS` seconds, in case all processes
  fail in the same way. Then it exits. The next sum of the other processes fails, which ends them too. If process 0
  exits, JAX aborts the others before Python learns of it. With a single process, errors pass unchanged.

  Args:
    program: the name in the line.
    resumes: whether the same command goes on after a signal.
  """
  try:
    yield
  except (Exception, KeyboardInterrupt) as error:
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
      raise
    code = 1
    if isinstance(error, KeyboardInterrupt):
      code = interrupts.stopped(program, error, resumes)
    elif isinstance(error, InputError):
      print(f'{program}: {error}', file=sys.stderr, flush=True)
    elif isinstance(error, jax.errors.JaxRuntimeError):
      print(
        f'{program}: a computation of {jax.process_count()} processes failed, probably because another process ended '
        f'({first_line(error)[:200]}); start the same command on every host again',
        file=sys.stderr,
        flush=True,
      )
      os._exit(1)
    else:
      traceback.print_exc()
    barrier = threading.Thread(target=jax.distributed.shutdown, daemon=True)  # a thread, to stop waiting for it
    barrier.start()
    barrier.join(WAIT_FOR_OTHERS)
    sys.stdout.flush()
    os._exit(code)


def _check_processes(coordinator: str, processes: int, process: int) -> None:
  if not coordinator:
    if processes > 1 or process:
      raise InputError('several processes need --coordinator=host:port, the address of process 0')
  elif coordinator != 'auto':
    if not re.fullmatch(r'.+:\d+', coordinator):
      raise InputError(f"--coordinator={coordinator} must be host:port or 'auto'")
    if not 0 <= process < processes:
      raise InputError(
        f'--processes={processes} --process={process}: --process must be at least 0 and less than --processes, '
        'the number of processes'
      )


def cpu_devices(batch_sizes: Sequence[int], max_devices: int) -> int:
  """The largest number of devices up to `max_devices` that divides all batches into shares worth a device."""

  def fits(devices: int) -> bool:
    return all(size % devices == 0 and size // devices >= MIN_PER_CPU_DEVICE for size in batch_sizes)

  return max(filter(fits, range(1, max_devices + 1)), default=1)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh with the single axis `data` over some devices; None for all devices of all hosts.

  The devices are in the order of their processes, because process h reads the h-th part of every batch, and
  `to_devices` puts it on the process's own devices: the parts of the mesh have to follow each other in the same way.
  `jax.make_mesh` keeps no such order on TPUs, and refuses several hosts of CPUs or GPUs, whose devices XLA counts as
  one slice per host.
  """
  ordered = sorted(jax.devices() if devices is None else devices, key=lambda device: (device.process_index, device.id))
  return Mesh(np.asarray(ordered), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """A complete copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
  """The first axis, the batch, split over all devices."""
  return NamedSharding(mesh, PartitionSpec('data'))


def check_batch(batch_size: int, mesh: Mesh, what: str) -> None:
  """Raises InputError unless a batch can be spread evenly over the devices; `what` names its size in the message."""
  if batch_size <= 0 or batch_size % mesh.size:
    below = batch_size // mesh.size * mesh.size
    raise InputError(
      f'{what} of {batch_size} cannot be spread over {mesh.size} devices; '
      f'use a multiple of {mesh.size}, such as {max(below, mesh.size)}'
    )


def to_devices(batches: Iterable[Mapping[str, Any]], mesh: Mesh, ahead: int = 2) -> Iterator[dict[str, jax.Array]]:
  """Turns each host's share of batches into global arrays, `ahead` batches before they are needed."""
  sharding = sharded(mesh)
  queue: collections.deque[dict[str, jax.Array]] = collections.deque()
  for batch in batches:
    queue.append({key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()})
    if len(queue) > ahead:
      yield queue.popleft()
  yield from queue


def from_process_0(make: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """The arrays that a function returns in process 0, in every process; called by all processes, and the others wait.

  Raises:
    InputError: in every process, where the function raises one.
  """
  if jax.process_count() == 1:
    return {name: np.asarray(value) for name, value in make().items()}
  from jax.experimental import multihost_utils

  file = io.BytesIO()
  if jax.process_index() == 0:
    outcome: Mapping[str, Any]
    try:
      outcome = make()
    except InputError as error:
      outcome = {_ERROR: str(error)}
    np.savez(file, **outcome)
  sent = np.frombuffer(file.getvalue(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(sent), np.int32)))
  received = multihost_utils.broadcast_one_to_all(sent if len(sent) else np.zeros(size, np.uint8))
  with np.load(io.BytesIO(np.asarray(received).tobytes()), allow_pickle=False) as arrays:
    values = dict(arrays)
  if _ERROR in values:
    raise InputError(str(values[_ERROR]))
  return values


def own_share(tree: Any) -> Any:
  """The rows of global arrays that lie on this host's devices, as NumPy arrays, in the order of `to_devices`.

  The first axis must be split over all devices. Nothing is sent between hosts.
  """

  def rows(array: jax.Array) -> np.ndarray:
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate(jax.device_get([shard.data for shard in shards]))

  return jax.tree.map(rows, tree)


def to_host(tree: Any) -> Any:
  """Global arrays as NumPy arrays, complete on every host."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.tree.map(np.asarray, jax.device_get(tree))
