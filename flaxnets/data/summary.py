"""What to know of the data before training: the size of a split in one line, and warnings. NumPy only."""

from __future__ import annotations

import posixpath
import textwrap
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from flaxnets.data.source import Source

MAX_LISTED = 5  # channels that examples lack, in one line
IMBALANCE = 10  # warn if the largest class has more than this many times the examples of the smallest


def describe(source: Source) -> str:
  """One line: the split, its examples, its classes, its smallest and largest class, and which channels are absent."""
  counts = _counts(source)
  smallest, largest = int(counts.argmin()), int(counts.argmax())
  text = f'{source.name}: {_number(len(source), "example")}, {_number(len(counts), "class")}'
  if len(counts) == 1:
    text += f' ({_name(source, 0)})'
  elif counts[smallest] == counts[largest]:
    text += f' of {counts[0]:,} each'
  else:
    text += (
      f'; smallest {_name(source, smallest)} with {counts[smallest]:,}, '
      f'largest {_name(source, largest)} with {counts[largest]:,}'
    )
  lacking = lacking_channels(source)
  return f'{text}; {lacking}' if lacking else text


def lacking_channels(source: Source) -> str:
  """How many examples lack a channel, as in '120 lack a channel (B: 100, G: 20)'.

  '' where all have all of them, and for sources that know it only when they read, such as GeoTIFFs; see
  `LackingChannels` for these.
  """
  lacking = LackingChannels(source)
  if source.has_missing_channels and hasattr(source, 'presence'):
    lacking.add(source.presence())
  return lacking.text()


class LackingChannels:
  """How many of the examples that were read lack a channel."""

  def __init__(self, source: Source):
    self._names = source.channels.names
    self._examples, self._absent = 0, np.zeros(len(self._names), int)

  def counted(self, batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Mapping[str, np.ndarray]]:
    """The batches, as `flaxnets.data.batches.evaluation_batches` yields them, after they were counted."""
    for batch in batches:
      self.add(batch['present'][batch['mask']])
      yield batch

  def add(self, present: np.ndarray) -> None:
    """Counts some examples, by the channels that they have, (n, C) bool."""
    self._examples += int((~present).any(axis=1).sum())
    self._absent += (~present).sum(axis=0)

  def text(self) -> str:
    """As `lacking_channels`."""
    if not self._examples:
      return ''
    order = [channel for channel in np.argsort(-self._absent, kind='stable').tolist() if self._absent[channel]]
    listed = ', '.join(f'{self._names[channel]}: {self._absent[channel]:,}' for channel in order[:MAX_LISTED])
    more = ', ...' * (len(order) > MAX_LISTED)
    return f'{self._examples:,} {"lacks" if self._examples == 1 else "lack"} a channel ({listed}{more})'


def warnings_for(train: Source, validation: Source) -> list[str]:
  """Warnings about the splits of a data set, one line each; none for a set without a problem.

  They are about examples in both splits, files with two labels, one class only, classes without examples and
  strong imbalance. The same example is known by its id: files by their paths, other examples by the split and the
  number in it. Copies of a file under another name, and two arrays with different names, are not found.

  Args:
    train: the training split.
    validation: the validation split, with the classes of the training split.
  """
  lines, counts = _overlap(train, validation), _counts(train)
  if np.count_nonzero(counts) == 1:
    only = _name(train, int(counts.argmax()))
    lines.append(f'all training examples are of one class, {only}; there is nothing to tell apart')
  for name, source in (('training', train), ('validation', validation)):
    lines += _relabelled(source, name)
    lines += _empty_classes(source, name)
  return lines + _imbalance(train)


def warnings_for_test(test: Source) -> list[str]:
  """Warnings about a split that a trained network is evaluated on, as those of `warnings_for`."""
  return _relabelled(test, 'test') + [
    f'{line}; precision, recall and F1 are means over the others' for line in _empty_classes(test, 'test')
  ]


def _counts(source: Source) -> np.ndarray:
  """(K,) examples of each class."""
  return np.bincount(source.labels, minlength=len(source.classes))


def _overlap(train: Source, validation: Source) -> list[str]:
  label_of = dict(zip(_keys(train), train.labels.tolist(), strict=True))
  common, relabelled = 0, 0
  example = ''
  for key, id_, label in zip(_keys(validation), validation.ids, validation.labels.tolist(), strict=True):
    if key in label_of:
      common += 1
      example = example or id_
      relabelled += train.classes[label_of[key]] != validation.classes[label]
  if not common:
    return []
  different = f', {relabelled:,} of them with another label' if relabelled else ''
  examples = f'{_number(common, "example")} of the validation split {"is" if common == 1 else "are"}'
  return [f'{examples} in the training split too{different}, such as {example}']


def _relabelled(source: Source, name: str) -> list[str]:
  """A file that a list names again, which has the id 'path#2', may have another label there."""
  labels = source.labels.tolist()
  again = [(id_.rpartition('#')[0], label) for id_, label in zip(source.ids, labels, strict=True) if '#' in id_]
  if not again:
    return []
  label_of = dict(zip(source.ids, labels, strict=True))
  wrong = sorted({path for path, label in again if label_of.get(path, label) != label})
  if not wrong:
    return []
  return [f'{_number(len(wrong), "file")} of the {name} split {_have(len(wrong))} two labels, such as {wrong[0]}']


def _keys(source: Source) -> list[str]:
  """What is equal for two examples, in whatever split, only if they are the same example."""
  if all(id_.isdecimal() for id_ in source.ids):
    return [f'{source.name}\n{id_}' for id_ in source.ids]
  root = getattr(source, 'root', '')  # image files: the folder that their paths are relative to
  return [posixpath.join(root, id_) for id_ in source.ids]


def _empty_classes(source: Source, name: str) -> list[str]:
  empty = np.flatnonzero(_counts(source) == 0)
  if not len(empty):
    return []
  shown = ', '.join(_name(source, label) for label in empty[:3].tolist()) + (', ...' if len(empty) > 3 else '')
  of_all = f'{len(empty):,} of {_number(len(source.classes), "class")}'
  return [f'{of_all} {_have(len(empty))} no example in the {name} split: {shown}']


def _imbalance(train: Source) -> list[str]:
  counts = _counts(train)
  smallest = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
  largest = int(counts.argmax())
  if counts[largest] <= IMBALANCE * counts[smallest]:
    return []
  return [
    f'the largest training class, {_name(train, largest)}, has {counts[largest] / counts[smallest]:.0f} times as many '
    f'examples as the smallest, {_name(train, smallest)} ({counts[largest]:,} and {counts[smallest]:,}); '
    'train.class_weights=balanced makes all classes count equally'
  ]


def _name(source: Source, label: int) -> str:
  return repr(textwrap.shorten(source.classes[label], 40, placeholder='...'))


def _have(count: int) -> str:
  return 'has' if count == 1 else 'have'


def _number(count: int, noun: str) -> str:
  plural = {'class': 'classes'}.get(noun, f'{noun}s')
  return f'{count:,} {noun if count == 1 else plural}'
