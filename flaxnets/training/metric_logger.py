"""Reports on a run while it trains, in metrics.jsonl, TensorBoard and a progress bar, without delaying it."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from absl import logging
from tensorboardX import SummaryWriter
from tqdm import tqdm

from flaxnets.errors import InputError
from flaxnets.runtime import atomic

MAX_SKIPPED = 50  # steps in a row without a finite loss after which the run ends: it will not recover
# Without tqdm's steps/s, which would count compilation and validation: images/s beside it does not.
BAR = '{l_bar}{bar}| {n_fmt}/{total_fmt} steps [{elapsed}<{remaining}{postfix}]'
REMEDY = 'try a lower train.learning_rate, train.warmup_epochs or train.clip_norm'


class MetricLogger:
  """Logs metrics. Those of a step are read only after the next step was dispatched to the devices.

  Attributes:
    replaced: number of training examples so far whose image was unreadable, so that another one replaced it.

  Args:
    workdir: the run's folder.
    start: steps taken before; later lines of metrics.jsonl are removed, because they will be written again.
    steps: steps of the complete run.
    batch_size: examples per step.
    writing: whether this process writes; with several hosts only the first does.
  """

  def __init__(self, workdir: pathlib.Path, start: int, steps: int, batch_size: int, writing: bool = True):
    self.replaced = 0
    self._batch_size, self._writing = batch_size, writing
    self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
    self._unbroken = 0
    self._clock_began, self._clock_stood = time.perf_counter(), 0.0
    if writing:
      path = workdir / 'metrics.jsonl'
      _forget_after(path, start)
      self._lines = path.open('a')
      self._board = SummaryWriter(str(workdir / 'tensorboard'), purge_step=start + 1 if start else None)
      self._bar = tqdm(total=steps, initial=start, dynamic_ncols=True, smoothing=0.1, bar_format=BAR)

  def dispatched(self, step: int, metrics: dict[str, jax.Array], *, every: int) -> None:
    """Takes the metrics of a step that was just dispatched; writes those of the steps before when they are due.

    Raises:
      InputError: when the loss has not been finite for MAX_SKIPPED steps.
    """
    if self._waiting and self._waiting[-1][0] % every == 0:
      self._flush()
    self._waiting.append((step, metrics))

  def _flush(self) -> None:
    """Writes the means over the waiting steps, and waits for the last of them where it is still being computed."""
    if not self._waiting:
      return
    step, rows = self._waiting[-1][0], jax.device_get([metrics for _, metrics in self._waiting])
    self._waiting.clear()
    now = time.perf_counter()
    rate = len(rows) * self._batch_size / max(now - self._clock_began - self._clock_stood, 1e-9)
    self._clock_began, self._clock_stood = now, 0.0
    finite = [row for row in rows if np.isfinite(row['loss']) and np.isfinite(row['gradient_norm'])]
    values: dict[str, float | None] = {
      name: float(np.mean([row[name] for row in finite])) if finite else None
      for name in ('loss', 'accuracy', 'gradient_norm')
    }
    values |= {
      'learning_rate': float(rows[-1]['learning_rate']),
      'skipped_steps': int(rows[-1]['skipped']),
      'replaced_images': self.replaced,
      'images_per_second': round(rate, 1),
    }
    self.write(step, 'train', values)
    if self._writing:
      self._bar.set_postfix_str(f'loss {_short(values["loss"])}, {rate:,.0f} images/s', refresh=False)
      self._bar.update(step - self._bar.n)
    self._watch(step, len(rows), len(rows) - len(finite))

  def _watch(self, step: int, steps: int, skipped: int) -> None:
    if skipped:
      logging.warning('%d of the %d steps up to %d had no finite loss and changed nothing', skipped, steps, step)
    self._unbroken = self._unbroken + steps if skipped == steps else 0
    if self._unbroken >= MAX_SKIPPED:
      raise InputError(f'the loss has not been finite for {self._unbroken} steps up to step {step}; {REMEDY}')

  def write(self, step: int, split: str, values: Mapping[str, float | None]) -> None:
    """One line of metrics.jsonl, and the same for TensorBoard."""
    if not self._writing:
      return
    self._lines.write(json.dumps({'step': step, 'split': split, **values}) + '\n')
    self._lines.flush()
    for name, value in values.items():
      if value is not None:
        self._board.add_scalar(f'{split}/{name}', value, step)

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
    self._flush()
    if self._writing:
      self._bar.close()
      self._lines.close()
      self._board.close()


def _short(loss: float | None) -> str:
  """A loss in a few characters, whatever its size."""
  if loss is None:
    return 'not finite'
  return f'{loss:.3f}' if abs(loss) < 1e4 else f'{loss:.1e}'


def _forget_after(path: pathlib.Path, step: int) -> None:
  """Removes the lines after a step, and a last line that a crash cut short."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    try:
      if json.loads(line)['step'] <= step:
        kept.append(line)
    except (json.JSONDecodeError, KeyError):
      logging.warning('%s: removed a corrupt line', path)
  atomic.write_text(path, ''.join(f'{line}\n' for line in kept))
