"""How far a run has come: its best validation, and whether it should stop early."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Progress:
  """What the validations so far came to; every checkpoint holds it.

  Attributes:
    best: the highest mean accuracy over the subsets, a fraction; None before the first validation.
    waited: validations since then.
  """

  best: float | None = None
  waited: int = 0

  @classmethod
  def from_saved(cls, meta: Mapping[str, Any]) -> Progress:
    """From the meta of a checkpoint; nothing measured for version 0.1.0, which did not save it."""
    return cls(**meta.get('progress', {}))

  def after(self, accuracy: float) -> Progress:
    """With one more validation. An equal accuracy is no improvement."""
    if self.best is None or accuracy > self.best:
      return Progress(accuracy)
    return dataclasses.replace(self, waited=self.waited + 1)

  def exhausted(self, patience: int) -> bool:
    """Whether as many validations as `patience` brought no improvement; never for a patience of 0."""
    return 0 < patience <= self.waited
