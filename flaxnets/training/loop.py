"""The training loop. Its order: batch, step, validate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from flaxnets import config as configs
from flaxnets.analysis.text import counted
from flaxnets.data import batches
from flaxnets.errors import InputError
from flaxnets.evaluation import recalibrate, splits
from flaxnets.inference.network import Network
from flaxnets.runtime import devices
from flaxnets.runtime.checkpoint import METRIC
from flaxnets.training import announce
from flaxnets.training.divergence import REMEDY, Diverged, Divergence
from flaxnets.training.metric_logger import MetricLogger
from flaxnets.training.preemption import PREEMPTED, Preempted, StopSignal
from flaxnets.training.progress import Progress
from flaxnets.training.saving import Saver
from flaxnets.training.setup import Setup, prepare
from flaxnets.training.step import TrainState, all_finite


def run(config: ml_collections.ConfigDict, workdir: str) -> int:
  """Trains or resumes, and recalibrates if the config asks for it; returns the exit code.

  Raises:
    InputError: see `prepare` and `train`.
  """
  with contextlib.closing(prepare(config, workdir)) as setup:
    try:
      train(setup)
    except Preempted as notice:
      print(f'flaxnets train: {notice}', file=sys.stderr)
      return PREEMPTED
    if config.train.recalibrate:
      recalibrate.run(workdir, subsets=config.evaluate.subsets)
  return 0


def train(setup: Setup) -> Progress:
  """Trains to the end, or until train.patience validations in a row bring no improvement.

  Args:
    setup: from `prepare`. Its state is donated to the first step: train it once.

  Returns:
    The outcome of the validations.

  Raises:
    Preempted: after saving, when the process got SIGTERM, SIGINT or SIGHUP or the cluster announced its end.
    Diverged: if the loss is unusable for too many steps in a row; see `flaxnets.training.divergence`.
    InputError: for unreadable examples (where they are not to be skipped), weights that are not finite, or a last
      checkpoint that could not be saved.
  """
  start, progress = int(setup.state.step), Progress.from_saved(setup.saved)
  if start >= setup.lengths.steps or progress.exhausted(setup.config.train.patience):
    _print(announce.nothing_left(setup, progress, start))
    return progress
  _print(announce.beginning(setup))
  saver = Saver(setup.checkpoints)
  current = _Current(setup.state, start, progress)
  with contextlib.ExitStack() as stack:
    stack.callback(saver.settle)
    logger = stack.enter_context(contextlib.closing(_logger(setup, start, saver)))
    stream = stack.enter_context(contextlib.closing(_training_batches(setup, start)))
    stop = stack.enter_context(StopSignal())
    try:
      _loop(setup, current, stream, logger, saver, stop)
    except Diverged as error:
      saver.settle()
      if saver.saved is not None:
        raise
      _save(setup, current, None, logger, saver)  # to look at; the steps that diverged have not changed it
      saver.finish(current.done)
      raise Diverged(f'{error}. What the first steps have trained is saved as step {current.done:,}') from None
  _print(announce.ending(setup, current.progress, current.done))
  return current.progress


@dataclasses.dataclass
class _Current:
  """Where a run is: its state, the steps taken, and the outcome of the validations."""

  state: TrainState
  done: int
  progress: Progress


def _loop(
  setup: Setup, current: _Current, stream: batches.Batches, logger: MetricLogger, saver: Saver, stop: StopSignal
) -> None:
  """Takes the remaining steps."""
  config, lengths, before, start = setup.config, setup.lengths, current.progress, current.done
  feed = _compiled_first(setup, devices.to_devices(map(_seen_by_step, stream), setup.mesh), logger)
  for batch in itertools.islice(feed, lengths.steps - current.done):
    if stop.asked and current.done == start:  # while the step was compiled: there is nothing to save
      raise Preempted(f'stopped before step {start + 1}; the same command resumes the run')
    done = current.done + 1
    current.state, metrics = setup.steps_after(done - 1)[0](current.state, batch)
    current.done = done
    logger.dispatched(done, metrics, every=config.train.log_every)
    last = done == lengths.steps
    stopping = stop.asked or setup.checkpoints.reached_preemption(done)
    measured, improved = None, False
    if last or done % lengths.evaluate_every == 0:
      measured = _validate(setup, current.state, done, logger, first=current.progress is before)
      current.progress = current.progress.after(measured[METRIC])
      improved = not current.progress.waited
    over = last or current.progress.exhausted(config.train.patience)
    if over:
      logger.divergence.check_end(done, lengths.steps)
    if over or stopping or measured or done % lengths.save_every == 0:
      _save(setup, current, measured, logger, saver, needed=over or stopping or improved)
    if over or stopping:
      saver.finish(done)
    if over:
      return
    if stopping:
      raise Preempted(f'stopped at step {done} of {lengths.steps}, saved; the same command resumes the run')


def _logger(setup: Setup, start: int, saver: Saver) -> MetricLogger:
  train = setup.config.train
  return MetricLogger(
    setup.workdir,
    start,
    setup.lengths.steps,
    train.batch_size,
    jax.process_index() == 0,
    divergence=Divergence(train.max_skipped, train.max_loss, lambda: str(saver)),
    replaced=setup.saved.get('replaced', 0),
  )


def _print(text: str) -> None:
  if jax.process_index() == 0:
    print(text, flush=True)


def _compiled_first(
  setup: Setup, feed: Iterator[dict[str, jax.Array]], logger: MetricLogger
) -> Iterator[dict[str, jax.Array]]:
  """The batches; compiles the remaining steps for the first of them, while the clock of images/s stands still."""
  first = next(feed)
  with logger.pause(), logger.status('compiling the training step'):
    for step in dict.fromkeys(setup.steps_after(int(setup.state.step))):
      step.lower(setup.state, first).compile()
  yield first
  yield from feed


def _training_batches(setup: Setup, start: int) -> batches.Batches:
  data = setup.config.data
  return batches.train_batches(
    setup.data.train,
    batch_size=setup.config.train.batch_size,
    seed=setup.config.seed,
    start=start,
    host=jax.process_index(),
    hosts=jax.process_count(),
    threads=data.threads,
    workers=data.workers,
    on_bad_image=data.on_bad_image,
  )


def _seen_by_step(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays of a batch that the step takes."""
  return {key: batch[key] for key in ('image', 'size', 'label', 'present', 'skipped')}


