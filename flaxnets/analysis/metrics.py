"""Metrics of a confusion matrix, with intervals. NumPy only.

A confusion matrix is (K, K): rows are the true classes, columns the predicted ones, entries count examples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxnets.analysis.intervals import CONFIDENCE, wilson
from flaxnets.errors import InputError

_CELLS_AT_ONCE = 4_000_000  # of resampled matrices, 8 bytes each


class Scores(NamedTuple):
  """Precision, recall and F1 in 0..1: a (K,) array of each, one value a class, or one number of each."""

  precision: np.ndarray | float
  recall: np.ndarray | float
  f1: np.ndarray | float


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
  """The (K, K) int64 confusion matrix of (n,) true and predicted classes in 0 .. K - 1."""
  cells = np.asarray(labels, np.int64) * num_classes + predictions
  return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(confusion: np.ndarray) -> float:
  """The share of examples on the diagonal."""
  confusion = _checked(confusion)
  return float(np.trace(confusion) / confusion.sum())


def per_class(confusion: np.ndarray) -> Scores:
  """Precision, recall and F1 of each class, each (K,) in 0..1; where one is 0 / 0 it is 0."""
  confusion = _checked(confusion)
  return _scores(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))


def macro(confusion: np.ndarray) -> Scores:
  """Means over the classes that have examples: scikit-learn's macro average with labels=np.unique(y_true).

  A class that a split lacks has no recall. A prediction of it counts against the class that the example has.
  """
  has_examples = _has_examples(_checked(confusion))
  return Scores(*(float(np.mean(np.asarray(score)[has_examples])) for score in per_class(confusion)))


def bootstrap_macro(confusion: np.ndarray, *, samples: int = 1000, seed: int = 0) -> tuple[Scores, Scores]:
  """95 % bootstrap intervals of the macro scores.

  Percentile intervals (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13), moved by
  the bootstrap's estimate of bias (ch. 10). With few examples per class, samples miss entire classes, and the
  uncorrected interval lies too low, even below the score itself. With many, the correction vanishes. Drawing N
  examples with replacement is one multinomial draw over the matrix's cells, so the matrix is enough. The interval
  covers the choice of test examples, not of a training run. With fewer than about 20 examples per class it covers
  the truth in 86 to 92 % of cases. Where every example of many is correct it has no width.

  Args:
    confusion: (K, K).
    samples: number of matrices to draw, at least 1.
    seed: of the draws.

  Returns:
    The low ends and the high ends, in 0..1, around the scores of `macro`.
  """
  confusion = _checked(confusion)
  if samples < 1:
    raise InputError(f'a bootstrap of {samples} samples is not possible; 1000 is usual')
  truth, predicted = np.nonzero(confusion)  # row by row, so `truth` is in order
  counts = confusion[truth, predicted]
  random, examples, has_examples = np.random.default_rng(seed), int(counts.sum()), _has_examples(confusion)
  at_once = max(1, _CELLS_AT_ONCE // len(counts))
  parts = []
  for start in range(0, samples, at_once):
    cells = random.multinomial(examples, counts / examples, size=min(at_once, samples - start))
    scores = _scores(*_marginals(cells, truth, predicted, len(confusion)))
    parts.append([np.mean(np.asarray(score)[:, has_examples], axis=1) for score in scores])
  drawn, value = np.concatenate(parts, axis=1), np.array(macro(confusion))
  bias = drawn.mean(axis=1) - value
  low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1) - bias
  return Scores(*np.clip(low, 0, value).tolist()), Scores(*np.clip(high, value, 1).tolist())


def summary(confusion: np.ndarray, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, float]:
  """Accuracy, macro precision, recall and F1, as fractions, and the ends of their 95 % intervals.

  Args:
    confusion: (K, K) numbers of examples, rows the true classes.
    bootstrap: samples for the intervals of the macro scores (`bootstrap_macro`); accuracy has Wilson's.
    seed: of these samples.

  Returns:
    'accuracy', 'precision', 'recall', 'f1', and each of them with '_low' and '_high' after it.

  Raises:
    InputError: for a matrix that is not square, is empty, or holds anything but counts from 0.
  """
  confusion = _checked(confusion)
  values = {'accuracy': accuracy(confusion), **macro(confusion)._asdict()}
  low, high = bootstrap_macro(confusion, samples=bootstrap, seed=seed)
  ends = {
    'accuracy': wilson(int(np.trace(confusion)), int(confusion.sum())),
    **{name: (getattr(low, name), getattr(high, name)) for name in Scores._fields},
  }
  result = {}
  for name, value in values.items():
    result.update({name: value, f'{name}_low': ends[name][0], f'{name}_high': ends[name][1]})
  return result


def _has_examples(confusion: np.ndarray) -> np.ndarray:
  """(K,) bool."""
  return confusion.sum(axis=1) > 0


def _checked(confusion: np.ndarray) -> np.ndarray:
  confusion = np.asarray(confusion)
  if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
    raise InputError(f'a confusion matrix is square, but this one is {confusion.shape}')
  if (confusion < 0).any() or (confusion % 1 != 0).any():
    raise InputError('a confusion matrix counts examples, but this one has negative or fractional numbers')
  if not confusion.any():
    raise InputError(f'this confusion matrix of {len(confusion)} classes is empty; no example was evaluated')
  return confusion.astype(np.int64)


def _scores(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> Scores:
  """From hits and the two marginal sums, any shape (..., K)."""
  return Scores(_share(hits, predicted), _share(hits, true), _share(2 * hits, true + predicted))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  return part / np.maximum(whole, 1)  # 0 / 0 counts as 0


def _marginals(
  cells: np.ndarray, truth: np.ndarray, predicted: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Hits, row sums and column sums, each (samples, K), from (samples, cells) counts and the cells' classes."""
  hits = np.zeros((len(cells), classes), np.int64)
  diagonal = truth == predicted
  hits[:, truth[diagonal]] = cells[:, diagonal]
  by_column = np.argsort(predicted, kind='stable')
  return hits, _sums(cells, truth, classes), _sums(cells[:, by_column], predicted[by_column], classes)


def _sums(cells: np.ndarray, group: np.ndarray, classes: int) -> np.ndarray:
  """Sums along the last axis over runs of equal `group`, (samples, K)."""
  sums = np.zeros((len(cells), classes), np.int64)
  present, starts = np.unique(group, return_index=True)
  sums[:, present] = np.add.reduceat(cells, starts, axis=1)
  return sums
