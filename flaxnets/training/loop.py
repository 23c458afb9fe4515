"""The training loop. Its order: batch, step, validate, save."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from flaxnets import config as configs
from flaxnets.data import batches
from flaxnets.errors import InputError
from flaxnets.evaluation import recalibrate
from flaxnets.runtime import devices
from flaxnets.runtime.checkpoint import METRIC
from flaxnets.training.metric_logger import MetricLogger
from flaxnets.training.preemption import PREEMPTED, Preempted, StopSignal
from flaxnets.training.setup import Setup, prepare
from flaxnets.training.step import TrainState


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


def train(setup: Setup) -> dict[str, float]:
  """Trains to the end.

  Args:
    setup: from `prepare`. Its state is donated to the first step: train it once.

  Returns:
    The last validation's metrics.

  Raises:
    Preempted: after saving, when the process got SIGTERM or the cluster announced its end.
    InputError: for unreadable examples (where they are not to be skipped), or a loss that is never finite.
  """
  config, lengths, state = setup.config, setup.lengths, setup.state
  start = int(state.step)
  with contextlib.ExitStack() as stack:
    stack.callback(setup.checkpoints.wait)
    logger = stack.enter_context(
      contextlib.closing(
        MetricLogger(setup.workdir, start, lengths.steps, config.train.batch_size, jax.process_index() == 0)
      )
    )
    stream = stack.enter_context(contextlib.closing(_training_batches(setup, start)))
    stop = stack.enter_context(StopSignal())
    feed = devices.to_devices(_counting(stream, logger), setup.mesh)
    measured = None
    for done in range(start + 1, lengths.steps + 1):
      state, metrics = setup.step(state, next(feed))
      logger.dispatched(done, metrics, every=config.train.log_every)
      last = done == lengths.steps
      stopping = stop.asked or setup.checkpoints.reached_preemption(done)
      measured = _validate(setup, state, done, logger) if last or done % lengths.evaluate_every == 0 else None
      if last or stopping or measured or done % lengths.save_every == 0:
        _save(setup, state, done, measured, logger)
      if stopping and not last:
        raise Preempted(f'stopped at step {done} of {lengths.steps}, saved; the same command resumes the run')
  return measured or {}


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


def _counting(stream: Iterable[dict[str, Any]], logger: MetricLogger) -> Iterator[dict[str, Any]]:
  """The arrays of each batch that the step takes. The logger counts the images that replace unreadable ones."""
  for batch in stream:
    logger.replaced += int(batch['skipped'].sum())
    yield {key: batch[key] for key in ('image', 'size', 'label', 'present')}


def _validate(setup: Setup, state: TrainState, step: int, logger: MetricLogger) -> dict[str, float]:
  """Measures, logs and shows the accuracy of every subset, and their mean, on the validation split."""
  config, source = setup.config, setup.data.validation
  with logger.pause():
    judged, indices = setup.evaluator(
      state.variables(),
      batches.evaluation_batches(
        source,
        batch_size=config.evaluate.batch_size,
        host=jax.process_index(),
        hosts=jax.process_count(),
        threads=config.data.threads,
        on_bad_image=config.data.on_bad_image,
      ),
    )
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
  listed = ', '.join(f'{name} {accuracy:.1%}' for name, accuracy in accuracies.items())
  logger.say(f'step {step}: validation accuracy {measured[METRIC]:.1%} on average ({listed})')
  return measured


def _save(
  setup: Setup, state: TrainState, step: int, measured: Mapping[str, float] | None, logger: MetricLogger
) -> None:
  meta = {
    'config': configs.to_json(setup.config),
    'metadata': setup.metadata.to_json(),
    'position': step * setup.config.train.batch_size,
    **setup.data.digests,
    'metrics': dict(measured or {}),
  }
  with logger.pause():
    setup.checkpoints.save(step, state, meta, measured)
