"""Signals, in the main thread and in others."""

import concurrent.futures
import os
import signal

import jax
import pytest

from flaxnets.runtime import interrupts
from flaxnets.training.preemption import StopSignal


def test_sigterm_is_noted_within_the_context_and_the_handler_before_comes_back():
  before = signal.getsignal(signal.SIGTERM)
  with StopSignal() as stop:
    assert not stop.asked
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked
  assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_what_it_did_before_the_context(number):
  heard = []
  before = signal.signal(number, lambda *_: heard.append(number))
  try:
    with StopSignal() as stop:
      signal.raise_signal(number)
      assert stop.asked and heard == []
      signal.raise_signal(number)
      assert heard == [number]
  finally:
    signal.signal(number, before)


@pytest.mark.parametrize(('processes', 'asked', 'passed_on'), [(1, True, 0), (2, False, 1)])
def test_a_signal_that_was_lost_stops_a_single_process_and_is_told_to_several(monkeypatch, processes, asked, passed_on):
  notices = []
  monkeypatch.setattr(jax, 'process_count', lambda: processes)
  monkeypatch.setattr(interrupts, 'arrived', lambda: True)
  before = signal.signal(signal.SIGTERM, lambda *_: notices.append(1))  # in place of the service of jax.distributed
  try:
    with StopSignal() as stop:
      assert stop.asked is asked
  finally:
    signal.signal(signal.SIGTERM, before)
  assert len(notices) == passed_on


def test_outside_the_main_thread_training_goes_without_a_handler():
  def asked():
    with StopSignal() as stop:
      return stop.asked

  with concurrent.futures.ThreadPoolExecutor() as threads:
    assert threads.submit(asked).result() is False
