"""Signals, in the main thread and in others."""

import concurrent.futures
import os
import signal

from flaxnets.training.preemption import StopSignal


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

  with concurrent.futures.ThreadPoolExecutor() as threads:
    assert threads.submit(asked).result() is False
