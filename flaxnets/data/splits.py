"""Holds a validation split out of a training list."""

from __future__ import annotations

import collections
import pathlib

import numpy as np

from flaxnets.data.classes import read_text
from flaxnets.errors import InputError
from flaxnets.runtime import atomic


def hold_out(root: pathlib.Path, out: pathlib.Path, per_class: int = 40, seed: int = 0) -> tuple[int, int]:
  """Splits root/train.txt into out/train_tune.txt and out/tune.txt, which has `per_class` lines of every class.

  Args:
    root: folder with train.txt, a list of `path label` lines.
    out: folder to write to.
    per_class: lines of each class in tune.txt.
    seed: seed of the choice, 0 or more.

  Returns:
    The numbers of lines of train_tune.txt and tune.txt.

  Raises:
    InputError: if the list cannot be read or has a malformed line, a class would have no line left for training, or
      `out` cannot be written.
  """
  path = root / 'train.txt'
  lines, by_class = [], collections.defaultdict(list)
  for number, line in enumerate(read_text(path, 'the split file').splitlines(), 1):
    fields = line.rsplit(None, 1)
    if not fields:
      continue
    if len(fields) != 2 or not fields[1].isdecimal():
      raise InputError(
        f'{path}, line {number}: {line.strip()[:200]!r} is not a path and a label, as images/finch/1.jpg 0'
      )
    lines.append(line)
    by_class[int(fields[1])].append(line)
  smallest = min(by_class, key=lambda label: len(by_class[label]), default=None)
  if smallest is None or len(by_class[smallest]) <= per_class:
    size = 0 if smallest is None else len(by_class[smallest])
    raise InputError(
      f'{path}: class {smallest} has {size} lines, so {per_class} cannot be held out of it; '
      'choose a smaller --per_class'
    )
  random = np.random.default_rng(seed)
  held = {each[i] for _, each in sorted(by_class.items()) for i in random.permutation(len(each))[:per_class]}
  counts = []
  try:
    out.mkdir(parents=True, exist_ok=True)
    for name, inside in (('train_tune.txt', False), ('tune.txt', True)):
      chosen = [line for line in lines if (line in held) == inside]
      atomic.write_text(out / name, ''.join(f'{line}\n' for line in chosen))
      counts.append(len(chosen))
  except OSError as error:
    raise InputError(f'the folder {out} cannot be written: {error.strerror or error}') from None
  return counts[0], counts[1]
