"""What a training run consists of, from its config and its folder. Everything is checked before anything is written."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.augment import presence
from flaxnets.errors import InputError
from flaxnets.evaluation import recalibrate
from flaxnets.evaluation.evaluator import Evaluator
from flaxnets.inference.metadata import Metadata
from flaxnets.nn.stem import pixel_statistics
from flaxnets.runtime import devices
from flaxnets.runtime.checkpoint import Checkpoints, SaveFailed
from flaxnets.runtime.workdir import WorkdirLock, claim_workdir, has_checkpoint, update_config
from flaxnets.training import layers, optim, resolution
from flaxnets.training.data import Data, balanced_weights, check_views, open_data
from flaxnets.training.initial import InitialState
from flaxnets.training.step import TrainState, make_train_step


@dataclasses.dataclass(frozen=True)
class Lengths:
  """How long a run is, and how often it validates and saves, all in steps."""

  steps: int
  warmup: int
  evaluate_every: int
  save_every: int

  @classmethod
  def of(cls, config: ml_collections.ConfigDict, examples: int) -> Lengths:
    """Epochs of so many examples as steps; 0 for `every` in the config is once an epoch."""
    per_epoch = examples / config.train.batch_size
    epoch = max(round(per_epoch), 1)
    return cls(
      steps=max(round(config.train.epochs * per_epoch), 1),
      warmup=round(config.train.warmup_epochs * per_epoch),
      evaluate_every=config.evaluate.every or epoch,
      save_every=config.train.checkpoint_every or epoch,
    )


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run that is ready to train.

  Attributes:
    config: all fields.
    workdir: the run's folder.
    mesh: the devices.
    data: the splits.
    lengths: of the run, in steps.
    metadata: what is saved beside the weights.
    state: to begin with, new or restored. The first step donates its buffers: afterwards they are gone.
    saved: the meta of the checkpoint that was restored; empty for a new run.
    steps: a step of (state, batch) for each side of the training images, from `flaxnets.training.step.make_train_step`.
    evaluator: evaluates on the validation split.
    checkpoints: of this run.
    lock: on the folder.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  mesh: Mesh
  data: Data
  lengths: Lengths
  metadata: Metadata
  state: TrainState
  saved: dict[str, Any]
  steps: dict[int, jax.stages.Wrapped]
  evaluator: Evaluator
  checkpoints: Checkpoints
  lock: WorkdirLock

  def steps_after(self, done: int) -> list[jax.stages.Wrapped]:
    """The step that follows `done` others, and then those for the sides that follow."""
    sides = resolution.sides_after(experiment.training_sides(self.config), self.lengths.steps, done)
    return [self.steps[side] for side in sides]

  def close(self) -> None:
    """Waits for the checkpoint that is being written, and releases the folder."""
    try:
      self.checkpoints.close()
    except SaveFailed as error:  # the run was ended by another error, or has said so already
      logging.warning('%s: the last checkpoint was not saved: %s', self.checkpoints.directory, error)
    finally:
      self.lock.close()


def check(config: ml_collections.ConfigDict) -> None:
  """Everything about a config that can be checked without its data.

  Raises:
    InputError: for anything in it that cannot work.
  """
  configs.check(config)
  mesh, train = devices.data_mesh(), config.train
  resolution.check(train.image_sizes, train.patience)
  layers.check(train.frozen, train.layer_decay)
  for name in ('frozen', 'freeze_statistics'):
    if train[name] and not train.init_from:
      raise InputError(f'train.{name} needs train.init_from, the run whose weights and statistics it keeps; give both')
  if train.freeze_statistics and config.model.norm != 'batch':
    raise InputError(f'train.freeze_statistics has no effect with model.norm={config.model.norm}: it has no statistics')
  sampling = config.presence
  presence.check(sampling.mode, sampling.fill, sampling.probability, bool(sampling.subsets))
  if sampling.subsets and sampling.mode != 'listed':
    raise InputError(f'presence.subsets has no effect with presence.mode={sampling.mode}; set presence.mode=listed')
  if train.recalibrate:
    recalibrate.check_norm(config.model.norm)
  devices.check_batch(train.batch_size, mesh, 'train.batch_size')
  devices.check_batch(config.evaluate.batch_size, mesh, 'evaluate.batch_size')
  if train.batch_size % (train.accumulate * mesh.size):
    raise InputError(
      f'train.batch_size {train.batch_size} does not divide into {train.accumulate} microbatches (train.accumulate) '
      f'over {mesh.size} devices; choose a multiple of {train.accumulate * mesh.size}'
    )


def prepare(config: ml_collections.ConfigDict, workdir: str) -> Setup:
  """Opens the data, builds the network, and restores the run that is in the folder or begins a new one.

  The caller closes what it returns.

  Args:
    config: all fields, see `flaxnets.config`.
    workdir: the run's folder; a run found there is resumed from its newest intact checkpoint.

  Raises:
    InputError: for anything in the config or the data that cannot work, or a folder that another run uses.
  """
  check(config)
  mesh, data = devices.data_mesh(), open_data(config)
  check_views(config, data)
  lengths = Lengths.of(config, len(data.train))
  model = experiment.build_network(config, data.channels, len(data.train.classes))
  schedule, optimizer = _optimizer(config, lengths)
  initial = InitialState(config, model, optimizer, data.train, data.channels, mesh)

  # Of process 0, since those that begin a run take part in other sums than those that resume one.
  resumed = bool(devices.from_process_0(lambda: {'resumed': has_checkpoint(workdir)})['resumed'])
  if config.train.init_from and not resumed:
    initial = dataclasses.replace(initial, weights=initial.weights_from(config.train.init_from))

  with contextlib.ExitStack() as opened:
    lock = WorkdirLock(workdir)
    opened.callback(lock.close)
    # Measured before config.json is written. If a corrupt image ends the run here, the folder holds no config yet, and
    # the corrected command is not refused.
    new = None if resumed else initial.begin()
    folder = claim_workdir(workdir, configs.to_json(config), _may_change(config))
    checkpoints = Checkpoints(folder / 'checkpoints')
    opened.callback(checkpoints.close)
    restored = checkpoints.restore_latest()
    if restored:
      state, metadata = initial.resume(*restored, folder, data.digests)
      if int(state.step) > lengths.steps:
        raise InputError(
          f'{folder}: {int(state.step):,} steps were trained already, and train.epochs={config.train.epochs:g} are '
          f'{lengths.steps:,}; it may only be raised'
        )
    else:
      state, metadata = new or initial.begin()
    update_config(folder, configs.to_json(config))
    pixels = jax.device_get(pixel_statistics(state.variables()))
    setup = Setup(
      config=config,
      workdir=folder,
      mesh=mesh,
      data=data,
      lengths=lengths,
      metadata=metadata,
      state=state,
      saved=dict(restored[1]) if restored else {},
      steps=_train_steps(config, data, model, optimizer, schedule, mesh, pixels),
      evaluator=_evaluator(config, data, model, mesh, pixels['mean']),
      checkpoints=checkpoints,
      lock=lock,
    )
    opened.pop_all()  # the caller closes it
    return setup


def _may_change(config: ml_collections.ConfigDict) -> set[str]:
  """Fields that may differ from those that a run began with, since every step that was trained stays what it was.

  Moved data must hold the same training examples. `InitialState.resume` checks their ids, which for arrays are only
  numbers: arrays may not move. The number of epochs may grow if neither the learning rate nor the size of the training
  images depends on it. How images are read may change, and whether unreadable ones are skipped.
  """
  train = config.train
  constant = train.schedule == 'constant' or (train.schedule == 'piecewise' and not train.drops)
  constant = constant and len(set(train.image_sizes)) < 2
  fixed = {'data.root'} if config.data.source == 'arrays' else set()
  return {f'data.{name}' for name in configs.READING} - fixed | ({'train.epochs'} if constant else set())


def _optimizer(
  config: ml_collections.ConfigDict, lengths: Lengths
) -> tuple[optax.Schedule, optax.GradientTransformation]:
  train = config.train
  schedule = optim.schedule(
    train.schedule,
    learning_rate=train.learning_rate,
    steps=lengths.steps,
    warmup_steps=lengths.warmup,
    drops=train.drops,
    drop_factor=train.drop_factor,
  )
  optimizer = optim.optimizer(
    schedule,
    momentum=train.momentum,
    nesterov=train.nesterov,
    weight_decay=train.weight_decay,
    clip_norm=train.clip_norm,
  )
  return schedule, layers.by_layer(optimizer, frozen=train.frozen, layer_decay=train.layer_decay)


def _train_steps(
  config, data: Data, model, optimizer, schedule, mesh: Mesh, statistics: Mapping[str, np.ndarray]
) -> dict[int, jax.stages.Wrapped]:
  source_index = data.train.channels.order(data.channels.names)

  def step_at(side: int) -> jax.stages.Wrapped:
    return make_train_step(
      model,
      optimizer,
      schedule,
      mesh,
      experiment.training_view_of(config, source_index, data.train.canvas, statistics, data.listed, side),
      experiment.training_targets_of(config, source_index, len(data.train.classes), side),
      masked=config.presence.mode != 'none' or data.train.has_missing_channels,
      label_smoothing=config.train.label_smoothing,
      class_weights=balanced_weights(data.train) if config.train.class_weights == 'balanced' else None,
      accumulate=config.train.accumulate,
      ema=config.train.ema,
      max_loss=config.train.max_loss,
      frozen=config.train.frozen,
      freeze_statistics=config.train.freeze_statistics,
    )

  return {side: step_at(side) for side in dict.fromkeys(experiment.training_sides(config))}


def _evaluator(config, data: Data, model, mesh: Mesh, fill: np.ndarray) -> Evaluator:
  return Evaluator(
    model,
    data.subsets,
    source_index=data.validation.channels.order(data.channels.names),
    image_size=config.image_size,
    resize=config.augment.evaluation_resize,
    fill=fill,
    has_missing_channels=data.validation.has_missing_channels,
    mesh=mesh,
  )
