"""The result files of a run, DIR/eval/*.json and the .npz beside each. The only file that knows their format.

A file is named by `flaxnets.analysis.result_names` and never takes the place of another evaluation's file. A file of
the same split and root, but of another step, other weights, another version of flaxnets or other examples, is renamed
after its step. A file of the very same evaluation keeps its subsets, and the new ones join them.

The JSON is a record of `flaxnets.runtime.records`. Its field `digests` has a digest of every array of the .npz that
belongs to it. The .npz is written first: after an interruption it may hold more arrays, never fewer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from flaxnets.analysis import metrics
from flaxnets.analysis.result_names import result_path
from flaxnets.channels import ChannelSet, Subset, larger_first
from flaxnets.errors import InputError, reason
from flaxnets.runtime import atomic, locks, records
from flaxnets.runtime.digests import array_digest, array_digests

MAX_CLASSES_OF_MATRIX = 100  # the JSON holds confusion matrices of up to this many classes; `confusion` gives all
# The fields that say what was evaluated. Files that agree in them, and in their examples, are one evaluation.
IDENTITY = ('split', 'root', 'step', 'recalibrated', 'recalibration', 'completion', 'weights', 'commit', 'versions')

# What NumPy and zipfile raise for a damaged .npz; RuntimeError where a bit says that a member is encrypted.
_UNREADABLE = (
  OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error,
  struct.error,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Hits:
  """Which images of a split were classified correctly.

  Attributes:
    ids: (n,) names of the images.
    classes: (n,) names of their true classes.
    hits: for each subset's label (n,) float: 1 where the image was classified correctly, else 0; averaged over seeds,
      the share of seeds that were correct.
    full: the label of all of the network's channels, whether it is among `hits` or not.
  """

  ids: np.ndarray
  classes: np.ndarray
  hits: dict[str, np.ndarray]
  full: str = ''

  def same_images(self, other: Hits) -> bool:
    """Whether both are of the same images in the same order, as far as names and classes tell.

    Images in arrays are named 0, 1 and so on in every file, and only their classes tell two files apart.
    """
    return np.array_equal(self.ids, other.ids) and np.array_equal(self.classes, other.classes)


class AccuracyTable(NamedTuple):
  """The accuracy of every subset in a result file, and of the empty subset: always guessing the largest class."""

  channels: ChannelSet
  accuracy: dict[Subset, float]


def write(scores: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: pathlib.Path) -> pathlib.Path:
  """Writes a result into a run's folder, JSON and .npz, each atomically; see the top of this file for their name.

  Several processes take turns, so that each adds its subsets to those of the others.

  Args:
    scores: as `flaxnets.evaluation.judge` returns them, with 'split' and 'root'.
    arrays: for the .npz.
    folder: of the run.

  Returns:
    The JSON's path.
  """
  (folder / 'eval').mkdir(exist_ok=True)
  with locks.exclusive(folder / '.eval-lock'):
    path = result_path(folder, scores)
    earlier = records.read_or_empty(path)
    if earlier:
      merged = _merged(path, earlier, scores, arrays)
      if merged is None:
        _rename_after_step(path, earlier)
      else:
        scores, arrays = merged
    with atomic.replacing(path.with_suffix('.npz')) as beside:
      np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]  # NumPy's stub: any name may be allow_pickle
    records.write(path, {**scores, 'digests': array_digests(arrays)})
  return path


def labels_done(folder: str | pathlib.Path, identity: Mapping[str, Any]) -> set[str]:
  """The labels of the subsets that a run's result file of the very same evaluation holds already.

  Args:
    folder: of the run.
    identity: the fields IDENTITY of the evaluation.
  """
  path = result_path(folder, identity)
  scores = records.read_or_empty(path)
  if not scores and path.exists():
    logging.warning('%s is corrupt; its subsets are evaluated again', path)
  if not scores or not _same_evaluation(scores, identity):
    return set()
  try:
    with _readable(path), _arrays(path, scores) as arrays:
      return {row['channels'] for row in scores['subsets'] if f'prediction/{row["channels"]}' in arrays}
  except InputError:
    logging.warning('%s is missing or corrupt; its subsets are evaluated again', path.with_suffix('.npz'))
    return set()


def _same_evaluation(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
  return all(one.get(key) == other.get(key) for key in IDENTITY)


def _merged(
  path: pathlib.Path, earlier: Mapping[str, Any], scores: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
  """The scores and arrays with the subsets of an earlier file added; None if that is of another evaluation."""
  if not _same_evaluation(earlier, scores):
    return None
  new = {row['channels'] for row in scores['subsets']}
  try:
    with _readable(path), _arrays(path, earlier) as stored:
      if not all(np.array_equal(stored[key], arrays[key]) for key in ('id', 'label')):
        return None
      kept = [row for row in earlier['subsets'] if row['channels'] not in new]
      names = [name for name in stored.names if name.partition('/')[2] in {row['channels'] for row in kept}]
      kept_arrays = {name: stored[name] for name in names}
      channels = ChannelSet(tuple(scores['channels']))
      rows = sorted([*kept, *scores['subsets']], key=lambda row: larger_first(channels.subset(row['channels'])))
  except InputError:
    return None
  return {**scores, 'subsets': rows}, {**arrays, **kept_arrays}


def _rename_after_step(path: pathlib.Path, scores: Mapping[str, Any]) -> None:
  """Renames a result file and its .npz to <stem>-step<step>, with a number where that name is taken."""
  stem = f'{path.stem}-step{scores.get("step")}'
  names = (f'{stem}-{number}' if number > 1 else stem for number in itertools.count(1))
  free = next(name for name in names if not any(path.with_name(name + end).exists() for end in ('.json', '.npz')))
  # The .npz gets its second name first: at any moment a JSON has its .npz beside it. The first name is written anew.
  if path.with_suffix('.npz').exists():
    with atomic.replacing(path.with_name(free + '.npz')) as beside:
      shutil.copyfile(path.with_suffix('.npz'), beside)
  os.replace(path, path.with_name(free + '.json'))


class ResultArrays:
  """The arrays of a result's .npz. Each is compared with its digest when it is read.

  Attributes:
    names: of the arrays that belong to the result; all where the result has no digests.
  """

  def __init__(self, stored: Any, digests: Mapping[str, str]):
    self._stored, self._digests = stored, digests
    self.names = list(digests or stored.files)

  def __contains__(self, name: str) -> bool:
    return name in self.names and name in self._stored

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self.names:
      raise KeyError(name)
    array = self._stored[name]
    if self._digests and array_digest(array) != self._digests[name]:
      raise ValueError(f'{name} differs from its digest')
    return array


@contextlib.contextmanager
def _readable(what: str | pathlib.Path) -> Iterator[None]:
  """Turns what a missing or damaged file raises in the block into an InputError that names `what`."""
  try:
    yield
  except _UNREADABLE as error:
    raise InputError(f'{what} cannot be read ({reason(error)}); evaluate the run again') from None


@contextlib.contextmanager
def _arrays(path: pathlib.Path, scores: Mapping[str, Any]) -> Iterator[ResultArrays]:
  """The .npz beside a result's JSON; the file is closed also where NumPy cannot read it."""
  with path.with_suffix('.npz').open('rb') as file, np.load(file) as stored:
    yield ResultArrays(stored, scores.get('digests', {}))


