"""A run's folder: its config.json, and the refusal to mix two runs in it."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from flaxnets.errors import InputError
from flaxnets.runtime import atomic


def claim_workdir(workdir: str | os.PathLike[str], fields: Mapping[str, Any]) -> pathlib.Path:
  """Makes a run's folder, writes its config.json, and refuses to resume with another config; called by all hosts.

  Args:
    workdir: the folder.
    fields: the config as plain JSON values.

  Raises:
    InputError: if the folder cannot be written, is not the same for all hosts, or a run with a different config lives
      there; names the fields.
  """
  folder = pathlib.Path(workdir)
  path = folder / 'config.json'
  import jax  # not at the top: a study and a report read workdirs without it
  from jax.experimental import multihost_utils

  if jax.process_index() == 0 and not path.exists():
    try:
      folder.mkdir(parents=True, exist_ok=True)
      atomic.write_text(path, json.dumps(fields, indent=1) + '\n')
    except OSError as error:
      raise InputError(f'--workdir={folder} cannot be written: {error.strerror}') from None
  multihost_utils.sync_global_devices('config.json: written')  # nothing where there is one host
  try:
    theirs = json.loads(path.read_text())
  except json.JSONDecodeError:
    raise InputError(f'{path} is damaged: not JSON; put it right or choose another --workdir') from None
  except OSError as error:
    raise InputError(
      f'{path} cannot be read: {error.strerror}; all processes need one --workdir, on a disk that they share'
    ) from None
  differing = differences(theirs, fields)
  if differing:
    listed = '; '.join(f'{name} is {old!r} there and {new!r} here' for name, (old, new) in differing.items())
    raise InputError(f'{folder} holds a run with another config ({listed}); choose another --workdir')
  return folder


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = '') -> dict[str, tuple[Any, Any]]:
  """The fields (dotted names) in which two nested configs differ, each with both values."""
  found: dict[str, tuple[Any, Any]] = {}
  for key in [*one, *(key for key in other if key not in one)]:
    old, new = one.get(key), other.get(key)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
      found.update(differences(old, new, f'{prefix}{key}.'))
    elif old != new:
      found[f'{prefix}{key}'] = (old, new)
  return found


def stored_batch_size(workdir: str | os.PathLike[str]) -> int:
  """The evaluation batch size in a run's config.json; 1 if there is none."""
  try:
    return json.loads(pathlib.Path(workdir, 'config.json').read_text())['evaluate']['batch_size']
  except (OSError, ValueError, KeyError):
    return 1
