import argparse
import json
import re

import pytest

from benchmarks import measure
from benchmarks.measure import Row, Timing
from flaxnets.errors import InputError


def test_contenders_take_turns_after_two_first_calls():
  calls = []
  times = measure.interleaved(
    {name: lambda units, name=name: calls.append((name, units)) for name in 'ab'}, 3, seconds=0.0, pause=0.0
  )
  assert calls == [('a', 1), ('b', 1)] * 5
  assert list(times) == ['a', 'b'] and all(len(timing.each) == 3 for timing in times.values())


def test_turns_last_as_long_as_asked_and_times_are_of_one_unit(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(measure.time, 'perf_counter', lambda: clock[0])
  calls = []

  def run(units):
    calls.append(units)
    clock[0] += 5.0 if len(calls) == 1 else 0.3 * units

  timing = measure.interleaved({'a': run}, 2, seconds=1.0, pause=0.0)['a']
  assert calls == [1, 1, 4, 4]
  assert timing.first == 5.0 and timing.each == pytest.approx([0.3, 0.3])


def test_a_rate_is_the_medians_and_its_spread_that_of_all_turns():
  timing = Timing(9.0, [0.5, 4.0, 1.0])
  assert timing.rate(8) == 8.0
  assert timing.spread(8) == {'low': 2.0, 'high': 16.0, 'turns': 3}


def test_no_turn_is_an_error():
  with pytest.raises(InputError, match='--repeats is 0; give 1 or more'):
    measure.interleaved({}, 0)


def test_rows_are_printed_and_written_with_machine_and_versions(tmp_path, capsys):
  path = tmp_path / 'rows.json'
  measure.finish([Row('a/b', 1234.5, 'images/s', 0.91, 'torch_eager', {'low': 1.0}), Row('a/c', 2.0, 's')], str(path))
  assert re.search(r'a/b +1,23[45] +images/s +0\.91 +torch_eager\na/c +2 +s *\n', capsys.readouterr().out)
  first, second = json.loads(path.read_text())
  assert {key: first[key] for key in ('name', 'value', 'unit', 'ratio', 'peer', 'low')} == {
    'name': 'a/b',
    'value': 1234.5,
    'unit': 'images/s',
    'ratio': 0.91,
    'peer': 'torch_eager',
    'low': 1.0,
  }
  assert second['ratio'] is None and second['peer'] is None
  assert first['machine']['cores'] >= 1 and {'python', 'jax', 'numpy'} <= set(first['versions'])
  assert {'date', 'command', 'commit'} <= set(first)


def test_a_result_is_written_into_a_folder_that_is_made(tmp_path):
  measure.write(tmp_path / 'new' / 'result.json', {'seconds': 1.5})
  assert json.loads((tmp_path / 'new' / 'result.json').read_text()) == {'seconds': 1.5}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'rows.json').mkdir()
  with pytest.raises(InputError, match=r'rows\.json cannot be written: Is a directory'):
    measure.finish([Row('a', 1.0, 's')], str(tmp_path / 'rows.json'))


@pytest.mark.parametrize('text', ['3,x', '', '3,4'])
def test_a_list_of_something_else_is_refused(text):
  with pytest.raises(argparse.ArgumentTypeError, match='is not a list'):
    measure.listed(int, (1, 2, 3))(text)


@pytest.mark.parametrize('flag', ['--repeats=0', '--repeats=x', '--json=/no/such/folder/rows.json'])
def test_invalid_settings_are_errors_before_anything_is_measured(flag, capsys):
  with pytest.raises(SystemExit):
    measure.parser('nothing', '').parse_args([flag])
  assert re.search(r'error: argument --\w+: (there is no folder|.* is not a whole number)', capsys.readouterr().err)


def test_a_list_is_its_values_in_order():
  assert measure.listed(int, (1, 2, 3))('3,1') == [3, 1]
