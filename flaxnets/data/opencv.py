"""OpenCV's threads while several readers decode side by side.

Readers keep all cores busy, so OpenCV's own threads would only compete with them. OpenCV has one thread count per
process, which belongs to the user of this library. It is therefore changed only while readers run.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

_lock = threading.RLock()  # the garbage collector may close a reader while this thread holds the lock
_readers = 0  # blocks of `single_threaded` that are open in this process
_threads_before = 0  # OpenCV's thread count before the first of them opened


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
  """OpenCV works with one thread until the last of all overlapping blocks ends; then its thread count is restored.

  Does nothing if OpenCV was not imported: then no source decodes images.
  """
  global _readers, _threads_before
  cv2 = sys.modules.get('cv2')
  if cv2 is None:
    yield
    return
  with _lock:
    if _readers == 0:
      _threads_before = cv2.getNumThreads()
      cv2.setNumThreads(1)
    _readers += 1
  try:
    yield
  finally:
    with _lock:
      _readers -= 1
      if _readers == 0:
        cv2.setNumThreads(_threads_before)
