"""The program `flaxnets`: finds a command's module, parses its flags and runs it.

A command is a module of this package with a docstring (its help), `ARGUMENTS` (the positional arguments in the usage
line, '' for none), `define(flags)` and `main(flags, arguments)`, which returns the exit code or None.
"""

from __future__ import annotations

import difflib
import importlib
import os
import select
import sys
from collections.abc import Sequence
from typing import NoReturn

from flaxnets.errors import InputError
from flaxnets.runtime import interrupts, streams

# Each command's module in flaxnets.cli and its line in `flaxnets --help`.
COMMANDS = {
  'train': ('train', 'train a network, or resume a run'),
  'eval': ('evaluate', 'evaluate a trained network on subsets of its channels'),
  'predict': ('predict', 'classify image files and arrays into a table, or a scene into a map'),
  'convert': ('convert', 'make a network from a pretrained PyTorch ResNet, for every subset of RGB'),
  'adapt': ('adapt', 'make a network for other channels from a trained one: bands by name, statistics of your data'),
  'export': ('export', 'write a network as StableHLO, ONNX, safetensors or a PyTorch state dict'),
  'verify': ('verify', 'compare every file of a run with its digest; name those that are corrupt'),
  'study': ('study', 'train and evaluate several networks, and compare them in one table'),
  'cost': ('cost', 'print parameters, MACs and FLOPs of a network for each subset'),
  'worth': ('worth', 'print the contribution of each channel to the accuracy, and the best subset of each size'),
  'report': ('report', 'write a page about runs or a study: tables, curves, confusions, kernels, images'),
  'views': ('views', "draw a contact sheet of the network's inputs in training and evaluation"),
  'prepare': ('prepare', 'convert images to a TFDS data set that needs no decoding in training'),
  'lists': ('lists', 'divide a folder with one folder per class into training, validation and test'),
  'split': ('split', 'hold out images of every class from train.txt for tuning'),
}

RESUMING = ('train', 'study')  # commands that go on where they were stopped


def main(command: str = '') -> NoReturn:
  """Runs the command line and exits.

  Args:
    command: the command to run; if '', the first argument of the command line.
  """
  streams.open_closed()
  streams.guard()
  arguments = sys.argv[1:]
  if not command:
    command, *arguments = arguments or ['--help']
  code: int = 0
  try:
    code = interrupts.exit_code(f'flaxnets {command}', lambda: run(command, arguments), resumes=command in RESUMING)
    sys.stdout.flush()
  except InputError as error:  # of stdout
    print(f'flaxnets {command}: {error}', file=sys.stderr)
    code = code or 1
  except BrokenPipeError:
    if not _stdout_is_closed():
      raise
    code = code or 141  # what a shell reports for a program that SIGPIPE ends
  sys.exit(code)


def _stdout_is_closed() -> bool:
  """Whether the reader of stdout has ended, as in `flaxnets --help | head -3`. If so, stdout goes nowhere from now."""
  if not hasattr(select, 'poll'):
    return False
  poll = select.poll()
  poll.register(sys.stdout, select.POLLOUT)
  if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
    return False
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
  return True


def run(command: str, arguments: Sequence[str]) -> int:
  """Runs one command; returns its exit code: 0, 1 for invalid input, 2 for an invalid command line."""
  if command in ('--help', '-h', 'help'):
    print(_overview())
    return 0
  if command == '--version':
    from flaxnets import __version__

    print(f'flaxnets {__version__}')
    return 0
  if command not in COMMANDS:
    close = difflib.get_close_matches(command, COMMANDS, 1)
    meant = f'did you mean {close[0]!r}?' if close else f'choose one of {", ".join(COMMANDS)}'
    print(f'flaxnets: unknown command {command!r}; {meant}', file=sys.stderr)
    return 2
  from flaxnets.cli import flags

  module = importlib.import_module(f'flaxnets.cli.{COMMANDS[command][0]}')
  return flags.run(f'flaxnets {command}', module, arguments)


def _overview() -> str:
  width = max(map(len, COMMANDS))
  lines = [f'  {command:{width}}  {text}' for command, (_, text) in COMMANDS.items()]
  return '\n'.join(
    [
      'Image classifiers that keep working when input channels are missing.',
      '',
      'usage: flaxnets COMMAND [--flag=value ...]',
      '',
      *lines,
      '',
      'flaxnets COMMAND --help lists the flags of a command; flaxnets --version prints the version.',
    ]
  )
