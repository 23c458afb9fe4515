"""Parses the flags of a command, including the config, and reports errors in one line."""

from __future__ import annotations

import difflib
import functools
import io
import pathlib
import re
import runpy
import sys
import textwrap
import traceback
import types
from collections.abc import Sequence
from typing import Any

import absl.flags
from absl import logging
from ml_collections import ConfigDict, config_flags

from flaxnets import config as configs
from flaxnets.errors import InputError, OneLineError
from flaxnets.runtime import warning_filters

_CONFIG_HELP = (
  'name of a config in configs/, such as demo, or path of a config file; --config.FIELD=VALUE changes a field'
)


class UsageError(OneLineError):
  """A command line that cannot be parsed."""


def run(program: str, command: types.ModuleType, arguments: Sequence[str]) -> int:
  """Parses a command's flags and runs it.

  Args:
    program: its name in messages, such as 'flaxnets train'.
    command: its module, see `flaxnets.cli.main`.
    arguments: the command line after the command.

  Returns:
    The exit code: that of the command, 1 for invalid input, 2 for an invalid command line.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):  # which a notebook replaces
    sys.stdout.reconfigure(errors='backslashreplace')  # names of files need not be UTF-8
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  warning_filters.ignore_odd_metadata()
  # Grain passes absl's global flags to its worker processes, so they must be parsed. Ours are not among them.
  absl.flags.FLAGS([program])
  if {'--help', '-help', '-h'} & set(arguments):
    print(help_text(program, command))
    return 0
  flags = defined(command)
  try:
    rest = _parse(flags, list(arguments))
    if takes_folder(command):
      rest = _with_folder(flags, rest)
    _check_arguments(command.ARGUMENTS, rest)
    return command.main(flags, rest) or 0
  except UsageError as error:
    print(f'{program}: {error}', file=sys.stderr)
    return 2
  except InputError as error:
    print(f'{program}: {error}', file=sys.stderr)
    return 1


def defined(command: types.ModuleType) -> absl.flags.FlagValues:
  """The flags of a command, with --workdir if it takes the folder of a run."""
  flags = absl.flags.FlagValues()
  command.define(flags)
  if takes_folder(command):
    definers(flags).string('workdir', '', 'the folder DIR of a run, if it is not the first argument')
  return flags


def takes_folder(command: types.ModuleType) -> bool:
  """Whether the first argument of a command is the folder of a run. All of these take it as --workdir too."""
  return command.ARGUMENTS.split()[:1] == ['DIR']


def _with_folder(flags: absl.flags.FlagValues, rest: Sequence[str]) -> list[str]:
  """The arguments, the first of which --workdir may give."""
  if flags['workdir'].present and not flags.workdir:
    raise UsageError('--workdir is empty; it needs a value')
  given = [flags.workdir] if flags.workdir else []
  if not (given or rest):
    raise UsageError('DIR is missing; give the folder as an argument or as --workdir')
  return [*given, *rest]


def definers(flags: absl.flags.FlagValues) -> types.SimpleNamespace:
  """absl's DEFINE_string as .string, and so on, for these flags, as in .string(name, default, help)."""
  kinds = ('string', 'integer', 'boolean', 'enum', 'list')
  return types.SimpleNamespace(
    **{kind: functools.partial(getattr(absl.flags, f'DEFINE_{kind}'), flag_values=flags) for kind in kinds}
  )


def define_config(flags: absl.flags.FlagValues, default: str | None = None) -> None:
  """Defines --config and --config.FIELD, which set `flags.config` to the config and `flags.config_file` to its path."""
  definers(flags).string('config_file', default, _CONFIG_HELP)


def define_process_flags(flags: absl.flags.FlagValues) -> None:
  """Defines the flags of programs that run as several processes, one per host."""
  add = definers(flags)
  add.string(
    'coordinator',
    '',
    "with several processes: host:port of process 0, or 'auto' to read it from the cluster's environment",
  )
  add.integer('processes', 0, 'with several processes: their number', lower_bound=0)
  add.integer('process', 0, 'with several processes: index of this one, from 0', lower_bound=0)


def _parse(flags: absl.flags.FlagValues, arguments: list[str]) -> list[str]:
  """Sets the flags; returns the remaining arguments."""
  _check_once(flags, arguments)
  if 'config_file' in flags:
    arguments = _read_config(flags, arguments)
  try:
    rest = flags(['', *arguments], known_only=False)[1:]
  except absl.flags.UnrecognizedFlagError as error:
    fields = configs.flattened(flags['config'].value) if 'config' in flags else {}
    same = [f'config.{name}' for name in fields if name.rpartition('.')[2] == error.flagname]
    close = same or difflib.get_close_matches(error.flagname, list(flags), 1)
    meant = f'; did you mean --{close[0]}?' if close else ''
    raise UsageError(f'unknown flag --{error.flagname}{meant}') from None
  except absl.flags.Error as error:
    raise UsageError(' '.join(str(error).split())) from None
  if empty := [name for name in flags if flags[name].value == '' and flags[name].default is None]:
    raise UsageError(f'--{empty[0]} is empty; it needs a value')
  missing = [name for name in flags if flags[name].value is None and not name.startswith('config')]
  if missing:
    raise UsageError(f'--{missing[0]} is required')
  return rest


