"""Signals, in the main thread and in others."""

import os
import signal
import threading

from flaxnets.study import job
from flaxnets.training.preemption import StopSignal


def in_a_thread(function):
  """What a function returns in a thread other than the main one; raises what it raises."""
  outcome = []

  def call():
    try:
      outcome.append((function(), None))
    except Exception as error:
      outcome.append((None, error))

  thread = threading.Thread(target=call)
  thread.start()
  thread.join()
  ((value, error),) = outcome
  if error is not None:
    raise error
  return value


def test_sigterm_is_noted_within_the_context_and_the_handler_before_comes_back():
  before = signal.getsignal(signal.SIGTERM)
  with StopSignal() as stop:
    assert not stop.asked
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked
  assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_training_goes_without_a_handler():
  def asked():
    with StopSignal() as stop:
      return stop.asked

  assert in_a_thread(asked) is False


def test_outside_the_main_thread_a_study_launches_its_jobs_without_handlers(tmp_path, monkeypatch):
  class Child:
    returncode = 3

    def __init__(self, command, stdout, **_):
      stdout.write(b'first\nlast\n')

    def communicate(self, text):
      assert text == b'{}'

  monkeypatch.setattr(job.subprocess, 'Popen', Child)
  assert in_a_thread(lambda: job.launch({}, tmp_path / 'log.txt')) == (3, 'last')
