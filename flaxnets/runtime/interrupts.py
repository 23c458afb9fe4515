"""What a signal does to a program: one line and an exit code, no traceback."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

AGAIN = 75  # EX_TEMPFAIL: the same command goes on
SAID = 'stopped; the same command goes on from what is saved'
# SIGHUP comes where a terminal or its connection is closed. Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGHUP') if hasattr(signal, name))


_arrived: list[int] = []


class Terminated(KeyboardInterrupt):
  """SIGTERM or SIGHUP, as an exception that unwinds the stack as Ctrl-C does."""


def _raise(number: int, frame: FrameType | None) -> None:
  _arrived.append(number)
  raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _unless_a_signal(unraisable: Any, others: Callable[[Any], Any]) -> None:
  """Keeps Python from printing a traceback where it ignores the exception of a signal, which `arrived` tells."""
  if not issubclass(unraisable.exc_type, KeyboardInterrupt):
    others(unraisable)


def arrived() -> bool:
  """Whether a signal has come since `exit_code` began.

  Its exception can be lost: Python ignores one that is raised in a destructor or a callback, and libraries catch some.
  """
  return bool(_arrived)


def exit_code(program: str, main: Callable[[], int], resumes: bool) -> int:
  """Runs a program's main function; returns its exit code.

  After Ctrl-C, SIGTERM or SIGHUP this is 75 if the same command goes on where it stopped, otherwise 130, 143 or 129, as
  of any program that a signal ends. A line says so. Call it in the main thread.

  Args:
    program: its name in the line.
    main: what to run.
    resumes: whether the same command goes on.
  """
  _arrived.clear()
  for number in SIGNALS:
    if signal.getsignal(number) is not signal.SIG_IGN:  # a parent such as a shell or nohup may have ignored it
      signal.signal(number, _raise)
  sys.unraisablehook = functools.partial(_unless_a_signal, others=sys.unraisablehook)
  try:
    return main()
  except SystemExit:
    raise
  except BaseException as error:
    if not isinstance(error, KeyboardInterrupt) and not _arrived:
      raise
    code = stopped(program, error, resumes)
    # Python ends itself with SIGINT, whatever the exit code, if Ctrl-C came while it ran a string (as dataclasses and
    # namedtuples do at import). It forgets that when it runs the next string.
    exec('')
    return code


def stopped(program: str, error: BaseException, resumes: bool) -> int:
  """Says that a signal, whose exception is `error`, ends a program; returns its exit code, see `exit_code`."""
  for number in SIGNALS:  # nothing may interrupt the end, which is short
    signal.signal(number, signal.SIG_IGN)
  print(f'{program}: {SAID if resumes else "stopped"}', file=sys.stderr, flush=True)
  if resumes:
    return AGAIN
  others = [number for number in _arrived if number != signal.SIGINT]
  if not others:
    others = [signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT]
  return 128 + others[0]
