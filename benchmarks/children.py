"""Contenders in separate processes: each has its cores, its environment and a fresh JAX."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measure import PAUSE, Timing
from flaxnets.errors import InputError


class Child:
  """A process that answers one question at a time.

  Args:
    serve: called in the process; returns the function that answers. Must be at the top level of a module.
    arguments: passed to `serve`.
    cores: how many cores it may use, the first of this process's cores; 0 for all.
    environment: variables set in addition to this process's environment; None unsets one.
  """

  def __init__(
    self,
    serve: Callable[..., Callable[..., Any]],
    *arguments: Any,
    cores: int = 0,
    environment: Mapping[str, str | None] | None = None,
  ):
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    # Not a daemon: a daemon must not start processes, such as PyTorch's workers.
    self._process = context.Process(target=_answer, args=(theirs, serve, arguments))
    # Set before the start and inherited: once the process runs, JAX or OpenMP may already have counted the cores.
    with _on_cores(cores), _with_environment(environment or {}):
      self._process.start()
    theirs.close()

  def send(self, *question: Any) -> None:
    self._pipe.send(question)

  def receive(self) -> Any:
    """Waits for the answer to the question that was sent.

    Raises:
      InputError: as raised in the process.
      RuntimeError: for any other error in the process, with its traceback.
    """
    try:
      answer, error = self._pipe.recv()
    except EOFError:
      self._process.join()
      raise RuntimeError(f'a child process ended with exit code {self._process.exitcode}') from None
    if isinstance(error, InputError):
      raise error
    if error is not None:
      raise RuntimeError(f'in a child process:\n{error}')
    return answer

  def ask(self, *question: Any) -> Any:
    self.send(*question)
    return self.receive()

  def close(self) -> None:
    """Lets the process finish its current question and waits for it to exit."""
    self._pipe.close()
    self._process.join()

  def __enter__(self) -> Child:
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()


def _answer(pipe: Any, serve: Callable[..., Callable[..., Any]], arguments: Sequence[Any]) -> None:
  """The loop of a child process; it ends when the parent closes the pipe."""
  answer = None
  with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
    while True:
      question = pipe.recv()
      try:
        answer = answer or serve(*arguments)
        reply = answer(*question), None
      except InputError as error:
        reply = None, error
      except Exception:
        reply = None, traceback.format_exc()
      pipe.send(reply)


@contextlib.contextmanager
def _on_cores(cores: int) -> Iterator[None]:
  if not cores:
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, sorted(before)[:cores])
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _with_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
  before = {name: os.environ.get(name) for name in changes}
  _set(changes)
  try:
    yield
  finally:
    _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
  for name, value in variables.items():
    if value is None:
      os.environ.pop(name, None)
    else:
      os.environ[name] = value


def in_turns(contenders: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Timing]:
  """`measure.interleaved` for contenders that time themselves and return seconds per unit in a steady state.

  Raises:
    InputError: for fewer than one turn.
  """
  if repeats < 1:
    raise InputError(f'--repeats is {repeats}; give 1 or more')
  each: dict[str, list[float]] = {name: [] for name in contenders}
  for _ in range(repeats):
    for name, run in contenders.items():
      time.sleep(PAUSE)
      each[name].append(run())
  return {name: Timing(seconds[0], seconds) for name, seconds in each.items()}


def pace(results: Iterable[Any], wait: Callable[[Any], Any], *, warm: int, seconds: float) -> float:
  """Seconds per result in a steady state, after the results that were prefetched.

  Args:
    results: an endless iterable; at least three results are timed.
    wait: blocks until a result is on its device; called for each result while the next one is being made.
    warm: how many results to discard first.
    seconds: the minimum time to measure.
  """
  iterator = iter(results)
  last = None
  for _ in range(warm):
    last = next(iterator)
  wait(last)
  begin, count = time.perf_counter(), 0
  while count < 3 or time.perf_counter() - begin < seconds:
    following = next(iterator)
    if count:
      wait(last)
    last, count = following, count + 1
  wait(last)
  return (time.perf_counter() - begin) / count
