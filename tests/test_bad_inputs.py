"""Bad input ends with one line that says what was wrong, where, and what would be right."""

import pathlib
import re
import subprocess
import sys

import pytest

from tests.bad_inputs import arrays, commands, configs, images, lists, rasters, runs, weights
from tests.bad_inputs.case import run
from tests.kills import LOCKS

ROOT = pathlib.Path(__file__).parents[1]
TABLES = (arrays, commands, configs, images, lists, rasters, runs, weights)
CASES = [case for table in TABLES for case in table.CASES]

pytestmark = pytest.mark.usefixtures('devices_started')


def files(folder):
  """All files except locks: a run that ends at an unreadable image leaves its folder with nothing else."""
  return {path for path in folder.rglob('*') if path.is_file() and path.name not in LOCKS}


def test_the_cases_differ_and_are_as_many_as_the_page_on_reliability_says():
  assert len({(case.command, case.make) for case in CASES}) == len({case.name for case in CASES}) == len(CASES)
  (stated,) = re.findall(r'`tests/test_bad_inputs.py` \| (\d+) cases', (ROOT / 'docs' / 'reliability.md').read_text())
  assert len(CASES) == int(stated) or not rasters.CASES


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name.replace(' ', '-'))
def test_bad_input_ends_with_one_line_and_its_exit_code(case, tmp_path, capfd, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if case.make:
    case.make(tmp_path)
  made = files(tmp_path)
  capfd.readouterr()  # what making the files printed
  code = run(case, tmp_path)
  written = capfd.readouterr().err
  program = f'flaxnets {case.command.split()[0]}: '
  assert written.startswith(program) and written.count('\n') == case.lines, written
  assert re.search(case.says, written.removeprefix(program).split('\n')[0]), written
  assert code == case.code
  assert files(tmp_path) == made  # a pickle that was executed would make one, too
  if not case.make:
    assert not list(tmp_path.iterdir())


# What claims to be large. The program itself takes 250 to 450 MiB.
LARGE = (
  'PNG that claims 10 billion pixels', 'file of 6 GiB', 'predict of 10 billion pixels', 'header that claims 72 TiB',
  'header that claims 4 GiB', 'safetensors that claim 4 TB', 'config image_size=100000',
)  # fmt: skip


# Prints the exit code of a command and its largest memory, KiB. Of a child of pytest it would be at least pytest's own.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, '-m', 'flaxnets', *sys.argv[1:]], capture_output=True)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere memory is given in other units')
@pytest.mark.parametrize('case', [case for case in CASES if case.name in LARGE], ids=lambda case: case.name)
def test_what_claims_to_be_large_takes_less_than_a_gibibyte(case, tmp_path):
  if case.make:
    case.make(tmp_path)
  words = case.command.replace('DIR', str(tmp_path)).split(' ')
  shell = subprocess.run(['sh', '-c', 'exec "$@"', 'sh', sys.executable, '-c', MEASURED, *words], capture_output=True)
  code, memory = map(int, shell.stdout.split())
  assert code == case.code
  assert memory < 2**20


def test_all_that_claim_to_be_large_are_in_the_table():
  assert set(LARGE) <= {case.name for case in CASES}
