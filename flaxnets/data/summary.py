"""What a person should know of the data before training: sizes of splits and classes, and what looks wrong."""

from __future__ import annotations

import numpy as np

from flaxnets.data.source import Source


def describe(source: Source) -> str:
  """Examples and classes of a split in one line."""
  counts = np.bincount(source.labels, minlength=len(source.classes))
  return (
    f'{len(source):,} examples, {len(source.classes)} classes of {counts.min():,} to {counts.max():,} ({source.name})'
  )


def warnings_for(train: Source, validation: Source) -> list[str]:
  """One line for each thing that looks wrong with two splits."""
  del validation
  counts = np.bincount(train.labels, minlength=len(train.classes))
  return [f'class {train.classes[index]!r} has no training example' for index in np.flatnonzero(counts == 0)]
