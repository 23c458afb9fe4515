"""What the two entry points share: flags that explain themselves, and faults that are one line."""

from __future__ import annotations

import difflib
import functools
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict

from flaxnets.errors import InputError


def define_process_flags() -> None:
  """Flags for programs of several processes, one a host."""
  flags.DEFINE_string('coordinator', '', "host:port of process 0 of several; 'auto' takes it from the cluster")
  flags.DEFINE_integer('processes', 0, 'how many processes there are', lower_bound=0)
  flags.DEFINE_integer('process', 0, 'which of them this is, from 0', lower_bound=0)


def run(main: Callable[[], int | None]) -> None:
  """Parses the flags, runs main and exits: with what it returns, or with 1 and one line for a person's mistake."""
  program = sys.argv[0].rsplit('/', 1)[-1]

  def guarded(argv: Sequence[str]) -> int | None:
    try:
      if len(argv) > 1:
        raise InputError(f'{argv[1]!r} is no flag; flags begin with --, as --workdir=DIR')
      return main()
    except InputError as error:
      sys.stderr.write(f'{program}: {error}\n')
      return 1

  logging.set_verbosity(logging.WARNING)
  app.run(guarded, flags_parser=lambda argv: _parse(argv, program))


def _parse(argv: Sequence[str], program: str) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    if 'config' in flags.FLAGS and flags.FLAGS['config'].present:
      flags.FLAGS.config.lock()  # a file that could not be read raises only when it is touched
    return rest
  # ml_collections lets through whatever goes wrong in a config file or an override.
  except Exception as error:
    sys.stderr.write(f'{program}: {_explain(argv, error)}\n')
    sys.exit(1)


def _explain(argv: Sequence[str], error: Exception) -> str:
  """What a person would say of a command line that could not be read."""
  if 'Configuration is not available' in str(error):  # so ml_collections wraps what a config file raised
    error = error.__cause__ or error
  text = ' '.join(str(error).split()) or type(error).__name__
  if match := re.search(r'Key "(\w+)" does not exist .* is locked', text):
    meant = re.search(r'Did you mean "(\w+)"', text)
    text = f'there is no field {match[1]!r}' + (f'; did you mean {meant[1]!r}?' if meant else '')
  path = _config_path(argv)
  if 'No such file' in text and path and path in text:
    return f'there is no config file {path}; those of the project are in configs/, such as configs/demo.py'
  config = _config_of(path)
  if config is None:
    return _place_in(path, error) + text
  for argument in argv:
    match = re.match(r'--?config\.([\w.]+)(=|$)', argument)
    if not match:
      continue
    wrong = _unknown(config, match[1])
    if wrong:
      return wrong
    value = functools.reduce(lambda here, part: here[part], match[1].split('.'), config)
    if isinstance(value, ConfigDict):
      return f'config.{match[1]} is a group; give one of its fields: {", ".join(value)}'
    if match[1] in text or 'parse' in text or 'type' in text.lower():
      return f'{argument}: config.{match[1]} takes a value like {value!r} ({type(value).__name__})'
  return text


def _config_path(argv: Sequence[str]) -> str:
  """What --config names; '' where it is not given."""
  path = ''
  for argument, following in zip(argv, [*argv[1:], ''], strict=True):
    if match := re.fullmatch(r'--?config(=(.*))?', argument):
      path = (match[2] if match[1] else following).partition(':')[0]
  return path


def _place_in(path: str, error: Exception) -> str:
  """'configs/mine.py, line 7: ' where an error was raised in a config file, or by what it calls; '' elsewhere."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if path and os.path.realpath(frame.filename) == os.path.realpath(path)]
  return f'{path}, line {lines[-1]}: ' if lines else ''


def _config_of(path: str) -> ConfigDict | None:
  """A config file's own config, before any overrides; None where there is none or it cannot be run."""
  try:
    return runpy.run_path(path)['get_config']()
  except Exception:
    return None


def _unknown(config: ConfigDict, name: str) -> str | None:
  """Why a dotted name is no field of a config, or None where it is one."""
  here, seen = config, 'config'
  for part in name.split('.'):
    if not isinstance(here, ConfigDict):
      return f'{seen} is a value and has no field {part!r}'
    if part not in here:
      everything = {full.rsplit('.', 1)[-1]: full for full in _fields(config)}
      close = difflib.get_close_matches(part, list(here), 1) or difflib.get_close_matches(part, list(everything), 1)
      meant = f'; did you mean {seen}.{close[0]}?' if close and close[0] in here else (
        f'; did you mean config.{everything[close[0]]}?' if close else f'; it has {", ".join(here)}')
      return f'{seen} has no field {part!r}{meant}'
    here, seen = here[part], f'{seen}.{part}'
  return None


def _fields(config: ConfigDict, prefix: str = '') -> list[str]:
  found = []
  for key, value in config.items():
    found += _fields(value, f'{prefix}{key}.') if isinstance(value, ConfigDict) else [f'{prefix}{key}']
  return found
