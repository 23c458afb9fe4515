"""Processes that read batches for another one."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from absl import flags

from flaxnets.errors import InputError
from flaxnets.runtime import interrupts, warning_filters

Item = TypeVar('Item')

# By signal, why a worker was probably killed, and what to do. Windows has neither signal.
_WHY: dict[int, str] = {
  getattr(signal, 'SIGKILL', 9): ', as the system does where memory runs out; then give fewer data.workers',
  getattr(signal, 'SIGBUS', 7): (
    ': the shared memory of /dev/shm is full; enlarge it (docker run --shm-size=1g), or set data.workers=0'
  ),
}


def make_grain_flags_readable() -> None:
  """Lets grain read its flags, which it does for workers, where the program parses no absl flags.

  absl returns the value of a flag if it parsed all flags or if that flag is marked as present. To mark all flags as
  parsed would hide the mistakes of a program that reads its own flags too early.
  """
  if not flags.FLAGS.is_parsed():
    for name in list(flags.FLAGS):
      if name.startswith('grain_'):
        flags.FLAGS[name].present = True


def start_worker(worker: int, workers: int) -> None:
  """Settings of a process that only reads, as grain's `worker_init_fn`.

  Signals are left to the process that trains. A terminal and a cluster send them to all processes of a program, and
  training still needs batches to end its step.
  """
  del worker, workers
  import cv2

  for number in interrupts.SIGNALS:
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  cv2.setNumThreads(1)
  warning_filters.ignore_odd_metadata()


def checked_workers(results: Iterable[Item], name: str) -> Iterator[Item]:
  """What workers deliver.

  Args:
    results: from grain, which raises a RuntimeError if a worker was killed.
    name: of the source, for the message.

  Raises:
    InputError: in place of that error.
  """
  try:
    yield from results
  except RuntimeError as error:
    found = re.search(r'terminated unexpectedly with exit code (-?\d+)', str(error))
    if found is None:
      raise
    code = int(found[1])
    how = f'ended with exit code {code}' if code >= 0 else f'was killed by signal {-code}'
    raise InputError(
      f'{name}: a process that reads images {how}{_WHY.get(-code, "")}. The same command resumes the run'
    ) from None


def _end_with_parent() -> None:
  """Ends this process when the one that started it is gone. Grain stops its workers only on a normal exit."""
  if parent := multiprocessing.parent_process():
    parent.join()
    os._exit(1)
