"""Locks of a study's folder: who may execute runs in it, and who may execute one run.

The process that trains a run inherits both locks (`flaxnets.runtime.locks`): a study that was killed stays locked until
the run that it left behind has ended.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

from flaxnets.runtime import atomic
from flaxnets.runtime.local import check_local
from flaxnets.runtime.locks import held
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
  """Holds the folder of one run; yields the descriptor that children inherit, None if another process holds it.

  Raises:
    InputError: if the folder cannot be written.
  """
  with atomic.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / '.study-lock').open('w')
  with file:
    yield file.fileno() if held(file) else None
