"""Standard streams that are closed or cannot be written."""

import pathlib
import subprocess
import sys

import pytest

from flaxnets.runtime.checkpoint import Checkpoints
from tests.small import flags

pytestmark = pytest.mark.skipif(not pathlib.Path('/dev/full').exists(), reason='no /dev/full')

FLAXNETS = [sys.executable, '-m', 'flaxnets']


def onto_a_full_disk(*command):
  """Runs a command whose stdout is on a disk that is full; returns the exit code and stderr."""
  with open('/dev/full', 'w') as full:
    done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
  return done.returncode, done.stderr


def test_a_command_whose_output_cannot_be_written_says_so_in_one_line():
  said = 'flaxnets --help: stdout cannot be written: No space left on device\n'
  assert onto_a_full_disk(*FLAXNETS, '--help') == (1, said)


@pytest.mark.parametrize('closed', ['<&-', '>&-', '2>&-', '<&- >&- 2>&-'])
def test_a_command_without_standard_streams_works_and_opens_no_file_in_their_place(tmp_path, closed):
  program = (
    'from flaxnets.runtime import streams; streams.open_closed(); streams.guard();'
    f'file = open({str(tmp_path / "file")!r}, "w"); print("said"); file.write(str(file.fileno()))'
  )
  for command in ([sys.executable, '-c', program], [*FLAXNETS, '--version']):
    subprocess.run(['sh', '-c', f'exec "$@" {closed}', 'sh', *command], check=True)
  assert int((tmp_path / 'file').read_text()) > 2


@pytest.mark.slow
def test_a_training_goes_on_where_its_output_cannot_be_written(tmp_path):
  code, said = onto_a_full_disk(*FLAXNETS, 'train', '--config=demo', f'--workdir={tmp_path / "run"}', *flags())
  assert code == 0 and 'Traceback' not in said
  assert said.count('stdout cannot be written: No space left on device; the program goes on without it') == 1
  assert max(Checkpoints(tmp_path / 'run' / 'checkpoints', writing=False).steps()) == 3
