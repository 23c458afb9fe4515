"""Divides images in class folders into training, validation and test lists."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flaxnets.data.classes import named_by
from flaxnets.data.folders import images_below, subfolders, what_images_are
from flaxnets.data.root import root_folder
from flaxnets.errors import InputError
from flaxnets.runtime import atomic

SPLITS = ('train', 'val', 'test')


def write_lists(
  root: str, shares: Sequence[float] = (70, 15, 15), group: str = '', seed: int = 0
) -> dict[str, collections.Counter[str]]:
  """Writes train.txt, val.txt and test.txt with `path label` lines, and classes.txt, into a folder of class folders.

  Every class is divided by the shares as closely as its groups allow. The images of a group stay together: images that
  resemble each other, such as frames of one video or fields of one plate, would otherwise make scores too good.

  Args:
    root: folder with one folder of images per class. Classes are numbered in the order of their names.
    shares: of the images in training, validation and test, relative to their sum.
    group: a regular expression that is searched in each path below `root`; images with the same match, or the same
      first group in parentheses, belong together. '' if all images are independent.
    seed: seed of the division, 0 or more.

  Returns:
    For each split, the number of images of each class.

  Raises:
    InputError: for a root without class folders or images, a path that a list cannot hold, shares that are not
      positive, an invalid expression, a path that it does not match, too few groups, or lists that exist.
  """
  if len(shares) != len(SPLITS) or min(shares) <= 0:
    raise InputError(f'shares are {", ".join(map(str, shares))}; give three positive numbers, as in 70,15,15')
  home = root_folder(root)
  names, paths, labels = _images(home)
  split_of = _divide(_groups(paths, group), np.asarray(labels), np.asarray(shares, float), seed)
  if empty := [name for place, name in enumerate(SPLITS) if place not in split_of]:
    raise InputError(f'{root} has too few images or groups of images: none is left for {empty[0]}.txt')
  _write(home, names, paths, labels, split_of)
  return {
    name: collections.Counter(names[label] for label, place in zip(labels, split_of, strict=True) if place == number)
    for number, name in enumerate(SPLITS)
  }


def _images(home: Path) -> tuple[list[str], list[str], list[int]]:
  """The names of the classes, and the path and the label of each image."""
  found = {name: files for name, files in images_below(str(home), subfolders(home)).items() if files}
  if not found:
    raise InputError(
      f'{home} has no folders with images; it must hold one folder of images per class, and {what_images_are(home)}'
    )
  paths = [path for files in found.values() for path in files]
  if broken := [path for path in paths if not _fits_into_a_line(path)]:
    raise InputError(
      f'{home}: a list cannot hold the path {broken[0]!r}, which has a line break, a space at its beginning or bytes '
      'that are no UTF-8; rename the file or folder'
    )
  return list(found), paths, [label for label, files in enumerate(found.values()) for _ in files]


def _fits_into_a_line(path: str) -> bool:
  return path == path.strip() and not set(path) & set('\r\n') and path.encode(errors='ignore').decode() == path


def _groups(paths: Sequence[str], pattern: str) -> np.ndarray:
  """(n,) the number of each image's group."""
  if not pattern:
    return np.arange(len(paths))
  try:
    expression = re.compile(pattern)
  except re.error as error:
    raise InputError(f'the group {pattern!r} is no regular expression ({error})') from None
  keys = []
  for path in paths:
    match = expression.search(path)
    if not match:
      raise InputError(f"the group {pattern!r} matches nothing in {path!r}; it must match in every image's path")
    keys.append(match[1] if expression.groups else match[0])
  return np.unique(np.asarray(keys, object).astype(str), return_inverse=True)[1]


def _divide(groups: np.ndarray, labels: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
  """(n,) the place of each image's split in SPLITS.

  Groups are taken in random order, larger ones first. Each goes to the split that lacks most of the group's classes,
  relative to what it is due.
  """
  counts = np.zeros((groups.max() + 1, labels.max() + 1), int)
  np.add.at(counts, (groups, labels), 1)
  due = np.outer(shares / shares.sum(), counts.sum(0))  # (splits, classes)
  held = np.zeros_like(due)
  order = np.random.default_rng(seed).permutation(len(counts))
  split_of_group = np.empty(len(counts), int)
  for number in order[np.argsort(-counts[order].sum(1), kind='stable')]:
    lacking = ((due - held) / due * (counts[number] > 0)).sum(1)
    split_of_group[number] = place = lacking.argmax()
    held[place] += counts[number]
  return split_of_group[groups]


def _write(home: Path, names: Sequence[str], paths: Sequence[str], labels: Sequence[int], split_of: np.ndarray) -> None:
  lines = list(names)
  if named_by(lines) != tuple(names):  # '10 bee' would be read as the name of label 10
    lines = [f'{label} {name}' for label, name in enumerate(names)]
  texts = {'classes.txt': ''.join(f'{line}\n' for line in lines)}
  for place, split in enumerate(SPLITS):
    of_split = zip(paths, labels, split_of, strict=True)
    texts[f'{split}.txt'] = ''.join(f'{path} {label}\n' for path, label, here in of_split if here == place)
  for name in texts:
    if (home / name).exists():
      raise InputError(f'{home / name} exists; delete it first to divide the images anew')
  with atomic.writing(f'the lists in {home}'):
    for name, text in texts.items():
      atomic.write_text(home / name, text)
