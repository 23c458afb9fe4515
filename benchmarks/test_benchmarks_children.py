"""Contenders in processes of their own."""

import os

import pytest

from benchmarks.children import Child, in_turns, pace
from flaxnets.errors import InputError


def serve_environment(start):
  def answer(what):
    if what == 'fail':
      raise InputError('no such thing')
    if what == 'break':
      raise KeyError('broken')
    return start, os.environ.get('FLAXNETS_TEST'), len(os.sched_getaffinity(0))

  return answer


def test_a_child_has_its_own_cores_and_variables_and_tells_of_its_errors(monkeypatch):
  monkeypatch.delenv('FLAXNETS_TEST', raising=False)
  before = os.sched_getaffinity(0)
  with Child(serve_environment, 7, cores=1, environment={'FLAXNETS_TEST': 'set'}) as child:
    assert 'FLAXNETS_TEST' not in os.environ
    assert os.sched_getaffinity(0) == before
    assert child.ask('look') == (7, 'set', 1)
    with pytest.raises(InputError, match='no such thing'):
      child.ask('fail')
    with pytest.raises(RuntimeError, match="KeyError: 'broken'"):
      child.ask('break')
    assert child.ask('look') == (7, 'set', 1)


def test_contenders_take_turns():
  calls = []
  timings = in_turns({name: lambda name=name: calls.append(name) or len(calls) for name in 'ab'}, 3)
  assert calls == ['a', 'b'] * 3
  assert timings['a'].each == [1, 3, 5]
  assert timings['b'].median == 4
  with pytest.raises(InputError, match='--repeats is 0'):
    in_turns({}, 0)


def test_results_made_ahead_do_not_count():
  made = []

  def results():
    for number in range(100):
      made.append(number)
      yield number

  waited = []
  assert pace(results(), waited.append, warm=5, seconds=0) > 0
  assert len(made) == 8
  assert waited == [4, 5, 6, 7]
