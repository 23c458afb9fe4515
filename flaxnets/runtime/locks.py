"""Locks between processes. They are the operating system's (flock), and end with the processes that hold them."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import IO

from absl import logging


def held(file: IO[str], *, shared: bool = False, wait: bool = False) -> bool:
  """Locks an open file until it is closed, in this process and in those that inherit it.

  Args:
    file: open for writing.
    shared: whether others that share it may hold it at the same time.
    wait: whether to wait for the process that holds it.

  Returns:
    Whether the lock was taken. On a file system without locks it counts as taken, and there is a warning unless `wait`.
  """
  import fcntl  # not at the top: Windows has none

  try:
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
  except BlockingIOError:
    return False
  except OSError as error:
    if not wait:
      folder = pathlib.Path(file.name).parent
      logging.warning('%s: cannot be locked (%s); start no second process there', folder, error.strerror)
  return True


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
  """Waits until no other process is in such a block for the same file, which is made and stays empty.

  Processes on a file system without locks do not wait.
  """
  with path.open('w') as file:
    held(file, wait=True)
    yield
