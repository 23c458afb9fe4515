"""Saves the checkpoints of a run. A save that fails does not end a run of one process: the next save tries again.

It ends a run of several processes, because the others wait at a barrier for the one whose save has failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import logging

from flaxnets.errors import InputError
from flaxnets.runtime.checkpoint import Checkpoints, SaveFailed


class Saver:
  """Saves, and remembers what was saved.

  Attributes:
    saved: the step of the newest checkpoint on disk; None where there is none.

  Args:
    checkpoints: of the run.
  """

  def __init__(self, checkpoints: Checkpoints):
    self._checkpoints = checkpoints
    self.saved = max(checkpoints.steps(), default=None)
    self._pending: int | None = None
    self._reason = ''  # why the last attempt failed; '' where it did not

  def __str__(self) -> str:
    """The last checkpoint, in words."""
    return 'none' if self.saved is None else f'step {self.saved:,}'

  def save(self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
    """Starts a save; `finish` says whether it has succeeded."""
    self.settle()
    try:
      self._checkpoints.save(step, state, meta, metrics)
      self._pending = step
    except SaveFailed as error:
      self._note(step, error)

  def settle(self) -> None:
    """Waits for the save that is going on, and notes how it ended."""
    step, self._pending = self._pending, None
    try:
      self._checkpoints.wait()
    except SaveFailed as error:
      self._note(self.saved or 0 if step is None else step, error)
      return
    if step is None:
      return
    self.saved = step
    if self._reason:
      logging.warning('saved again, at step %d', step)
      self._reason = ''

  def _note(self, step: int, error: SaveFailed) -> None:
    if not self._reason:
      logging.warning(
        'the checkpoint of step %d was not saved: %s. Training goes on, and tries again at the next checkpoint; last '
        'checkpoint: %s',
        step,
        error,
        str(self),
      )
    self._reason = str(error)

  def finish(self, step: int) -> None:
    """Waits for the checkpoint of the last step.

    Raises:
      InputError: if it is not on disk, saying what is lost.
    """
    self.settle()
    if self.saved != step:
      first = (self.saved or 0) + 1
      lost = f'step {step:,} is' if first >= step else f'steps {first:,} to {step:,} are'
      reason = self._reason or 'not written'
      raise InputError(
        f'{self._checkpoints.directory}: {lost} not saved ({reason}); last checkpoint: {self}. '
        'The same command resumes the run from there, once the folder can be written'
      )