def _validate(setup: Setup, state: TrainState, step: int, logger: MetricLogger, first: bool) -> dict[str, Any]:
  """Measures, logs and shows the accuracy of every subset, and their mean, on the validation split.

  The first validation of a process compiles a program per subset, and says so.
  """
  config, source = setup.config, setup.data.validation
  stream: Iterable[Mapping[str, Any]] = batches.evaluation_batches(
    source,
    batch_size=config.evaluate.batch_size,
    host=jax.process_index(),
    hosts=jax.process_count(),
    threads=config.data.threads,
    on_bad_image=config.data.on_bad_image,
  )
  total = math.ceil(len(source) / config.evaluate.batch_size)
  action = f'{"compiling the validation of" if first else "validating"} {counted(len(setup.data.subsets), "subset")}'
  if first:  # images on another scale would choose the wrong best step
    variables = state.variables()
    network = Network(config, setup.metadata, variables, step, ema=state.ema is not None)
    stream = splits.check_scale(network, source, stream)
  with logger.pause(), logger.status(action) as show:
    judged, indices = setup.evaluator(state.variables(), _shown(stream, total, show))
  if not len(indices):
    raise InputError(f'{source.name}: none of its {len(source)} examples can be read')
  accuracies = {setup.data.channels.label(subset): result.accuracy for subset, result in judged.items()}
  loss = float(np.mean([result.loss for result in judged.values()]))
  measured = {
    METRIC: float(np.mean(list(accuracies.values()))),
    'loss': loss if np.isfinite(loss) else None,
    **{f'accuracy/{name}': accuracy for name, accuracy in accuracies.items()},
  }
  logger.write(step, 'validation', measured)
  logger.say(announce.validated(step, accuracies))
  return measured


def _shown(stream: Iterable[Mapping[str, Any]], total: int, show: Callable[[str], None]) -> Iterator[Mapping[str, Any]]:
  """The batches of a validation. The bar counts them from the second one on."""
  for number, batch in enumerate(stream, 1):
    if number > 1:
      show(f'validating, batch {number} of {total}')
    yield batch


def _save(
  setup: Setup,
  current: _Current,
  measured: Mapping[str, float] | None,
  logger: MetricLogger,
  saver: Saver,
  *,
  needed: bool = True,
) -> None:
  """Saves a checkpoint. While the run diverges, only one that is needed: others would replace good ones.

  Raises:
    InputError: if the weights or statistics are not finite; such a checkpoint would be of no use, and could replace a
      good one. Or if the folder is no longer this run's.
  """
  step, state = current.done, current.state
  setup.lock.check()
  with logger.pause():
    if logger.divergence.streak and not needed:
      return
    if not jax.jit(all_finite)((state.params, state.batch_stats, state.ema)):
      saver.settle()
      raise InputError(
        f'the weights are not finite after step {step:,}, and were not saved; last checkpoint: {saver}; {REMEDY}'
      )
    meta = {
      'config': configs.to_json(setup.config),
      'metadata': setup.metadata.to_json(),
      'position': step * setup.config.train.batch_size,
      **setup.data.digests,
      'replaced': logger.replaced,
      'progress': dataclasses.asdict(current.progress),
    }
    saver.save(step, state, meta, measured)
