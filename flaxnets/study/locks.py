"""Locks of a study's folder: who may execute runs in it, and who may execute one run.

A lock is the operating system's (flock), so that it ends with the processes that hold it. The process that trains a
run inherits both locks: a study that was killed stays locked until the run that it left behind has ended.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import IO

from flaxnets.errors import InputError
from flaxnets.runtime.local import check_local


@contextlib.contextmanager
def study_lock(out: pathlib.Path, *, shared: bool) -> Iterator[int]:
  """Holds a study's folder for this process and its children; yields the descriptor that children inherit.

  Args:
    out: the folder; made if it is absent.
    shared: whether other processes may hold it too, which then share the runs (`flaxnets study --shard`).

  Raises:
    InputError: if another process holds it, or the folder cannot be written.
  """
  import fcntl  # not at the top: Windows has none

  check_local(out, '--out')
  try:
    out.mkdir(parents=True, exist_ok=True)
    file = (out / '.lock').open('w')
  except OSError as error:
    raise InputError(f'--out={out} cannot be written: {error.strerror}') from None
  with file:
    if not _locked(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
      other = 'a study without --shard' if shared else 'another study'
      raise InputError(f'--out={out} is in use by {other}, or by a run that it left behind')
    yield file.fileno()


@contextlib.contextmanager
def run_lock(folder: pathlib.Path) -> Iterator[int | None]:
  """Holds the folder of one run; yields the descriptor that children inherit, None if another process holds it."""
  import fcntl

  folder.mkdir(parents=True, exist_ok=True)
  with (folder / '.study-lock').open('w') as file:
    yield file.fileno() if _locked(file, fcntl.LOCK_EX) else None


@contextlib.contextmanager
def table_lock(out: pathlib.Path) -> Iterator[None]:
  """Waits for its turn to read a study's results and write its table, so that an older table never replaces a newer."""
  import fcntl

  with (out / '.table-lock').open('w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _locked(file: IO[str], operation: int) -> bool:
  import fcntl

  try:
    fcntl.flock(file, operation | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True
