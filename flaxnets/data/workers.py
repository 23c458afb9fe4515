"""Processes that read batches for another one."""

from __future__ import annotations

import multiprocessing
import os
import threading

from absl import flags

from flaxnets.runtime import warning_filters


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
  """Settings of a process that only reads, as grain's `worker_init_fn`."""
  del worker, workers
  import cv2

  threading.Thread(target=_end_with_parent, daemon=True).start()
  cv2.setNumThreads(1)
  warning_filters.ignore_odd_metadata()


def _end_with_parent() -> None:
  """Ends this process when the one that started it is gone. Grain stops its workers only on a normal exit."""
  if parent := multiprocessing.parent_process():
    parent.join()
    os._exit(1)
