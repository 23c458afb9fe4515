"""The standard streams of a program where one is closed or cannot be written.

A terminal closes, a disk behind `> log.txt` fills up, a service starts programs without streams. None of this may cost
the work of hours, and none may end with a traceback.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

from flaxnets.errors import InputError

_NAMES = ('stdin', 'stdout', 'stderr')


def open_closed() -> None:
  """Opens those of the descriptors 0, 1 and 2 that are closed, so that no file of the program gets their numbers.

  Otherwise what a library prints would be written into that file.
  """
  for number, name in enumerate(_NAMES):
    try:
      os.fstat(number)
    except OSError as error:
      if error.errno != errno.EBADF:
        raise
      os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
      stream = open(number, 'r' if name == 'stdin' else 'w', encoding='utf-8', closefd=False)  # noqa: SIM115
      setattr(sys, name, stream)


def guard() -> None:
  """Replaces stdout and stderr by streams that cause no traceback where they cannot be written.

  The first write to stdout that fails raises InputError, or BrokenPipeError if its reader has ended. What cannot be
  written to stderr is lost. Streams that were replaced already, as in a test or a notebook, stay.
  """
  for number, name in ((1, 'stdout'), (2, 'stderr')):
    stream = getattr(sys, name)
    if stream is getattr(sys, f'__{name}__') and isinstance(stream, io.TextIOWrapper):
      stream.flush()
      raw = _Guarded(number, name)
      guarded = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=stream.line_buffering
      )
      setattr(sys, name, guarded)


def make_stdout_optional() -> None:
  """From now on, output that a guarded stdout cannot take is dropped; a line on stderr says so once."""
  raw = getattr(getattr(sys.stdout, 'buffer', None), 'raw', None)
  if isinstance(raw, _Guarded):
    raw.optional = True


class _Guarded(io.FileIO):
  """A descriptor whose write errors are ignored, or reported in one line."""

  def __init__(self, number: int, name: str):
    super().__init__(number, 'w', closefd=False)
    self.optional = name == 'stderr'
    self._name, self._failed = name, False

  def write(self, data: Any) -> int | None:  # type: ignore[override]  # the stub forgets the None of FileIO
    if self._failed and not self.optional:
      return len(data)  # the failure was reported
    try:
      written = super().write(data)  # None where a pipe is full and does not wait
    except OSError as error:
      if not self.optional and isinstance(error, BrokenPipeError):
        raise
      reported, self._failed = self._failed, True
      if not self.optional:
        raise InputError(f'{self._name} cannot be written: {error.strerror}') from None
      if self._name == 'stdout' and not reported:
        print(f'stdout cannot be written: {error.strerror}; the program goes on without it', file=sys.stderr)
      return len(data)
    return len(data) if written is None and self.optional else written
