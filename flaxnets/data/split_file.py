"""Split files, which hold a path and a label per line."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence

from flaxnets.data.root import is_inside
from flaxnets.errors import InputError

LABEL = re.compile(r'-?\d{1,18}')  # more digits than that are no label, and Python refuses thousands of them


def parse_list(name: str, text: str, classes: int | None = None) -> tuple[list[int], list[str], list[int]]:
  """The lines of a split file that are not blank: their numbers, normalised paths and labels.

  Args:
    name: the split file in messages.
    text: what it holds.
    classes: the number of classes; None if it is not known.

  Raises:
    InputError: naming the line that is malformed, has a label out of range or a path that leaves the root; and if there
      is none.
  """
  lines, paths, labels = [], [], []
  for number, line in enumerate(text.split('\n'), 1):
    fields = line.rsplit(None, 1)
    if not fields:
      continue
    where = f'{name}, line {number}'
    if len(fields) != 2 or '\0' in line or not LABEL.fullmatch(fields[1]):
      raise InputError(f'{where}: {line.strip()[:200]!r} is not a path and a label, as images/finch/1.jpg 0')
    label = int(fields[1])
    if label < 0 or (classes is not None and label >= classes):
      allowed = f'{classes} classes have labels 0 to {classes - 1}' if classes else 'labels begin with 0'
      raise InputError(f'{where}: label {label} is out of range; {allowed}')
    path = posixpath.normpath(fields[0].strip())
    if path.startswith(('/', '../')) or path == '..':
      raise InputError(f'{where}: the path {fields[0]!r} leaves the root; paths are relative to it')
    lines.append(number)
    paths.append(path)
    labels.append(label)
  if not paths:
    raise InputError(f'the split file {name} is empty; it must hold a path and a label per line')
  return lines, paths, labels


def check_paths(name: str, root: str, lines: Sequence[int], paths: Sequence[str], check_files: bool) -> None:
  """Checks that the files of a list exist, and that no link leads out of the root.

  Args:
    name: the split file in messages.
    root: folder that the paths are relative to.
    lines, paths: from `parse_list`.
    check_files: whether a missing file is an error.

  Raises:
    InputError: naming the line.
  """
  # Each folder is listed once: to look up each file of ImageNet would take minutes on a network disk.
  listings: dict[str, tuple[set[str], set[str]]] = {}
  missing = []
  for line, path in zip(lines, paths, strict=True):
    folder, _, file = path.rpartition('/')
    if folder not in listings:
      if not is_inside(root, folder):
        raise InputError(f'{name}, line {line}: {folder!r} is a link that leaves the root {root}')
      listings[folder] = _listing(os.path.join(root, folder))
    files, links = listings[folder]
    if file in links and not is_inside(root, path):
      raise InputError(f'{name}, line {line}: {path!r} is a link that leaves the root {root}')
    if file not in files:
      missing.append((line, path))
  if missing and check_files:
    others = f' (and {len(missing) - 1:,} more are missing)' if len(missing) > 1 else ''
    raise InputError(
      f'{name}, line {missing[0][0]}: there is no file '
      f'{os.path.join(root, missing[0][1])}{others}; data.on_bad_image=skip trains without such files'
    )


def _listing(folder: str) -> tuple[set[str], set[str]]:
  """The names in a folder, and those of them that are links; nothing for a folder that does not exist."""
  try:
    with os.scandir(folder) as entries:
      found = [(entry.name, entry.is_symlink()) for entry in entries]
  except (OSError, ValueError):
    return set(), set()
  return {file for file, _ in found}, {file for file, link in found if link}
