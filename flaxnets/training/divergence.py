"""Notices that a run diverges: says so, counts, and ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from flaxnets.analysis.text import counted
from flaxnets.errors import InputError

REMEDY = 'try a lower train.learning_rate, train.warmup_epochs or train.clip_norm, with another --workdir'
_LATE = 10  # at the end of a run, a streak of this share of the limit (1 / _LATE) counts as divergence


class Diverged(InputError):
  """The loss has been unusable for too many steps in a row."""


class Divergence:
  """Watches the loss of every step.

  A step whose loss, gradient or running statistics are not finite, or whose loss is above `max_loss`, changes nothing
  in the compiled step (see `flaxnets.training.step`). Many of them in a row will not end by themselves.

  Attributes:
    streak: the number of unusable steps in a row up to the last step that was watched.

  Args:
    limit: of them, the number after which the run ends.
    max_loss: the highest loss that is not taken for divergence.
    last_checkpoint: says which the last checkpoint is, for messages.
  """

  def __init__(
    self, limit: int = 50, max_loss: float = float('inf'), last_checkpoint: Callable[[], str] = lambda: 'none'
  ):
    self.streak = 0
    self._limit, self._max_loss, self._last_checkpoint = limit, max_loss, last_checkpoint
    self._first = ''  # of the streak: its step, loss and rate

  def watch(self, steps: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Takes the numbers and metrics of steps, in their order.

    Raises:
      Diverged: if the streak has reached the limit.
    """
    unusable = []
    for step, row in steps:
      if row['usable']:
        self.streak = 0
        continue
      self.streak += 1
      said = f'step {step:,} has {self._why(row)} at a learning rate of {float(row["learning_rate"]):.3g}'
      unusable.append(said)
      if self.streak == 1:
        self._first = said
    if unusable:
      logging.warning(
        '%s; %d of the last %s changed nothing; last checkpoint: %s',
        unusable[0],
        len(unusable),
        counted(len(steps), 'step'),
        self._last_checkpoint(),
      )
    if self.streak >= self._limit:
      self._end(steps[-1][0])

  def check_end(self, step: int, steps: int) -> None:
    """At the end of a run of so many steps.

    Raises:
      Diverged: if its last steps, a tenth of the limit or all, were unusable.
    """
    if self.streak >= min(max(self._limit // _LATE, 1), steps):
      self._end(step)

  def _why(self, row: Mapping[str, Any]) -> str:
    loss = float(row['loss'])
    if not np.isfinite(loss):
      return f'a loss of {loss}'
    if loss > self._max_loss:
      return f'a loss of {loss:.3g}'
    if not np.isfinite(row['gradient_norm']):
      return f'a gradient that is not finite (loss {loss:.3g})'
    return f'running statistics that are not finite (loss {loss:.3g})'

  def _end(self, step: int) -> None:
    raise Diverged(
      f'the run has diverged: {self._first}, and so on for {counted(self.streak, "step")} up to step {step:,}, which '
      f'changed nothing; last checkpoint: {self._last_checkpoint()}; {REMEDY}'
    )
