"""How a run learns that it has to stop: SIGTERM, Ctrl-C, SIGHUP, or the notice of a cluster to several processes."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax

from flaxnets.runtime import interrupts

PREEMPTED = interrupts.AGAIN  # the exit code of a run that saved and stopped because of a signal


class Preempted(Exception):
  """The run was asked to stop, and saved first."""


class StopSignal:
  """Within this context SIGTERM, SIGINT (Ctrl-C) and SIGHUP only set `asked`: the loop stops after a complete step.

  The second signal does what it did before the context: it ends the run without saving. A signal that came earlier,
  but whose exception was lost, counts as the first.

  With several processes the handler is not installed, because each process would stop at a different step. The
  service that `jax.distributed.initialize` starts handles the signal there, and makes all processes agree on a step,
  see `Checkpoints.reached_preemption`. It gets an earlier signal as SIGTERM. Outside the main thread Python allows no
  handler, and none is installed.
  """

  asked = False

  def __enter__(self) -> StopSignal:
    several = jax.process_count() > 1
    self.asked = interrupts.arrived() and not several
    if interrupts.arrived() and several:
      signal.raise_signal(signal.SIGTERM)  # one that stops alone would leave the others waiting for it
    self._installed = not several and threading.current_thread() is threading.main_thread()
    if self._installed:
      # nohup ignores SIGHUP, and a shell ignores SIGINT in the background.
      heeded = [number for number in interrupts.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
      self._before = {number: signal.signal(number, self._note) for number in heeded}
    return self

  def _note(self, *_: Any) -> None:
    self.asked = True
    self._restore()

  def _restore(self) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def __exit__(self, *_: Any) -> None:
    if self._installed:
      self._restore()
