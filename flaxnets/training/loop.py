"""The training loop: evaluate, save, next batch, step."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from clu import parameter_overview

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.augment import presence
from flaxnets.data import batches, statistics
from flaxnets.errors import InputError
from flaxnets.evaluation import recalibrate
from flaxnets.evaluation.evaluator import Evaluator
from flaxnets.inference.metadata import Metadata
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime import devices
from flaxnets.runtime.checkpoint import METRIC, Checkpoints, digests
from flaxnets.runtime.workdir import claim_workdir
from flaxnets.training import optim
from flaxnets.training.metric_logger import MetricLogger
from flaxnets.training.preemption import PREEMPTED, Preempted, StopSignal
from flaxnets.training.step import TrainState, initial_state, make_train_step


class Trainer:
  """One training run: everything that a config and a workdir make together.

  Args:
    config: as configs/default.py has it, all fields.
    workdir: the run's folder; a run that lives there already goes on from its newest whole checkpoint.

  Raises:
    InputError: for anything in the config that cannot work.
  """

  def __init__(self, config: ml_collections.ConfigDict, workdir: str):
    self.config = config
    configs.check(config)
    self.mesh = devices.data_mesh()
    presence.check(config.presence.mode, config.presence.fill, config.presence.probability)
    if config.train.recalibrate:
      recalibrate.check_norm(config.model.norm)
    devices.check_batch(config.train.batch_size, self.mesh, 'train.batch_size')
    devices.check_batch(config.evaluate.batch_size, self.mesh, 'evaluate.batch_size')
    if config.train.batch_size % (config.train.accumulate * self.mesh.size):
      raise InputError(
        f'train.batch_size {config.train.batch_size} does not divide into {config.train.accumulate} '
        f'parts (train.accumulate) over {self.mesh.size} devices; choose a multiple of both'
      )
    self.source = experiment.open_source(config, 'train')
    self.validation = experiment.open_source(config, 'validation', classes=self.source.classes)
    self.channels = experiment.channel_set(config, self.source.channels)
    self.order = self.source.channels.order(self.channels.names)
    self.model = experiment.build_network(config, self.channels, len(self.source.classes))
    self.subsets = experiment.subsets(config, self.channels, config.evaluate.subsets)

    examples, batch = len(self.source), config.train.batch_size
    self.steps = max(round(config.train.epochs * examples / batch), 1)
    epoch = max(round(examples / batch), 1)
    self.evaluate_every = config.evaluate.every or epoch
    self.save_every = config.train.checkpoint_every or epoch
    self.schedule = optim.schedule(
      config.train.schedule,
      learning_rate=config.train.learning_rate,
      steps=self.steps,
      warmup_steps=round(config.train.warmup_epochs * examples / batch),
      drops=config.train.drops,
      drop_factor=config.train.drop_factor,
    )
    self.optimizer = optim.optimizer(
      self.schedule,
      momentum=config.train.momentum,
      nesterov=config.train.nesterov,
      weight_decay=config.train.weight_decay,
      clip_norm=config.train.clip_norm,
    )

    self.workdir = claim_workdir(workdir, configs.to_json(config))
    self.checkpoints = Checkpoints(self.workdir / 'checkpoints')
    self.labels = digests({'labels': self.source.labels})['labels']  # what tells that the examples are still the same
    restored = self.checkpoints.restore_latest()
    self.state, self.metadata = self._go_on(*restored) if restored else self._begin()
    self.fill = np.asarray(jax.device_get(self.state.channel_stats['stem']['standardize']['mean']))
    self.step = make_train_step(
      self.model,
      self.optimizer,
      self.schedule,
      self.mesh,
      experiment.training_view_of(config, self.order, self.source.canvas, self.fill),
      masked=config.presence.mode != 'none' or self.source.has_missing_channels,
      label_smoothing=config.train.label_smoothing,
      accumulate=config.train.accumulate,
      ema=config.train.ema,
    )
    self.evaluator = Evaluator(
      self.model,
      self.subsets,
      source_index=self.validation.channels.order(self.channels.names),
      image_size=config.image_size,
      resize=config.augment.evaluation_resize,
      fill=self.fill,
      has_missing_channels=self.validation.has_missing_channels,
      mesh=self.mesh,
    )

  def _begin(self) -> tuple[TrainState, Metadata]:
    """A fresh state, with statistics measured on the training split."""
    measured = experiment.statistics_of(
      statistics.measure(
        self.source,
        examples=self.config.data.statistics_examples,
        seed=self.config.seed,
        on_bad_image=self.config.data.on_bad_image,
      ),
      self.order,
    )
    metadata = Metadata(
      self.channels,
      tuple(self.source.classes),
      str(np.dtype(self.source.dtype)),
      tuple(measured['low'].tolist()),
      tuple(measured['high'].tolist()),
    )
    fresh = functools.partial(self._fresh_state, measured)
    return jax.jit(fresh, out_shardings=devices.replicated(self.mesh))(), metadata

  def _go_on(self, state: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[TrainState, Metadata]:
    """A checkpoint's."""
    metadata = Metadata.from_saved(meta)
    if metadata.channels != self.channels or metadata.classes != tuple(self.source.classes):
      raise InputError(f'{self.workdir}: the data have other channels or classes now than when the run began')
    if meta.get('labels', self.labels) != self.labels:
      raise InputError(
        f'{self.workdir}: {self.source.name} has other examples now than when the run began, so that '
        'their order would not go on; put the data right or choose another --workdir'
      )
    state = TrainState.from_saved(jax.eval_shape(self._fresh_state), state)
    return jax.device_put(state, devices.replicated(self.mesh)), metadata

  def _fresh_state(self, measured: Mapping[str, Any] | None = None) -> TrainState:
    images = np.zeros((1, self.config.image_size, self.config.image_size, len(self.channels)), np.float32)
    variables = self.model.init(jax.random.key(self.config.seed), images)
    if measured is not None:
      variables = put_statistics(variables, measured)
    return initial_state(variables, self.optimizer, ema=self.config.train.ema > 0)

  def train(self) -> dict[str, float]:
    """Trains to the end.

    Returns:
      The last validation's metrics.

    Raises:
      Preempted: after saving, when the process got SIGTERM or the cluster announced its end.
      InputError: for unreadable examples (where they are not to be skipped), or a loss that is never finite.
    """
    config, start = self.config, int(self.state.step)
    logging.info('\n%s', parameter_overview.get_parameter_overview(self.state.params, include_stats=False))
    journal = MetricLogger(self.workdir, start, self.steps, config.train.batch_size, jax.process_index() == 0)
    stream = batches.train_batches(
      self.source,
      batch_size=config.train.batch_size,
      seed=config.seed,
      start=start,
      host=jax.process_index(),
      hosts=jax.process_count(),
      threads=config.data.threads,
      workers=config.data.workers,
      on_bad_image=config.data.on_bad_image,
    )
    with contextlib.ExitStack() as stack:
      for each in (self.checkpoints, journal, stream):
        stack.enter_context(contextlib.closing(each))
      stop = stack.enter_context(StopSignal())
      feed = devices.to_devices(_counting(stream, journal), self.mesh)
      measured = None
      for done in range(start + 1, self.steps + 1):
        self.state, metrics = self.step(self.state, next(feed))
        journal.dispatched(done, metrics, every=config.train.log_every)
        last = done == self.steps
        stopping = stop.asked or self.checkpoints.reached_preemption(done)
        measured = self._validate(done, journal) if last or done % self.evaluate_every == 0 else None
        if last or stopping or measured or done % self.save_every == 0:
          self._save(done, measured, journal)
        if stopping and not last:
          raise Preempted(f'stopped at step {done} of {self.steps}, saved; the same command goes on from there')
    return measured or {}

  def _validate(self, step: int, journal: MetricLogger) -> dict[str, float]:
    """Accuracy of every subset and their mean, on the validation split; written down and shown."""
    data = self.config.data
    with journal.pause():
      judged, indices = self.evaluator(
        self.state.variables(),
        batches.evaluation_batches(
          self.validation,
          batch_size=self.config.evaluate.batch_size,
          host=jax.process_index(),
          hosts=jax.process_count(),
          threads=data.threads,
          on_bad_image=data.on_bad_image,
        ),
      )
    if not len(indices):
      raise InputError(f'{self.validation.name}: none of its {len(self.validation)} examples can be read')
    accuracies = {self.channels.label(subset): result.accuracy for subset, result in judged.items()}
    loss = float(np.mean([result.loss for result in judged.values()]))
    measured = {
      METRIC: float(np.mean(list(accuracies.values()))),
      'loss': loss if np.isfinite(loss) else None,
      **{f'accuracy/{name}': accuracy for name, accuracy in accuracies.items()},
    }
    journal.write(step, 'validation', measured)
    each = ', '.join(f'{name} {accuracy:.1%}' for name, accuracy in accuracies.items())
    journal.say(f'step {step}: validation accuracy {measured[METRIC]:.1%} on average ({each})')
    return measured

  def _save(self, step: int, measured: Mapping[str, float] | None, journal: MetricLogger) -> None:
    meta = {
      'config': configs.to_json(self.config),
      'metadata': self.metadata.to_json(),
      'position': step * self.config.train.batch_size,
      'labels': self.labels,
      'metrics': dict(measured or {}),
    }
    with journal.pause():
      self.checkpoints.save(step, self.state, meta, measured)


def _counting(stream: Iterable[dict[str, Any]], journal: MetricLogger) -> Iterator[dict[str, Any]]:
  """What the step takes of each batch; the places where another image stands in for an unreadable one are counted."""
  for batch in stream:
    journal.replaced += int(batch['skipped'].sum())
    yield {key: batch[key] for key in ('image', 'size', 'label', 'present')}


def run(config: ml_collections.ConfigDict, workdir: str) -> int:
  """What train_main.py does: trains, or goes on, and recalibrates if asked; returns the exit code."""
  try:
    Trainer(config, workdir).train()
  except Preempted as notice:
    print(f'train_main.py: {notice}', file=sys.stderr)
    return PREEMPTED
  if config.train.recalibrate:
    recalibrate.run(workdir, subsets=config.evaluate.subsets)
  return 0
