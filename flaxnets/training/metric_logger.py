"""Reports on a run while it trains, in metrics.jsonl, TensorBoard and a progress bar, without delaying it."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from tqdm import tqdm

from flaxnets.training.divergence import Divergence
from flaxnets.training.journal import Board, Journal

# Without tqdm's steps/s, which would count compilation and validation: images/s beside it does not.
BAR = '{l_bar}{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]'


class MetricLogger:
  """Logs metrics. Those of a step are read only after the next step was dispatched to the devices.

  Attributes:
    replaced: number of examples whose image was unreadable, so that another one replaced it, in the steps written so
      far.
    divergence: watches the losses.

  Args:
    workdir: the run's folder.
    start: steps taken before; later lines of metrics.jsonl are removed, because they will be written again.
    steps: steps of the complete run.
    batch_size: examples per step.
    writing: whether this process writes; with several hosts only the first does.
    divergence: watches the losses; None for the limits of `Divergence`.
    replaced: as the attribute, of the steps taken before.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    start: int,
    steps: int,
    batch_size: int,
    writing: bool = True,
    *,
    divergence: Divergence | None = None,
    replaced: int = 0,
  ):
    self.replaced, self.divergence = replaced, divergence or Divergence()
    self._batch_size, self._writing = batch_size, writing
    self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
    self._clock_began, self._clock_stood = time.perf_counter(), 0.0
    if writing:
      self._journal = Journal(workdir / 'metrics.jsonl', start)
      self._board = Board(workdir / 'tensorboard', start)
      self._bar = tqdm(total=steps, initial=start, dynamic_ncols=True, smoothing=0.1, bar_format=BAR)

  def dispatched(self, step: int, metrics: dict[str, jax.Array], *, every: int) -> None:
    """Takes the metrics of a step that was just dispatched; writes those of the steps before when they are due.

    Raises:
      Diverged: when too many steps in a row had no usable loss.
    """
    if self._waiting and self._waiting[-1][0] % every == 0:
      self._flush()
    self._waiting.append((step, metrics))

  def _flush(self) -> None:
    """Writes the means over the waiting steps, and waits for the last of them where it is still being computed."""
    if not self._waiting:
      return
    numbers, rows = [step for step, _ in self._waiting], jax.device_get([metrics for _, metrics in self._waiting])
    step = numbers[-1]
    self._waiting.clear()
    self.replaced += sum(int(row['replaced']) for row in rows)
    now = time.perf_counter()
    rate = len(rows) * self._batch_size / max(now - self._clock_began - self._clock_stood, 1e-9)
    self._clock_began, self._clock_stood = now, 0.0
    usable = [row for row in rows if row['usable']]
    values: dict[str, float | None] = {
      name: float(np.mean([row[name] for row in usable])) if usable else None
      for name in ('loss', 'accuracy', 'gradient_norm')
    }
    values |= {
      'learning_rate': float(rows[-1]['learning_rate']),
      'skipped_steps': int(rows[-1]['skipped']),
      'replaced_images': self.replaced,
      'images_per_second': float(f'{rate:.4g}'),  # a slow network has few
    }
    self.write(step, 'train', values)
    if self._writing:
      loss = float(rows[-1]['loss']) if values['loss'] is None else values['loss']
      self._bar.set_postfix_str(f'loss {_short(loss)}, {_rate(rate)} images/s', refresh=False)
      self._bar.update(step - self._bar.n)
    self.divergence.watch(list(zip(numbers, rows, strict=True)))

  def write(self, step: int, split: str, values: Mapping[str, float | None]) -> None:
    """One line of metrics.jsonl, and the same for TensorBoard."""
    if not self._writing:
      return
    self._journal.append(step, split, values)
    self._board.add(step, split, values)

  def say(self, text: str) -> None:
    """Prints a line above the progress bar."""
    if self._writing:
      self._bar.write(text)

  @contextlib.contextmanager
  def status(self, text: str) -> Iterator[Callable[[str], None]]:
    """Shows in front of the bar what is going on within; gives a function that changes the text."""
    self._describe(text)
    try:
      yield self._describe
    finally:
      self._describe('')

  def _describe(self, text: str) -> None:
    if self._writing:
      self._bar.set_description(text)  # shown at once

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Stops the clock of images_per_second; metrics that wait are written first."""
    self._flush()
    began = time.perf_counter()
    try:
      yield
    finally:
      self._clock_stood += time.perf_counter() - began

  def close(self) -> None:
    """Writes the metrics that wait, and closes the files."""
    try:
      self._flush()
    finally:
      if self._writing:
        self._bar.close()
        self._journal.close()
        self._board.close()


def _short(loss: float) -> str:
  """A loss in a few characters, whatever its size."""
  if not np.isfinite(loss):
    return 'not finite'
  return f'{loss:.3f}' if abs(loss) < 1e4 else f'{loss:.1e}'


def _rate(rate: float) -> str:
  return f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'
