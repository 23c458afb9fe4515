"""How a run is told to stop: SIGTERM, or the notice of a cluster to several processes."""

from __future__ import annotations

import signal
from typing import Any

import jax

PREEMPTED = 75  # the exit code of a run that saved because it was told to stop: EX_TEMPFAIL, "try again"


class Preempted(Exception):
  """The run was told to stop, and saved first."""


class StopSignal:
  """Within this context SIGTERM only sets `asked`, for the loop to stop at a whole step.

  Of several processes, each would stop at a step of its own. There the signal is left to the service that
  `jax.distributed.initialize` starts, whose handler this one would replace: it has all of them agree on a step, see
  `Checkpoints.reached_preemption`.
  """

  asked = False

  def __enter__(self) -> StopSignal:
    self._alone = jax.process_count() == 1
    if self._alone:
      self._before = signal.signal(signal.SIGTERM, self._note)
    return self

  def _note(self, *_: Any) -> None:
    self.asked = True

  def __exit__(self, *_: Any) -> None:
    if self._alone:
      signal.signal(signal.SIGTERM, self._before)
