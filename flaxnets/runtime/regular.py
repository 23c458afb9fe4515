"""Reading what is really a file. Opening a named pipe blocks, and a device may never end."""

from __future__ import annotations

import errno
import os
import stat


def check(path: str | os.PathLike[str]) -> None:
  """Raises OSError for a pipe, device, socket or folder. A path that does not exist passes."""
  try:
    _check(os.stat(path).st_mode, path)
  except (FileNotFoundError, ValueError):
    return


def read(path: str | os.PathLike[str], max_bytes: int | None = None) -> bytes:
  """The bytes of a regular file.

  Raises:
    OSError: if it cannot be read, or is a pipe, device, socket or folder.
    ValueError: if it is larger than `max_bytes`, or the path is invalid.
  """
  check(path)  # a folder cannot be opened as a file below
  with open(path, 'rb', opener=_without_waiting) as file:
    status = os.fstat(file.fileno())
    _check(status.st_mode, path)
    if max_bytes is not None and status.st_size > max_bytes:
      raise ValueError(f'it has {status.st_size:,} bytes; at most {max_bytes:,} are read')
    return file.read()


def _without_waiting(path: str, flags: int) -> int:
  return os.open(path, flags | getattr(os, 'O_NONBLOCK', 0))


def _check(mode: int, path: str | os.PathLike[str]) -> None:
  if stat.S_ISDIR(mode):
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
  if not stat.S_ISREG(mode):
    raise OSError(errno.EINVAL, 'it is not a regular file', os.fspath(path))
