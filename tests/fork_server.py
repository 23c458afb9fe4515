"""A process that has imported what a command needs and has not started JAX: its forks start two seconds sooner.

A module that serves is run with -m, imports everything, and calls `serve`. The tests' process starts it as a `Server`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]


def serve(work: Callable[..., int]) -> None:
  """Forks a child for each line of stdin, a JSON list of a folder and further arguments.

  Args:
    work: what a child does, and its exit code. It takes a function that sends a word to the server's parent, and the
      arguments.
  """
  print('ready', flush=True)
  for line in sys.stdin:
    child = os.fork()
    if child == 0:
      os._exit(_child(work, *json.loads(line)))
    print(f'ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}', flush=True)


def _child(work: Callable[..., int], folder: str, *arguments: Any) -> int:
  """Does the work; what it prints goes to a log beside the folder."""
  words, log = os.dup(1), os.open(f'{folder}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(log, 1)
  os.dup2(log, 2)

  def send(word: str) -> None:
    os.write(words, f'{word}\n'.encode())

  try:
    send(f'pid {os.getpid()}')
    send('start')
    return work(send, folder, *arguments)
  except BaseException:
    traceback.print_exc()
    return 1


class Server:
  """The process that forks.

  Args:
    module: that serves when it is run.

  Attributes:
    code: the exit code of the last child.
  """

  def __init__(self, module: str) -> None:
    self._process = subprocess.Popen(
      [sys.executable, '-m', module],
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      bufsize=1,
      env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1', 'JAX_PLATFORMS': 'cpu'},
    )
    self._pid, self.code = 0, 0
    assert self._read() == 'ready'

  def run(self, folder: pathlib.Path, *arguments: Any) -> Iterator[str]:
    """Starts a child; gives 'start' and the words that it sends, until it has ended."""
    assert self._process.stdin is not None
    self._process.stdin.write(json.dumps([str(folder), *arguments]) + '\n')
    while True:
      word, _, number = self._read().partition(' ')
      if word == 'ended':
        self.code = int(number)
        return
      if word == 'pid':
        self._pid = int(number)
      else:
        yield word

  def kill(self, delay: float) -> None:
    """Kills the child after some seconds, unless it has ended by then."""
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
      os.kill(self._pid, signal.SIGKILL)

  def close(self) -> None:
    self._process.kill()
    self._process.communicate()

  def _read(self) -> str:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    assert line, 'the server has ended'
    return line.strip()
