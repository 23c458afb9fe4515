"""Learning curves from the lines of metrics.jsonl, thinned so that a long run fits into a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

POINTS = 300  # of a curve
_PREFIX = 'accuracy/'


def of(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Loss and accuracy over the steps of a run.

  Returns:
    'train': 'step', 'loss', 'accuracy', lists of one length, None where unknown; each point is the mean over a stretch
    of steps and stands at its end. 'validation': the same, and 'subsets', for each label its accuracies. Besides
    'step', the last, 'images_per_second', the median, and 'skipped', the steps that changed nothing because their loss
    was not usable; None where unknown.
  """
  train = [line for line in metrics if line['split'] == 'train']
  validation = [line for line in metrics if line['split'] == 'validation']
  labels = list(dict.fromkeys(key[len(_PREFIX) :] for line in validation for key in line if key.startswith(_PREFIX)))
  rates = [line['images_per_second'] for line in train if line.get('images_per_second')]
  return {
    'train': _thinned(train, ('loss', 'accuracy'), _steps_of(train)),
    'validation': {
      **_thinned(validation, ('loss', 'accuracy')),
      'subsets': {label: _thinned(validation, (_PREFIX + label,))[_PREFIX + label] for label in labels},
    },
    'step': max((line['step'] for line in metrics), default=None),
    'images_per_second': float(np.median(rates)) if rates else None,
    'skipped': train[-1].get('skipped_steps') if train else None,
  }


def seconds(metrics: Sequence[Mapping[str, Any]], batch_size: int) -> float | None:
  """The time that the training steps of a run took, without validation and saving; None where it is unknown."""
  train = [line for line in metrics if line['split'] == 'train' and line.get('images_per_second')]
  steps = np.diff([0, *(line['step'] for line in train)])
  rates = np.array([line['images_per_second'] for line in train])
  return float((steps * batch_size / rates).sum()) if train else None


def _steps_of(train: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """How many steps each line is the mean of: those since the line before that were not skipped."""
  taken = [line['step'] - (line.get('skipped_steps') or 0) for line in train]
  return np.maximum(np.diff([0, *taken]), 1)


def _thinned(
  lines: Sequence[Mapping[str, Any]], keys: Sequence[str], weights: np.ndarray | None = None
) -> dict[str, list[Any]]:
  """Means over at most POINTS stretches of lines, weighted by the `weights` (lines,) where there are some."""
  weights = np.ones(len(lines)) if weights is None else weights
  stretches = np.array_split(np.arange(len(lines)), min(POINTS, len(lines))) if lines else []
  found: dict[str, list[Any]] = {'step': [lines[stretch[-1]]['step'] for stretch in stretches]}
  for key in keys:
    values = np.array([line.get(key) for line in lines], float)  # NaN for None
    known = [stretch[np.isfinite(values[stretch])] for stretch in stretches]
    found[key] = [float(np.average(values[each], weights=weights[each])) if len(each) else None for each in known]
  return found
