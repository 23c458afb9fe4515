"""What a row of the table of bad input is, and how it is run."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
from collections.abc import Callable

from flaxnets.cli import main

SECONDS = 20  # of the slowest command, on a busy machine


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
  def stop(number, frame):
    raise TooSlow(f'the command ran for more than {SECONDS} s')

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def run(case: Case, folder: pathlib.Path) -> int:
  """Runs a case's command in this process; returns its exit code."""
  words = case.command.replace('DIR', str(folder)).split(' ')
  with time_limit():
    return main.run(words[0], words[1:])
