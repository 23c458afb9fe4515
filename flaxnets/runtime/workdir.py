"""A run's folder: its config.json, its lock, and the refusal to mix two runs in it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
from collections.abc import Collection, Mapping
from typing import IO, Any

import numpy as np

from flaxnets import config as configs
from flaxnets.errors import InputError
from flaxnets.runtime import atomic, locks, records
from flaxnets.runtime.local import check_local

INCOMPLETE = '.incomplete'  # a file in a folder while a network that was not trained there is written to it
MAX_LISTED = 4  # fields that differ, in a message


class WorkdirLock:
  """An exclusive lock on a run's folder, held until `close` or the end of the process.

  The lock is the operating system's, on DIR/.lock: a file that a killed process left behind locks nothing. Of several
  processes that train one network, only process 0 takes it.

  Args:
    workdir: the folder; made if it is absent.

  Raises:
    InputError: if another process holds the lock, naming its id and host, or if the folder cannot be written.
  """

  def __init__(self, workdir: str | os.PathLike[str]):
    import jax  # not at the top: a study and a report read workdirs without it

    check_local(workdir, '--workdir')
    self._folder = pathlib.Path(workdir).absolute()  # wherever the program changes to later
    self._file: IO[str] | None = None
    if jax.process_index() == 0:
      self._file = locked(pathlib.Path(workdir), '--workdir')

  def check(self) -> None:
    """Raises InputError if the folder was deleted or moved since, or another process has begun a run in its place."""
    if self._file is None:
      return
    self._file.seek(0)
    folder = self._folder
    try:
      (folder / 'config.json').stat()
      same = (folder / '.lock').read_text() in ('', self._file.read())
    except FileNotFoundError:
      same = (folder / 'config.json').exists()  # somebody has deleted the lock alone
    except (OSError, ValueError):  # a disk that cannot be read now
      return
    if not same:
      raise InputError(f'--workdir={folder} was deleted, moved or replaced since this run began, which therefore ends')

  def close(self) -> None:
    """Releases the lock."""
    if self._file is not None:
      self._file.close()
      self._file = None


def locked(folder: pathlib.Path, flag: str, *, shared: bool = False) -> IO[str]:
  """Locks a folder for as long as the file that is returned is open, in this process or in one that inherits it.

  Args:
    folder: made if it is absent.
    flag: that names it, for messages.
    shared: whether others that share it may hold it at the same time.

  Raises:
    InputError: as `WorkdirLock`.
  """
  with atomic.writing(f'{flag}={folder}'):
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / '.lock').open('a+')  # not 'w', which would erase the name of the holder
  if not locks.held(file, shared=shared):
    file.seek(0)
    holder = ', '.join(file.read().split('\n')).strip(', ') or 'another process'
    file.close()
    raise InputError(f'{flag}={folder} is in use by {holder}; wait for it to end, or choose another {flag}')
  with contextlib.suppress(OSError):  # on a full disk the holder has no name
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
  return file


def claim_workdir(
  workdir: str | os.PathLike[str], fields: Mapping[str, Any], may_change: Collection[str] = ()
) -> pathlib.Path:
  """Makes a run's folder, writes its config.json, and refuses to resume with another config; called by all hosts.

  Args:
    workdir: the folder.
    fields: the config as plain JSON values.
    may_change: names of fields, such as 'data.root', that may differ from those of the run that lives there.

  Raises:
    InputError: if the folder cannot be written, is not the same for all hosts, holds checkpoints without a config.json,
      or a run with a different config lives there; names the fields.
  """
  folder = pathlib.Path(workdir)
  path = folder / 'config.json'
  import jax
  from jax.experimental import multihost_utils

  if jax.process_index() == 0 and not path.exists():
    if has_checkpoint(folder):
      raise InputError(f'{folder} holds checkpoints but no config.json; put it back, or choose another --workdir')
    with atomic.writing(f'--workdir={folder}'):
      folder.mkdir(parents=True, exist_ok=True)
      (folder / INCOMPLETE).unlink(missing_ok=True)  # left by a killed command: the folder is this run's now
      records.write(path, fields, indent=1)
  multihost_utils.sync_global_devices('config.json: written')  # nothing where there is one host
  try:
    theirs = stored_config(path)
  except records.ChangedRecord as error:
    raise InputError(
      f'{path} is corrupt, or was changed by hand: {error}. Restore it, delete that field if the change is meant, or '
      'choose another --workdir'
    ) from None
  except ValueError as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f'{path} is corrupt (not JSON); repair it or choose another --workdir') from None
  except OSError as error:
    raise InputError(
      f'{path} cannot be read: {error.strerror}; all processes need one --workdir, on a disk that they share'
    ) from None
  differing = {name: both for name, both in differences(theirs, fields).items() if name not in may_change}
  if differing:
    listed = [f'{name} is {old!r} there and {new!r} here' for name, (old, new) in differing.items()]
    shown = '; '.join(listed[:MAX_LISTED]) + (f'; {len(listed) - MAX_LISTED} more' if len(listed) > MAX_LISTED else '')
    raise InputError(
      f'{folder} holds a run with another config ({shown}); choose another --workdir. '
      f'To start from the weights of this run, add --config.train.init_from={folder}'
    )
  return folder


def update_config(folder: pathlib.Path, fields: Mapping[str, Any]) -> None:
  """Replaces the config.json of a run by a config that differs in what may change; called by all hosts.

  Raises:
    InputError: if it cannot be written, or if the hosts were given different configs.
  """
  import jax
  from jax.experimental import multihost_utils

  path = folder / 'config.json'
  if jax.process_index() == 0 and differences(stored_config(path), fields):
    with atomic.writing(path):
      records.write(path, fields, indent=1)
  multihost_utils.sync_global_devices('config.json: updated')
  wrong = differences(stored_config(path), fields)
  # All of them end: one that ends alone would wait for the others at its exit, and they for it in their first step.
  if np.any(multihost_utils.process_allgather(np.asarray(bool(wrong)))):
    named = f' of {", ".join(wrong)}' if wrong else ''
    raise InputError(f'{path}: the processes were started with different values{named}')


def has_checkpoint(workdir: str | os.PathLike[str]) -> bool:
  """Whether a run in this folder has saved."""
  return any(path.name.isdecimal() for path in pathlib.Path(workdir).glob('checkpoints/*'))


def stored_config(path: pathlib.Path) -> dict[str, Any]:
  """The fields of a config.json; those that came after it was stored have today's defaults.

  Raises:
    InputError: naming the fields that this version does not know.
    ValueError, OSError: if the file is corrupt or cannot be read.
  """
  try:
    return configs.to_json(configs.from_json(records.read(path)))
  except InputError as error:
    raise InputError(f'{path}: {error}') from None


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
  """The fields (dotted names) in which two nested configs differ, each with both values; None where it is absent."""
  old, new = configs.flattened(one), configs.flattened(other)
  names = dict.fromkeys([*old, *new])
  return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def stored_batch_size(workdir: str | os.PathLike[str]) -> int:
  """The evaluation batch size in a run's config.json; 1 if the file is absent or corrupt."""
  try:
    return stored_config(pathlib.Path(workdir, 'config.json'))['evaluate']['batch_size']
  except (OSError, ValueError):
    return 1
