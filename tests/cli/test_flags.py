"""The folder of a run on the command line, the first argument or --workdir; and flags that are read."""

import importlib
import inspect
import re
import types

import pytest

from flaxnets.cli import flags, main
from flaxnets.cli.main import COMMANDS


@pytest.fixture
def calls():
  return []


@pytest.fixture
def run(calls):
  """Runs a command that takes a folder and a file."""
  command = types.ModuleType('command', 'A command.')
  command.ARGUMENTS = 'DIR FILE'
  command.define = lambda values: flags.definers(values).string('split', 'test', 'a split')
  command.main = lambda values, arguments: calls.append((values.split, list(arguments)))
  return lambda *arguments: flags.run('flaxnets command', command, arguments)


@pytest.mark.parametrize(
  'arguments',
  [
    ('runs/x', 'a.jpg', '--split=val'),
    ('--workdir=runs/x', '--split=val', 'a.jpg'),
    ('a.jpg', '--split=val', '--workdir', 'runs/x'),
  ],
)
def test_the_folder_of_a_run_is_an_argument_or_a_flag(run, calls, arguments):
  assert run(*arguments) == 0
  assert calls == [('val', ['runs/x', 'a.jpg'])]


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ((), 'DIR is missing; give the folder as an argument or as --workdir'),
    (('--workdir=', 'a.jpg'), '--workdir is empty; it needs a value'),
    (('--workdir=runs/x',), 'FILE is missing; --help shows the usage'),
    (('--workdir=runs/x', 'runs/y', 'a.jpg'), "unexpected argument 'a.jpg'; flags start with --, then DIR FILE"),
  ],
)
def test_a_folder_that_is_missing_or_one_too_many_is_refused(run, calls, capsys, arguments, said):
  assert run(*arguments) == 2
  assert capsys.readouterr().err == f'flaxnets command: {said}\n'
  assert not calls


@pytest.mark.parametrize('twice', [('--config=demo', '--config=default'), ('--config', 'demo', '-config=default')])
def test_a_second_config_is_refused_and_does_not_take_the_place_of_the_first(twice, capsys):
  assert main.run('views', [*twice, '--out=sheet.png']) == 2
  assert capsys.readouterr().err == 'flaxnets views: --config is given twice; give it once\n'


def test_every_command_about_a_run_takes_its_folder_in_both_ways():
  taking = set()
  for name, (module, _) in COMMANDS.items():
    command = importlib.import_module(f'flaxnets.cli.{module}')
    if 'workdir' in flags.defined(command):
      taking.add(name)
      assert command.ARGUMENTS.startswith('DIR')
      assert '--workdir\n' in flags.help_text(f'flaxnets {name}', command)
  assert taking == {'train', 'eval', 'predict', 'adapt', 'export', 'worth', 'report'}


@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_reads_every_flag_that_it_defines(name):
  command = importlib.import_module(f'flaxnets.cli.{COMMANDS[name][0]}')
  read = set(re.findall(r'\bflags\.(\w+)', inspect.getsource(command)))
  # --workdir becomes the first argument, and --config with all --config.FIELD becomes flags.config.
  defined = {{'config_file': 'config'}.get(flag, flag) for flag in flags.defined(command)} - {'workdir'}
  assert defined <= read
