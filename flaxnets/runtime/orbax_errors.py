"""Errors of Orbax and TensorStore: the reason in words, whether it may be temporary, and what is printed of them."""

from __future__ import annotations

import errno
import functools
import logging as python_logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

from absl import logging

_TEMPORARY = ('PERMISSION_DENIED:', 'UNAVAILABLE:', 'RESOURCE_EXHAUSTED:')  # TensorStore's states of files and hosts
_ERRNOS = (
  errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE,
)  # fmt: skip


def is_temporary(error: Exception) -> bool:
  """Whether reading a checkpoint again may succeed; False where the error shows that it is corrupt.

  For a corrupt checkpoint Orbax raises ValueError, KeyError, JSON and Unicode errors, FileNotFoundError or a bare
  Exception. ValueError is also what TensorStore's I/O errors arrive as.
  """
  if isinstance(error, OSError):
    return not isinstance(error, FileNotFoundError | NotADirectoryError)
  named = _errno_in(str(error)) not in (None, errno.ENOENT, errno.ENOTDIR)
  return named or str(error).startswith(_TEMPORARY)


def reason(error: BaseException) -> str:
  """Why a file could not be read or written, on one line: in the words of the system where the chain has them."""
  seen: BaseException | None = error
  while seen is not None:
    if isinstance(seen, OSError) and seen.strerror:
      return f'{type(seen).__name__}: {seen.strerror}' if seen.errno is None else seen.strerror
    seen = seen.__cause__ or seen.__context__
  text = str(error).strip()
  if (number := _errno_in(text)) is not None:
    return os.strerror(number)
  if found := re.match(r'([A-Z_]+): .*?"([^"]+?)(/[\d.]+)?"', text):  # TensorStore's status, and the array's name
    return f'{found[2]} ({found[1].lower()})'
  return (text.splitlines() or [type(error).__name__])[0][:200]


def ignore_abandoned_coroutines() -> None:
  """What Orbax had planned to do after an operation that failed is never awaited, and would warn of that."""
  warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)


def silence() -> None:
  """Keeps Orbax from printing, with hundreds of lines of traceback, errors that it also raises.

  It logs them. And where one of many arrays cannot be read or written, it closes its event loop, and a thread of
  TensorStore reports an error for each other array that comes to its end, which nobody can catch.
  """
  logger = logging.get_absl_logger()
  if not any(isinstance(known, _NotOfOrbax) for known in logger.filters):
    logger.addFilter(_NotOfOrbax())
  if getattr(sys.unraisablehook, 'func', None) is not _unless_loop_is_closed:
    sys.unraisablehook = functools.partial(_unless_loop_is_closed, others=sys.unraisablehook)


def _errno_in(text: str) -> int | None:
  """The system's error that a longer text of TensorStore's names; None where it names none."""
  if found := re.search(r"\[os_error_code='(\d+)'\]", text):
    return int(found[1])
  return next((number for number in _ERRNOS if os.strerror(number) in text), None)


class _NotOfOrbax(python_logging.Filter):
  def filter(self, record: python_logging.LogRecord) -> bool:
    return f'{os.sep}orbax{os.sep}' not in record.pathname


def _unless_loop_is_closed(unraisable: Any, others: Callable[[Any], Any]) -> None:
  if 'Event loop is closed' not in str(unraisable.exc_value):
    others(unraisable)
