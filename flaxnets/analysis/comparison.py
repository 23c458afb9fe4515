"""Runs compared on the same images: accuracies, regrets and paired differences. NumPy only.

A paired difference is the mean over images of one run's hit minus another's. Its interval covers the choice of images,
not of seeds; see `flaxnets.analysis.intervals.difference_interval`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flaxnets.analysis.intervals import difference_interval, wilson
from flaxnets.analysis.results import Hits
from flaxnets.errors import InputError


def mean_of(several: Sequence[Hits]) -> Hits:
  """The mean hits of several seeds, on the subsets that all were evaluated on.

  Raises:
    InputError: if they were evaluated on different images, or on no common subset.
  """
  for other in several[1:]:
    _check_same_images(several[0], other)
  labels = [label for label in several[0].hits if all(label in each.hits for each in several)]
  if not labels:
    raise InputError('the seeds of a run were evaluated on no common subset; evaluate all on the same subsets')
  hits = {label: np.mean([each.hits[label] for each in several], axis=0) for label in labels}
  return dataclasses.replace(several[0], hits=hits)


def experts_by_network(experts: Iterable[tuple[Hashable, Hits]]) -> dict[Hashable, dict[str, Hits]]:
  """For each network, the expert of each subset by its label; seeds and runs of the same subset are averaged.

  An expert of RG that was evaluated on R as well is no expert of R.

  Args:
    experts: the network of each, which runs to compare with them share, and its hits.

  Raises:
    InputError: see `mean_of`.
  """
  found: dict[Hashable, dict[str, list[Hits]]] = {}
  for network, hits in experts:
    if hits.full in hits.hits:
      found.setdefault(network, {}).setdefault(hits.full, []).append(hits)
  return {network: {label: mean_of(same) for label, same in by_label.items()} for network, by_label in found.items()}


def compared(ours: Hits, experts: Mapping[str, Hits], reference: Hits | None) -> dict[str, Any]:
  """The accuracies and differences in a row of a study's table; fractions.

  Args:
    ours: the run, or its seeds as one.
    experts: by the subset's label, the expert for that subset.
    reference: the run that differences are taken to (ours minus its), or None.

  Returns:
    'accuracy', 'interval', 'regret' and 'difference' with their intervals, each a mapping from label; 'mean_accuracy',
    'worst_subset', 'mean_regret', 'max_regret', 'mean_difference' over the subsets where both are known; None where
    there is nothing to compare with. Regret is the expert's accuracy minus ours.

  Raises:
    InputError: if they were evaluated on different images.
  """
  accuracy = {label: float(hits.mean()) for label, hits in ours.hits.items()}
  row: dict[str, Any] = {
    'accuracy': accuracy,
    'interval': {label: wilson(hits.sum(), len(hits)) for label, hits in ours.hits.items()},
    'mean_accuracy': float(np.mean(list(accuracy.values()))),
    'worst_subset': min(accuracy, key=accuracy.__getitem__),
  }
  behind = {label: _differences(experts[label], ours, label) for label in accuracy if label in experts}
  ahead = {
    label: _differences(ours, reference, label)
    for label in accuracy
    if reference is not None and label in reference.hits
  }
  for name, found in (('regret', behind), ('difference', ahead)):
    row[name] = {label: float(found[label].mean()) if label in found else None for label in accuracy}
    row[f'{name}_interval'] = {
      label: difference_interval(found[label]) if label in found else None for label in accuracy
    }
    over_subsets = np.mean(list(found.values()), axis=0) if found else None
    row[f'mean_{name}'] = None if over_subsets is None else float(over_subsets.mean())
    row[f'mean_{name}_interval'] = None if over_subsets is None else difference_interval(over_subsets)
  row['max_regret'] = max((value for value in row['regret'].values() if value is not None), default=None)
  return row


def _differences(one: Hits, other: Hits, label: str) -> np.ndarray:
  _check_same_images(one, other)
  return one.hits[label] - other.hits[label]


def _check_same_images(one: Hits, other: Hits) -> None:
  if not one.same_images(other):
    raise InputError(
      f'runs evaluated on different images ({_first(one)} ... and {_first(other)} ...) cannot be compared; '
      'evaluate all on the same split'
    )


def _first(hits: Hits) -> str:
  return f'{hits.ids[0]} of class {hits.classes[0]}'
