"""Holds a validation split out of a training list."""

from __future__ import annotations

import collections
import pathlib

import numpy as np

from flaxnets.data.classes import read_text
from flaxnets.data.split_file import parse_list
from flaxnets.errors import InputError
from flaxnets.runtime import atomic


def hold_out(root: pathlib.Path, out: pathlib.Path, per_class: int = 40, seed: int = 0) -> tuple[int, int]:
  """Splits root/train.txt into out/train_tune.txt and out/tune.txt, which has `per_class` lines of every class.

  A line that comes several times is one image: it is in tune.txt once, or in train_tune.txt as often as before. No
  image is in both, even if the list gives it two labels.

  Args:
    root: folder with train.txt, a list of `path label` lines.
    out: folder to write to.
    per_class: lines of each class in tune.txt.
    seed: seed of the choice, 0 or more.

  Returns:
    The numbers of lines of train_tune.txt and tune.txt.

  Raises:
    InputError: if the list cannot be read or has a malformed line, a class would have no image left for training,
      or `out` cannot be written.
  """
  path = root / 'train.txt'
  _, paths, labels = parse_list(str(path), read_text(path, 'the split file'))
  lines, by_class = list(zip(paths, labels, strict=True)), collections.defaultdict(list)
  for line in dict.fromkeys(lines):
    by_class[line[1]].append(line)
  smallest = min(by_class, key=lambda label: len(by_class[label]))
  if len(by_class[smallest]) <= per_class:
    raise InputError(
      f'{path}: class {smallest} has {len(by_class[smallest])} images, so {per_class} cannot be held out of it; '
      'choose a smaller --per_class'
    )
  random = np.random.default_rng(seed)
  held = {each[i] for _, each in sorted(by_class.items()) for i in random.permutation(len(each))[:per_class]}
  images = {image for image, _ in held}
  kept = [line for line in lines if line[0] not in images]
  tune = [line for line in dict.fromkeys(lines) if line in held]
  if without := sorted(by_class.keys() - {label for _, label in kept}):
    raise InputError(
      f'{path}: class {without[0]} would have no image left, as some have two labels; try another --seed'
    )
  with atomic.writing(f'the folder {out}'):
    out.mkdir(parents=True, exist_ok=True)
    for name, chosen in (('train_tune.txt', kept), ('tune.txt', tune)):
      atomic.write_text(out / name, ''.join(f'{image} {label}\n' for image, label in chosen))
  return len(kept), len(tune)
