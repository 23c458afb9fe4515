"""Locks of a study's folder: who may execute runs in it, and who may execute one run.

A lock is the operating system's (flock), so that it ends with the processes that hold it. The process that trains a
run inherits both locks: a study that was killed stays locked until the run that it left behind has ended.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

from absl import logging

from flaxnets.runtime.local import check_local
from flaxnets.runtime.workdir import locked


@contextlib.contextmanager
def study_lock(out: pathlib.Path, *, shared: bool) -> Iterator[int]:
  """Holds a study's folder for this process and its children; yields the descriptor that children inherit.

  Args:
    out: the folder; made if it is absent.
    shared: whether other processes may hold it too, which then share the runs (`flaxnets study --shard`).

  Raises:
    InputError: if another process holds it, naming it, or the folder cannot be written.
  """
  check_local(out, '--out')
  with locked(out, '--out', shared=shared) as file:
    yield file.fileno()


@contextlib.contextmanager
def run_lock(folder: pathlib.Path) -> Iterator[int | None]:
  """Holds the folder of one run; yields the descriptor that children inherit, None if another process holds it."""
  import fcntl  # not at the top: Windows has none

  folder.mkdir(parents=True, exist_ok=True)
  with (folder / '.study-lock').open('w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield None
      return
    except OSError as error:  # a file system without locks
      logging.warning('%s: cannot be locked (%s); start no second study there', folder, error.strerror)
    yield file.fileno()
