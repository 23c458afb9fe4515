"""The names of result files in DIR/eval, and whether two data roots are the same.

A file is named after what was evaluated, <split>[-<root's last part>][-recalibrated][-<completion>].json (a completion
that was chosen in place of the run's). Where a file of another split or root has that name, the new one gets a number.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from flaxnets.runtime import records


def result_path(folder: str | pathlib.Path, identity: Mapping[str, Any]) -> pathlib.Path:
  """Where a run's result of an evaluation is, or will be written.

  Args:
    folder: of the run.
    identity: fields of the result file. 'split'; 'root', a folder or file, '' or absent for that of the run's config;
      'recalibrated', whether recalibrated statistics were used; 'completion', what was used in place of the run's own.
  """
  folder, split, root = pathlib.Path(folder), identity['split'], identity.get('root', '')
  default = str(records.read_or_empty(folder / 'config.json').get('data', {}).get('root', ''))
  other_root = bool(root) and not same_root(root, default)
  parts = [split, *([pathlib.PurePath(root).name] if other_root else [])]
  stem = '-'.join(map(file_stem, parts)) + ('-recalibrated' if identity.get('recalibrated') else '')
  stem += f'-{identity["completion"]}' if identity.get('completion') else ''
  for number in itertools.count(1):
    path = folder / 'eval' / (f'{stem}-{number}.json' if number > 1 else f'{stem}.json')
    scores = records.read_or_empty(path)  # empty for a file that is absent or corrupt, which may be replaced
    if (
      not scores
      or scores.get('split', split) == split
      and (same_root(scores['root'], root or default) if 'root' in scores else not other_root)
    ):
      return path
  raise AssertionError('unreachable')


def file_stem(split: str) -> str:
  """A split's name in file names: 'test5k' for 'test5k.txt', 'site_test' for 'site/test'.

  Of an absolute path only the last part counts. 'train[90%:]' becomes 'train_90___'.
  """
  path = pathlib.PurePath(split)
  name = path.name if path.is_absolute() else '_'.join(path.parts)
  name = name.removesuffix('.txt').removesuffix('.npz')
  return ''.join(letter if letter.isalnum() or letter in '-_.' else '_' for letter in name)


def absolute_root(root: str) -> str:
  """A data root as result files hold it: an absolute path, or as it is where it is a URL or ''."""
  return str(pathlib.Path(root).resolve()) if root and '://' not in root else root


def same_root(stored: str, wanted: str) -> bool:
  """Whether the root in a result file is one that a config or a flag names, which may be relative."""
  if absolute_root(stored) == absolute_root(wanted):
    return True
  if not stored or not wanted or '://' in wanted or os.path.isabs(wanted):
    return False
  if os.path.exists(stored) and os.path.exists(wanted):
    return False
  # A relative root of a config, in a process that was started in another folder than the one that evaluated, or on
  # another machine.
  parts = pathlib.PurePath(wanted).parts
  return pathlib.PurePath(stored).parts[-len(parts) :] == parts
