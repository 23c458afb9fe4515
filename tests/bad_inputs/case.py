"""What a row of the table of bad input is, and how it is run."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
from collections.abc import Callable

from flaxnets.cli import main

# What a command may take: time of the processor, of which a busy machine needs no more than an idle one; and time until
# it ends, since a command that waits for a pipe takes none.
WORK, WAIT = 20, 240  # seconds


@dataclasses.dataclass(frozen=True)
class Case:
  """A bad input.

  Attributes:
    name: what is bad.
    command: the arguments after `flaxnets`, with spaces between them; DIR stands for the case's folder.
    says: a regular expression for the line on stderr, after the name of the command.
    make: makes the files in the case's folder.
    code: the exit code.
    lines: how many lines are printed on stderr. Those after the first say what was done with the rest.
  """

  name: str
  command: str
  says: str
  make: Callable[[pathlib.Path], object] | None = None
  code: int = 1
  lines: int = 1


class TooSlow(BaseException):
  """Not an Exception, so that nothing takes it for an error of the input."""


@contextlib.contextmanager
def time_limit():
  """Raises TooSlow for a command that works or waits for too long."""
  timers = ((signal.SIGPROF, signal.ITIMER_PROF, WORK), (signal.SIGALRM, signal.ITIMER_REAL, WAIT))

  def stop(number, frame):
    raise TooSlow(f'the command took more than {WORK} s of work or {WAIT} s in all')

  before = {number: signal.signal(number, stop) for number, _, _ in timers}
  for _, timer, seconds in timers:
    signal.setitimer(timer, seconds)
  try:
    yield
  finally:
    for number, timer, _ in timers:
      signal.setitimer(timer, 0)
      signal.signal(number, before[number])


def run(case: Case, folder: pathlib.Path) -> int:
  """Runs a case's command in this process; returns its exit code."""
  words = case.command.replace('DIR', str(folder)).split(' ')
  with time_limit():
    return main.run(words[0], words[1:])
