"""The state that a run begins with: new, or that of a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
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
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime import devices
from flaxnets.runtime.checkpoint import digests
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
  """

  config: ml_collections.ConfigDict
  model: nn.Module
  optimizer: optax.GradientTransformation
  source: Source
  channels: ChannelSet
  mesh: Mesh

  def begin(self) -> tuple[TrainState, Metadata]:
    """A new state, with the channel statistics of the training split."""
    data = self.config.data
    measured = experiment.statistics_of(
      statistics.measure(
        self.source,
        examples=data.statistics_examples,
        seed=self.config.seed,
        threads=data.threads,
        on_bad_image=data.on_bad_image,
      ),
      self.source.channels.order(self.channels.names),
    )
    metadata = Metadata(
      self.channels,
      tuple(self.source.classes),
      str(np.dtype(self.source.dtype)),
      tuple(measured['low'].tolist()),
      tuple(measured['high'].tolist()),
    )
    new = functools.partial(self._new, measured)
    return jax.jit(new, out_shardings=devices.replicated(self.mesh))(), metadata

  def resume(
    self, state: Mapping[str, Any], meta: Mapping[str, Any], workdir: pathlib.Path, examples: Mapping[str, str]
  ) -> tuple[TrainState, Metadata]:
    """The state of a checkpoint.

    Args:
      state, meta: as `flaxnets.runtime.checkpoint` restores them.
      workdir: for messages.
      examples: `example_digests` of the training split as it is now.

    Raises:
      InputError: if the checkpoint belongs to other data or another network.
    """
    metadata = Metadata.from_saved(meta)
    if metadata.channels != self.channels or metadata.classes != tuple(self.source.classes):
      raise InputError(
        f'{workdir}: the data now have other channels or classes than when the run began; '
        'restore the data or choose another --workdir'
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


def example_digests(source: Source) -> dict[str, str]:
  """What shows that the examples of a source, and so their order in training, are still the same.

  Returns:
    'examples', a digest of all ids and labels, and 'labels', a digest of the labels, by which checkpoints of version
    0.1.0 are compared.
  """
  labels = digests({'labels': source.labels})['labels']
  digest = hashlib.blake2b(labels.encode(), digest_size=16)
  for index in range(len(source)):
    digest.update(f'{source.ids[index]}\n'.encode(errors='surrogatepass'))
  return {'examples': digest.hexdigest(), 'labels': labels}
