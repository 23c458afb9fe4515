"""The progress of a run: its best validation accuracy, and whether it should stop early."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Progress:
  """The outcome of the validations so far. It is saved in every checkpoint.

  Attributes:
    best: the highest accuracy so far (mean over the subsets, a fraction); None before the first validation.
    waited: number of validations since `best` was reached.
  """

  best: float | None = None
  waited: int = 0

  @classmethod
  def from_saved(cls, meta: Mapping[str, Any]) -> Progress:
    """The progress in the meta of a checkpoint. Version 0.1.0 did not save it: then no validation has been measured."""
    return cls(**meta.get('progress', {}))

  def after(self, accuracy: float) -> Progress:
    """The progress after another validation. An equal accuracy does not count as an improvement."""
    if self.best is None or accuracy > self.best:
      return Progress(accuracy)
    return dataclasses.replace(self, waited=self.waited + 1)

  def exhausted(self, patience: int) -> bool:
    """Whether the last `patience` validations brought no improvement. Always False for a patience of 0."""
    return 0 < patience <= self.waited
