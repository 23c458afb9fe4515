"""Class names from files, and labels from class names."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

from flaxnets.errors import InputError
from flaxnets.runtime import regular

MAX_CLASSES = 1_000_000  # without class names: a wrong label must not exhaust the memory


def read_text(path: Path, what: str) -> str:
  """The text of a file. `what` says in messages what the file is, such as 'the split file'.

  Raises:
    InputError: if it cannot be read, or is not UTF-8.
  """
  try:
    regular.check(path)
    return path.read_text('utf-8-sig')
  except UnicodeDecodeError as error:
    line = error.object[: error.start].count(b'\n') + 1
    raise InputError(
      f'{what} {path} is not UTF-8 text (byte 0x{error.object[error.start]:02x} in line {line})'
    ) from None
  except (OSError, ValueError) as error:
    raise InputError(f'cannot read {what} {path}: {getattr(error, "strerror", None) or error}') from None


def class_file(path: Path) -> tuple[str, ...]:
  """Reads class names, one per line, in the order of their labels. Blank lines are ignored.

  If every line begins with its label, as in `0 n01532829 house finch, linnet`, the labels give the order and do not
  belong to the names.

  Raises:
    InputError: if the file cannot be read or holds no names.
  """
  names = named_by(read_text(path, 'the class file').split('\n'))
  if not names:
    raise InputError(f'the class file {path} is empty; it must hold one name per line')
  return names


def named_by(lines: Sequence[str]) -> tuple[str, ...]:
  """The class names that the lines of a class file give, in the order of their labels; see `class_file`."""
  names = [line.strip() for line in lines if line.strip()]
  numbered = [name.split(None, 1) for name in names]
  if all(len(fields) == 2 and fields[0].isdecimal() and len(fields[0]) < 10 for fields in numbered):
    by_label = {int(label): name for label, name in numbered}
    if sorted(by_label) == list(range(len(names))):
      return tuple(by_label[label] for label in range(len(names)))
  return tuple(names)


def chosen_classes(root: Path, classes: str, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
  """The classes of the training source, or else those of the file `classes`; None if neither is given."""
  if class_names is not None:
    return tuple(class_names)
  return class_file(root / classes) if classes else None


def check_labels_mean_the_same(own: Sequence[str], class_names: Sequence[str] | None, where: str) -> None:
  """Checks that a class has the same label in this source and in the training source, if both name it.

  Raises:
    InputError: naming the first class with two labels.
  """
  known = class_names or ()
  by_name = labels_by_name(known)
  for label, name in enumerate(own):
    same = label < len(known) and known[label] == name  # also where several classes have this name, as in ImageNet
    if not same and by_name.get(name, label) != label:
      raise InputError(
        f'{where}: class {name!r} is label {label} here, but label {by_name[name]} of the '
        f'{len(known)} classes of the network; put them in the same order'
      )


def numbered_classes(highest: int, where: str) -> tuple[str, ...]:
  """'0', '1' and so on up to the highest label in `where`.

  Raises:
    InputError: for a label of `MAX_CLASSES` or more.
  """
  if highest >= MAX_CLASSES:
    raise InputError(f'{where}: label {highest} means {highest + 1:,} classes; the most is {MAX_CLASSES:,}')
  return tuple(str(label) for label in range(highest + 1))


def labels_by_name(classes: Sequence[str]) -> dict[str, int]:
  """The label of each name, and of its first word ('n01532829' of 'n01532829 finch') if that word is unique."""
  words = [(name.split() or [name])[0] for name in classes]
  times = collections.Counter(words)
  firsts = {word: label for label, word in enumerate(words) if times[word] == 1}
  return firsts | {name: label for label, name in enumerate(classes)}
