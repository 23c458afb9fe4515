"""The program before it knows a command: its help, its version, and a command that does not exist."""

import subprocess
import sys

import pytest

import flaxnets
from flaxnets.cli import main


def test_without_a_command_the_program_lists_its_commands(signal_handlers, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['flaxnets'])
  with pytest.raises(SystemExit) as ended:
    main.main()
  assert ended.value.code == 0
  alone = capsys.readouterr().out
  lines = [line.split() for line in alone.splitlines() if line.startswith('  ')]
  assert [words[0] for words in lines] == list(main.COMMANDS) and all(len(words) > 3 for words in lines)
  for word in ('--help', '-h', 'help'):
    assert main.run(word, []) == 0
    assert capsys.readouterr().out == alone


def test_the_version_is_the_packages(capsys):
  assert main.run('--version', []) == 0
  assert capsys.readouterr().out == f'flaxnets {flaxnets.__version__}\n'


def test_the_help_of_every_command_comes_without_importing_what_is_slow():
  program = (
    'import sys; from flaxnets.cli import main; codes = [main.run(command, ["--help"]) for command in main.COMMANDS];'
    'slow = {"jax", "flax", "matplotlib", "PIL", "cv2"} & set(sys.modules); sys.exit(str(slow) if slow else any(codes))'
  )
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('usage: flaxnets ') == len(main.COMMANDS)


@pytest.mark.parametrize(
  ('command', 'meant'),
  [('trian', "did you mean 'train'?"), ('xyz', 'choose one of train, eval, predict, '), ('', 'choose one of train, ')],
)
def test_an_unknown_command_is_told_with_the_one_that_was_meant(command, meant, capsys):
  assert main.run(command, ['--help']) == 2
  said = capsys.readouterr()
  assert said.err.startswith(f'flaxnets: unknown command {command!r}; {meant}')
  assert said.err.count('\n') == 1 and not said.out