def read_arrays(path: pathlib.Path, scores: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """All arrays beside a result's JSON.

  Raises:
    InputError: naming the first that is missing or corrupt.
  """
  with _readable(path.with_suffix('.npz')), _arrays(path, scores) as arrays:
    return {name: arrays[name] for name in arrays.names}


def read_hits(path: pathlib.Path) -> tuple[dict[str, Any], Hits]:
  """The scores in a result file, and the hits from the .npz beside it.

  Raises:
    InputError: if one of the two is missing or corrupt.
  """
  with _readable(f'{path} or the .npz beside it'):
    scores = records.read(path)
    with _arrays(path, scores) as arrays:
      labels = [row['channels'] for row in scores['subsets']]
      hits = {shared_label(label): (arrays[f'prediction/{label}'] == arrays['label']).astype(float) for label in labels}
      channels = ChannelSet(tuple(scores['channels']))
      classes = np.asarray(scores['classes'])[arrays['label']]
      return scores, Hits(arrays['id'], classes, hits, shared_label(channels.label(channels.full)))


def shared_label(label: str) -> str:
  """A label that does not depend on a network's other channels: for a network with NIR, RG is written R,G."""
  names = label.split(',')
  return ''.join(names) if all(len(name) == 1 for name in names) else label


def confusion(path: str | pathlib.Path, label: str) -> np.ndarray:
  """The (K, K) confusion matrix of a subset in a result file, rows are the true classes.

  Args:
    path: of the JSON.
    label: the subset's label, 'channels' in its row.

  Raises:
    InputError: if the file or the .npz beside it cannot be read, or the subset is not in it.
  """
  path = pathlib.Path(path)
  with _readable(f'{path} or the .npz beside it'):
    scores = records.read(path)
    rows = {row['channels']: row for row in scores['subsets']}
    if 'confusion' in rows.get(label, {}):
      return np.asarray(rows[label]['confusion'], np.int64)
    if label in rows:
      with _arrays(path, scores) as arrays:
        return metrics.confusion_matrix(arrays['label'], arrays[f'prediction/{label}'], len(scores['classes']))
  raise InputError(f'{path} has no subset {label!r}; it has {", ".join(rows)}')


def read_accuracies(path: str | pathlib.Path) -> AccuracyTable:
  """The accuracy table of a result file.

  Raises:
    InputError: if it cannot be read or is not a result file.
  """
  path = pathlib.Path(path)
  try:
    scores = records.read(path)
    channels, rows = ChannelSet(tuple(scores['channels'])), scores['subsets']
    accuracy = {channels.subset(row['channels']): float(row['accuracy']) for row in rows}
    examples = _examples_per_class(path, scores)
  except OSError as error:
    raise InputError(
      f'{error.filename or path} cannot be read ({reason(error)}); flaxnets eval writes DIR/eval/test.json'
    ) from None
  except (*_UNREADABLE, IndexError):
    raise InputError(f'{path} is not a result file of flaxnets eval; evaluate the run again') from None
  return AccuracyTable(channels, {(): float(examples.max() / examples.sum()), **accuracy})


def _examples_per_class(path: pathlib.Path, scores: Mapping[str, Any]) -> np.ndarray:
  """(K,) numbers of examples, or of the classes up to the largest label that occurs."""
  first = scores['subsets'][0]
  if 'confusion' in first:
    return np.asarray(first['confusion']).sum(axis=1)
  with _arrays(path, scores) as arrays:
    return np.bincount(arrays['label'])
