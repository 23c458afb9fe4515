"""What a signal does to a program: one line and an exit code, no traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

AGAIN = 75  # EX_TEMPFAIL: the same command goes on
SAID = 'stopped; the same command goes on from what is saved'


class Terminated(KeyboardInterrupt):
  """SIGTERM, as an exception that unwinds the stack as Ctrl-C does."""


def _raise(number: int, frame: FrameType | None) -> None:
  raise Terminated


def exit_code(program: str, main: Callable[[], int], resumes: bool) -> int:
  """Runs a program's main function; returns its exit code.

  After Ctrl-C or SIGTERM this is 75 if the same command goes on where it stopped, otherwise 130 or 143, as of any
  program that a signal ends. A line says so. Call it in the main thread.

  Args:
    program: its name in the line.
    main: what to run.
    resumes: whether the same command goes on.
  """
  if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
    signal.signal(signal.SIGTERM, _raise)
  try:
    return main()
  except KeyboardInterrupt as stopped:
    for number in (signal.SIGTERM, signal.SIGINT):  # nothing may interrupt the end, which is short
      signal.signal(number, signal.SIG_IGN)
    print(f'{program}: {SAID if resumes else "stopped"}', file=sys.stderr, flush=True)
    if resumes:
      return AGAIN
    return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)
