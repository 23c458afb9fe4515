"""The state that a run begins with: new, or that of a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.data import statistics
from flaxnets.data.source import Source
from flaxnets.errors import InputError
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.restore import load
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime import devices
from flaxnets.training.step import TrainState, initial_state


@dataclasses.dataclass(frozen=True)
class InitialState:
  """Makes the first state of a run.

  Attributes:
    config: all fields.
    model: the network.
    optimizer: whose state is part of it.
    source: the training examples.
    channels: the network's.
    mesh: devices to put the state on.
    weights: 'params' and 'batch_stats' to begin with, see `weights_from`; None for random ones.
  """

  config: ml_collections.ConfigDict
  model: nn.Module
  optimizer: optax.GradientTransformation
  source: Source
  channels: ChannelSet
  mesh: Mesh
  weights: Mapping[str, Any] | None = None

  def begin(self) -> tuple[TrainState, Metadata]:
    """A new state, with the channel statistics of the training split; called by all processes.

    Process 0 measures them for all. Decoders of two versions give pixels that differ, and statistics that differ would
    give the copies of the state on two hosts other values.
    """
    measured = experiment.statistics_of(
      devices.from_process_0(self._measure), self.source.channels.order(self.channels.names)
    )
    metadata = Metadata(
      self.channels,
      tuple(self.source.classes),
      str(np.dtype(self.source.dtype)),
      tuple(measured['low'].tolist()),
      tuple(measured['high'].tolist()),
      canvas=experiment.canvas_of(self.config, self.source),
    )
    new = functools.partial(self._new, measured)
    state = jax.jit(new, out_shardings=devices.replicated(self.mesh))()
    return (self._with_weights(state) if self.weights else state), metadata

  def _measure(self) -> dict[str, np.ndarray]:
    data = self.config.data
    return statistics.measure(
      self.source,
      examples=data.statistics_examples,
      seed=self.config.seed,
      threads=data.threads,
      on_bad_image=data.on_bad_image,
    )

  def weights_from(self, folder: str) -> dict[str, Any]:
    """The 'params' and 'batch_stats' of another run's best step, for `train.init_from`.

    Channel statistics are not among them: those of the new training split are measured, because inputs are
    standardised, and absent channels predicted, for the data at hand.

    Raises:
      InputError: if there is no such run, or its network has other channels, classes or shapes.
    """
    net, prefix = load(folder, recalibrated=False), f'train.init_from={folder}'
    if net.channels.names != self.channels.names:
      raise InputError(
        f'{prefix}: its channels are {", ".join(net.channels.names)}, but this run has {", ".join(self.channels.names)}'
      )
    if len(net.classes) != len(self.source.classes):
      raise InputError(
        f'{prefix}: its head has {len(net.classes)} classes, but this run has {len(self.source.classes)}; '
        'take a run with the same number'
      )
    expected = jax.eval_shape(self._new)
    for name in ('params', 'batch_stats'):
      ours, theirs = _shapes(getattr(expected, name)), _shapes(net.variables[name])
      if differing := sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)):
        path = differing[0]
        raise InputError(
          f'{prefix}: {name}/{path} is {theirs.get(path, "absent")} there and {ours.get(path, "absent")} here; '
          "take a run with the same 'model' fields"
        )
    return {name: net.variables[name] for name in ('params', 'batch_stats')}

  def _with_weights(self, state: TrainState) -> TrainState:
    def placed() -> Any:  # copies, since the step donates its state
      return jax.device_put(jax.tree.map(np.array, dict(self.weights or {})), devices.replicated(self.mesh))

    return dataclasses.replace(state, **placed(), ema=placed() if self.config.train.ema > 0 else None)

  def resume(
    self, state: Mapping[str, Any], meta: Mapping[str, Any], workdir: pathlib.Path, examples: Mapping[str, str]
  ) -> tuple[TrainState, Metadata]:
    """The state of a checkpoint.

    Args:
      state, meta: as `flaxnets.runtime.checkpoint` restores them.
      workdir: for messages.
      examples: `flaxnets.data.examples.example_digests` of the training split as it is now.

    Raises:
      InputError: if the checkpoint belongs to other data or another network.
    """
    metadata = Metadata.from_saved(meta)
    if metadata.channels != self.channels or metadata.classes != tuple(self.source.classes):
      raise InputError(
        f'{workdir}: the data now have other channels or classes than when the run began; '
        'restore the data or choose another --workdir'
      )
    if metadata.dtype != str(np.dtype(self.source.dtype)):
      raise InputError(
        f'{workdir}: the pixels are {self.source.dtype} now, but were {metadata.dtype} when the run began; '
        'restore the data or choose another --workdir'
      )
    canvas = experiment.canvas_of(self.config, self.source)
    if metadata.canvas and metadata.canvas != canvas:  # version 0.1.0 saved none
      raise InputError(
        f'{workdir}: the images are prepared at {_by(canvas)} pixels now, but were at {_by(metadata.canvas)} when the '
        'run began; restore the data or choose another --workdir'
      )
    # Version 0.1.0 saved the digest of the labels alone.
    if any(meta[key] != digest for key, digest in examples.items() if key in meta):
      raise InputError(
        f'{workdir}: {self.source.name} has other examples now than when the run began, so that their order would '
        'change; restore the data or choose another --workdir'
      )
    restored = TrainState.from_saved(jax.eval_shape(self._new), state)
    return jax.device_put(restored, devices.replicated(self.mesh)), metadata

  def _new(self, measured: Mapping[str, Any] | None = None) -> TrainState:
    images = np.zeros((1, self.config.image_size, self.config.image_size, len(self.channels)), np.float32)
    variables = self.model.init(jax.random.key(self.config.seed), images)
    if measured is not None:
      variables = put_statistics(variables, measured)
    return initial_state(variables, self.optimizer, ema=self.config.train.ema > 0)


def _by(canvas: tuple[int, int] | None) -> str:
  return ' x '.join(map(str, canvas)) if canvas else 'their own'


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for path, leaf in jax.tree.leaves_with_path(tree)
  }
