"""Bad input ends with one line that says what was wrong, where, and what would be right."""

import re

import pytest

from flaxnets.runtime import devices
from tests.bad_inputs import arrays, commands, configs, images, lists, rasters, runs, weights
from tests.bad_inputs.arrays import EXECUTED
from tests.bad_inputs.case import run

TABLES = (arrays, commands, configs, images, lists, rasters, runs, weights)
CASES = [case for table in TABLES for case in table.CASES]


@pytest.fixture(autouse=True)
def started(monkeypatch):
  """The tests' process has its devices, and a command would set up others."""
  monkeypatch.setattr(devices, 'start', lambda *args, **options: None)


def test_the_table_has_at_least_100_different_cases():
  assert len({(case.command, case.make) for case in CASES}) == len(CASES) >= 100
  assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name.replace(' ', '-'))
def test_bad_input(case, tmp_path, capfd, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if case.make:
    case.make(tmp_path)
  capfd.readouterr()  # what making the files printed
  code = run(case, tmp_path)
  written = capfd.readouterr().err
  program = f'flaxnets {case.command.split()[0]}: '
  assert written.startswith(program) and written.count('\n') == case.lines, written
  assert re.search(case.says, written.removeprefix(program).split('\n')[0]), written
  assert code == case.code
  assert not (tmp_path / EXECUTED).exists()