def _check_once(flags: absl.flags.FlagValues, arguments: Sequence[str]) -> None:
  """Raises UsageError for a flag with two values, of which the first would be ignored."""
  names = [argument.lstrip('-').partition('=')[0] for argument in arguments if argument.startswith('-')]
  for name in names:
    known = (
      name == 'config'
      or name.startswith('config.')
      or (name in flags and not isinstance(flags[name], absl.flags.MultiFlag))
    )
    if known and names.count(name) > 1:
      raise UsageError(f'--{name} is given twice; give it once')


def _read_config(flags: absl.flags.FlagValues, arguments: list[str]) -> list[str]:
  """Loads the config that --config names and defines the flags of its fields; returns the other arguments."""
  others, name = [], flags['config_file'].value
  iterator = iter(arguments)
  for argument in iterator:
    flag, equals, value = argument.partition('=')
    if flag in ('--config', '-config'):
      name = value if equals else next(iterator, '')
    else:
      others.append(argument)
  if not name:
    raise UsageError('--config is required: the name of a config, such as demo, or the path of a config file')
  path = configs.path_of(name)
  config = _load(path)
  for argument in others:
    if argument.startswith(('--config.', '-config.')):
      field, _, value = argument.lstrip('-').removeprefix('config.').partition('=')
      _check_override(config, field, value, '=' in argument, argument)
  config_flags.DEFINE_config_dict('config', config, flag_values=flags, sys_argv=['', *others])
  flags.config_file = str(path)
  return others


def _load(path: pathlib.Path) -> ConfigDict:
  config = called(path, 'get_config', 'configs/demo.py')
  if not isinstance(config, ConfigDict):
    raise InputError(f'{path}: get_config() returns a {type(config).__name__}; it must return a ConfigDict')
  return config.lock()


def called(path: pathlib.Path, name: str, example: str) -> Any:
  """What a function in a config file returns.

  Args:
    path: the file.
    name: of the function, which takes no arguments.
    example: a file that has one, for the message.

  Raises:
    InputError: if there is no such function, or the file or the function raises anything.
  """
  try:
    function = runpy.run_path(str(path)).get(name)
    if function is None:
      raise InputError(f'{path} has no {name}(); see {example} for an example')
    return function()
  except InputError:
    raise
  except Exception as error:  # a config file is Python code and can raise anything
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f', line {lines[-1]}' if lines else ''
    raise InputError(f'{path}{place}: {_reason(error)}') from None


def _reason(error: Exception) -> str:
  """An exception as one line. For an unknown field, ml_collections' message is reduced to the suggestion."""
  text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
  if match := re.search(r'Key "(\w+)" does not exist', text):
    meant = re.search(r'Did you mean "(\w+)"', text)
    return f'there is no field {match[1]!r}' + (f'; did you mean {meant[1]!r}?' if meant else '')
  return ' '.join(text.split()) or type(error).__name__


def _check_override(config: ConfigDict, field: str, value: str, has_value: bool, argument: str) -> None:
  """Raises UsageError for a field that is unknown, is a group, or cannot take the value."""
  if wrong := _unknown(config, field):
    raise UsageError(wrong)
  default = functools.reduce(lambda here, part: here[part], field.split('.'), config)
  if isinstance(default, ConfigDict):
    raise UsageError(f'config.{field} is a group; give one of its fields: {", ".join(default)}')
  if has_value and isinstance(default, int | float) and not isinstance(default, bool):
    try:
      type(default)(value)
    except ValueError:
      kind = type(default).__name__
      raise UsageError(f'{argument}: config.{field} must be a value like {default!r} ({kind})') from None


def _unknown(config: ConfigDict, name: str) -> str | None:
  """Why a dotted name is not a field of a config; None if it is one."""
  here: Any = config
  seen = 'config'
  for part in name.split('.'):
    if not isinstance(here, ConfigDict):
      return f'{seen} is a value and has no field {part!r}'
    if part not in here:
      everything = {full.rsplit('.', 1)[-1]: full for full in configs.flattened(config)}
      if close := difflib.get_close_matches(part, list(here), 1):
        return f'{seen} has no field {part!r}; did you mean {seen}.{close[0]}?'
      if close := difflib.get_close_matches(part, list(everything), 1):
        return f'{seen} has no field {part!r}; did you mean config.{everything[close[0]]}?'
      return f'{seen} has no field {part!r}; it has {", ".join(here)}'
    here, seen = here[part], f'{seen}.{part}'
  return None


def _check_arguments(form: str, rest: Sequence[str]) -> None:
  """Raises UsageError if the number of arguments does not match the usage line."""
  least = sum(not word.startswith('[') for word in form.split())
  if len(rest) > least and not form.endswith('...]'):
    raise UsageError(f'unexpected argument {rest[least]!r}; flags start with --' + (f', then {form}' if form else ''))
  if len(rest) < least:
    raise UsageError(f'{form.split()[len(rest)]} is missing; --help shows the usage')


def help_text(program: str, command: types.ModuleType) -> str:
  """The text of --help: the usage line, the docstring of the command's module and all flags."""
  flags = defined(command)
  lines = [f'usage: {program} [--flag=value ...] {command.ARGUMENTS}'.rstrip(), '', (command.__doc__ or '').strip(), '']
  for name in sorted(flags, key=lambda name: flags[name].default is not None):
    flag = flags[name]
    shown = 'config' if name == 'config_file' else name
    default = '(required)' if flag.default is None else f'(default {flag.default!r})' if flag.default != '' else ''
    lines.append(f'  --{shown} {default}'.rstrip())
    lines += textwrap.wrap(flag.help or '', 100, initial_indent=' ' * 6, subsequent_indent=' ' * 6)
  return '\n'.join(lines)
