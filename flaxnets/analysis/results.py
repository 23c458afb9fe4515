"""The result files of a run, DIR/eval/*.json and the .npz beside each. The only file that knows their format."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flaxnets.channels import ChannelSet, Subset
from flaxnets.errors import InputError
from flaxnets.runtime import atomic


@dataclasses.dataclass(frozen=True)
class Hits:
  """Which images of a split were classified correctly.

  Attributes:
    ids: (n,) names of the images.
    hits: for each subset's label (n,) float: 1 where the image was classified correctly, else 0; averaged over seeds,
      the share of seeds that were correct.
  """

  ids: np.ndarray
  hits: dict[str, np.ndarray]


class AccuracyTable(NamedTuple):
  """The accuracy of every subset in a result file, and of the empty subset: always guessing the largest class."""

  channels: ChannelSet
  accuracy: dict[Subset, float]


def write(scores: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: pathlib.Path, name: str) -> pathlib.Path:
  """Writes eval/<name>.json and .npz into a run's folder, each atomically; returns the JSON's path."""
  folder = folder / 'eval'
  folder.mkdir(exist_ok=True)
  path = folder / f'{name}.json'
  with atomic.replacing(folder / f'{name}.npz') as beside:
    np.savez_compressed(beside, **arrays)
  atomic.write_text(path, json.dumps(scores) + '\n')
  return path


def file_stem(split: str) -> str:
  """A split's name in file names: 'test5k' for 'test5k.txt', 'site_test' for 'site/test'.

  Of an absolute path only the last part counts. 'train[90%:]' becomes 'train_90___'.
  """
  path = pathlib.PurePath(split)
  name = path.name if path.is_absolute() else '_'.join(path.parts)
  name = name.removesuffix('.txt').removesuffix('.npz')
  return ''.join(letter if letter.isalnum() or letter in '-_.' else '_' for letter in name)


def read_hits(path: pathlib.Path) -> tuple[dict[str, Any], Hits]:
  """The scores in a result file, and the hits from the .npz beside it.

  Raises:
    InputError: if one of the two is missing or corrupt.
  """
  try:
    scores = json.loads(path.read_text())
    with path.with_suffix('.npz').open('rb') as file, np.load(file) as arrays:
      labels = [row['channels'] for row in scores['subsets']]
      hits = {_shared(label): (arrays[f'prediction/{label}'] == arrays['label']).astype(float) for label in labels}
      return scores, Hits(arrays['id'], hits)
  except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise InputError(f'{path} or the .npz beside it cannot be read ({error}); evaluate the run again') from None


def _shared(label: str) -> str:
  """A label that does not depend on a network's other channels: for a network with NIR, RG is written R,G."""
  names = label.split(',')
  return ''.join(names) if all(len(name) == 1 for name in names) else label


def read_accuracies(path: str | pathlib.Path) -> AccuracyTable:
  """The accuracy table of a result file.

  Raises:
    InputError: if it cannot be read or is not a result file.
  """
  try:
    scores = json.loads(pathlib.Path(path).read_text())
    channels, rows = ChannelSet(tuple(scores['channels'])), scores['subsets']
    accuracy = {channels.subset(row['channels']): float(row['accuracy']) for row in rows}
    examples = np.asarray(rows[0]['confusion']).sum(axis=1)
  except OSError as error:
    raise InputError(f'{path} cannot be read ({error.strerror}); flaxnets eval writes DIR/eval/test.json') from None
  except (ValueError, KeyError, TypeError, IndexError):
    raise InputError(f'{path} is not a result file of flaxnets eval; evaluate the run again') from None
  return AccuracyTable(channels, {(): float(examples.max() / examples.sum()), **accuracy})
