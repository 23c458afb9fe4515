"""Runs compared on the same images: accuracies, regrets, paired differences, one table. NumPy only.

A paired difference is the mean over images of one run's hit minus another's. Its 95 % interval is that of A. Agresti
and Y. Min, Simple improved confidence intervals for comparing matched proportions, Statistics in Medicine 24 (2005):
the normal interval after one more image that only the one got right and one that only the other did, half an image
each, and as many that both or neither did. It speaks of other images, not of other seeds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxnets.analysis.metrics import CONFIDENCE, wilson
from flaxnets.errors import InputError


@dataclasses.dataclass(frozen=True)
class Judged:
  """What became of every image of a split.

  Attributes:
    ids: (n,) of the images.
    hits: for each subset's label (n,) float: whether the image was classified right; of several seeds the share
      that did.
  """

  ids: np.ndarray
  hits: dict[str, np.ndarray]


def read(path: pathlib.Path) -> tuple[dict[str, Any], Judged]:
  """eval/<split>.json, and the hits from the .npz beside it.

  Raises:
    InputError: if one of them is missing or damaged.
  """
  try:
    scores = json.loads(path.read_text())
    with path.with_suffix('.npz').open('rb') as file, np.load(file) as arrays:
      labels = [row['channels'] for row in scores['subsets']]
      hits = {_shared(label): (arrays[f'prediction/{label}'] == arrays['label']).astype(float) for label in labels}
      return scores, Judged(arrays['id'], hits)
  except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
    raise InputError(f'{path} or the .npz beside it cannot be read ({error}); judge the run again') from None


def _shared(label: str) -> str:
  """A label that does not depend on the other channels of a network: an expert of R and G among NIR says RG for R,G."""
  names = label.split(',')
  return ''.join(names) if all(len(name) == 1 for name in names) else label


def mean_of(several: Sequence[Judged]) -> Judged:
  """Several seeds as one, on the subsets that all were judged on.

  Raises:
    InputError: if they were judged on different images.
  """
  for other in several[1:]:
    _check_same_images(several[0], other)
  labels = [label for label in several[0].hits if all(label in each.hits for each in several)]
  return Judged(several[0].ids, {label: np.mean([each.hits[label] for each in several], axis=0) for label in labels})


def difference_interval(differences: np.ndarray) -> tuple[float, float]:
  """The 95 % interval of the mean of paired differences.

  Args:
    differences: (n,) in -1..1, n at least 1.

  Returns:
    The ends, in -1..1, the mean between them.
  """
  z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
  count = len(differences) + 2
  mean = differences.sum() / count
  variance = (np.square(differences).sum() + 1) / count - mean**2
  spread = z * math.sqrt(variance / count)
  return float(max(mean - spread, -1)), float(min(mean + spread, 1))


def compared(ours: Judged, experts: Mapping[str, Judged], reference: Judged | None) -> dict[str, Any]:
  """What a row of the table says of accuracy; fractions.

  Args:
    ours: the run, or its seeds as one.
    experts: for labels of subsets the expert, which was judged on that subset.
    reference: the run that differences are taken to (ours minus its), or None.

  Returns:
    'accuracy', 'interval', 'regret' and 'difference' with their intervals, each a mapping from label; 'mean_accuracy',
    'worst_subset', 'mean_regret', 'max_regret', 'mean_difference' over those that are known; None where there is
    nothing to compare with. Regret is the expert's accuracy minus ours.

  Raises:
    InputError: if they were judged on different images.
  """
  accuracy = {label: float(hits.mean()) for label, hits in ours.hits.items()}
  row: dict[str, Any] = {
    'accuracy': accuracy,
    'interval': {label: wilson(hits.sum(), len(hits)) for label, hits in ours.hits.items()},
    'mean_accuracy': float(np.mean(list(accuracy.values()))), 'worst_subset': min(accuracy, key=accuracy.get),
  }
  behind = {label: _differences(experts[label], ours, label) for label in accuracy if label in experts}
  ahead = {label: _differences(ours, reference, label)
           for label in accuracy if reference is not None and label in reference.hits}
  for name, found in (('regret', behind), ('difference', ahead)):
    row[name] = {label: float(found[label].mean()) if label in found else None for label in accuracy}
    row[f'{name}_interval'] = {
      label: difference_interval(found[label]) if label in found else None for label in accuracy}
    over_subsets = np.mean(list(found.values()), axis=0) if found else None
    row[f'mean_{name}'] = None if over_subsets is None else float(over_subsets.mean())
    row[f'mean_{name}_interval'] = None if over_subsets is None else difference_interval(over_subsets)
  row['max_regret'] = max((value for value in row['regret'].values() if value is not None), default=None)
  return row


def _differences(one: Judged, other: Judged, label: str) -> np.ndarray:
  _check_same_images(one, other)
  return one.hits[label] - other.hits[label]


def _check_same_images(one: Judged, other: Judged) -> None:
  if not np.array_equal(one.ids, other.ids):
    raise InputError(f'runs judged on different images ({one.ids[0]} ... and {other.ids[0]} ...) cannot be '
                     'compared; judge all on the same split')
