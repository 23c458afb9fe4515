"""Confusions of a run in a form that stays small for many classes and subsets: counts, a coarse matrix, the worst."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxnets.report.folders import Run

FINE = 100  # classes, up to which the matrix has a cell for each pair of them
WORST = 20  # confusions listed for each subset
_MATRIX_CELLS = 4_000_000  # over a report, about two bytes each in the page
_CLASS_ROWS = 400_000  # over a report, about 16 bytes each


@dataclasses.dataclass(frozen=True)
class Cells:
  """The cells of a confusion matrix that are not 0: three (n,) arrays of integers."""

  truth: np.ndarray
  predicted: np.ndarray
  count: np.ndarray


def cells_of(run: Run, label: str) -> Cells | None:
  """A subset's confusions, from the predictions or else from the matrix in the result file; None without both."""
  truth, predicted = run.arrays.get('label'), run.arrays.get(f'prediction/{label}')
  if truth is not None and predicted is not None:
    # One number for each pair: np.unique then counts them without a (K, K) matrix.
    width = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    codes, count = np.unique(truth.astype(np.int64) * width + predicted, return_counts=True)
    return Cells(codes // width, codes % width, count)
  row = next(row for row in run.rows if row['channels'] == label)
  if row.get('confusion') is None:
    return None
  matrix = np.asarray(row['confusion'], np.int64)
  truth, predicted = np.nonzero(matrix)
  return Cells(truth, predicted, matrix[truth, predicted])


def largest_class_share(run: Run) -> float | None:
  """The accuracy of always guessing the most frequent class; None where the labels are unknown."""
  cells = cells_of(run, run.labels[0])
  if cells is None:
    return None
  return float(np.bincount(cells.truth, cells.count).max() / cells.count.sum())


def bins_of(classes: Sequence[int], pairs: Sequence[int]) -> list[int]:
  """For each run the side of its matrices: one cell a class up to FINE, less where the report would grow too large.

  Args:
    classes: how many each run has.
    pairs: how many subsets of it are shown.
  """
  for most in (FINE, 50, 25, 10):
    sides = [min(count, most) for count in classes]
    if sum(subsets * side**2 for side, subsets in zip(sides, pairs, strict=True)) <= _MATRIX_CELLS:
      break
  return sides


def with_classes(classes: Sequence[int], pairs: Sequence[int]) -> list[bool]:
  """For each run whether its table of classes fits into a report; the first ones do."""
  total = np.cumsum([count * subsets for count, subsets in zip(classes, pairs, strict=True)])
  return [bool(rows <= _CLASS_ROWS) for rows in total]


def of_subset(cells: Cells, classes: int, bins: int, per_class: bool) -> dict[str, Any]:
  """What the page shows of one subset; all numbers are counts of examples or places of classes.

  Args:
    cells: its confusions.
    classes: K.
    bins: side of the matrix; a bin holds ceil(K / bins) classes that follow each other.
    per_class: whether to add the table of classes.

  Returns:
    'matrix': bins x bins counts, row by row, rows the true classes; 'worst': [true, predicted, count] of the most
    frequent mistakes; with `per_class` 'hits', 'predicted', 'taken_for' (the most frequent wrong prediction, -1 for
    none) and 'taken' (how often), a list over the classes each.
  """
  size = -(-classes // bins)
  side = -(-classes // size)
  place = cells.truth // size * side + cells.predicted // size
  matrix = np.bincount(place, cells.count, side * side)
  wrong = np.flatnonzero(cells.truth != cells.predicted)
  order = wrong[np.argsort(-cells.count[wrong], kind='stable')]
  worst = order[:WORST]
  found: dict[str, Any] = {
    'matrix': matrix.astype(int).tolist(),
    'worst': np.stack([cells.truth, cells.predicted, cells.count], axis=1)[worst].tolist(),
  }
  if per_class:
    right = cells.truth == cells.predicted
    first, at = np.unique(cells.truth[order], return_index=True)  # the most frequent mistake of each class
    taken_for, taken = np.full(classes, -1), np.zeros(classes, int)
    taken_for[first], taken[first] = cells.predicted[order][at], cells.count[order][at]
    found |= {
      'hits': np.bincount(cells.truth[right], cells.count[right], classes).astype(int).tolist(),
      'predicted': np.bincount(cells.predicted, cells.count, classes).astype(int).tolist(),
      'taken_for': taken_for.tolist(),
      'taken': taken.tolist(),
    }
  return found


def of_run(run: Run, bins: int, per_class: bool) -> dict[str, Any]:
  """The confusions of all subsets of a run.

  Returns:
    'classes' (names), 'bin' (classes in a bin), 'side' (bins in a row), 'examples' of each class, and 'subsets', for
    each label what `of_subset` gives; 'subsets' is empty where neither predictions nor matrices are there.
  """
  names = run.scores.get('classes') or []
  found = {label: cells for label in run.labels if (cells := cells_of(run, label)) is not None}
  most = max((int(max(cells.truth.max(), cells.predicted.max())) for cells in found.values()), default=-1)
  names = [str(name) for name in names] + [str(place) for place in range(len(names), most + 1)]
  classes, bins = len(names), max(min(bins, len(names)), 1)
  size = max(-(-classes // bins), 1)
  first = next(iter(found.values()), None)
  return {
    'classes': names,
    'bin': size,
    'side': -(-classes // size),
    'examples': [] if first is None else np.bincount(first.truth, first.count, classes).astype(int).tolist(),
    'subsets': {label: of_subset(cells, classes, bins, per_class) for label, cells in found.items()},
  }
