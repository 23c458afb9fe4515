"""The data of a run: its two splits, the channels and subsets that follow from them, and the weights of its classes."""

from __future__ import annotations

import dataclasses

import jax
import ml_collections
import numpy as np

from flaxnets import experiment
from flaxnets.channels import ChannelSet, Subset
from flaxnets.data.examples import check_hosts, example_digests
from flaxnets.data.source import Source
from flaxnets.errors import InputError


@dataclasses.dataclass(frozen=True)
class Data:
  """The splits that a run trains and validates on.

  Attributes:
    train, validation: the sources.
    channels: the network's channels, all or some of the source's.
    subsets: those to validate on.
    listed: those that training draws from, if presence.mode=listed.
    digests: identify the training examples, see `flaxnets.data.examples.example_digests`.
  """

  train: Source
  validation: Source
  channels: ChannelSet
  subsets: list[Subset]
  listed: list[Subset]
  digests: dict[str, str]


def open_data(config: ml_collections.ConfigDict) -> Data:
  """Opens the splits that a config names; called by all hosts.

  Raises:
    InputError: if they cannot be opened, differ from host to host or lack a channel, or for subsets that do not exist.
  """
  train = experiment.open_source(config, 'train')
  validation = experiment.open_source(config, 'validation', classes=train.classes)
  check_hosts({'data.train': train, 'data.validation': validation})
  channels = experiment.channel_set(config, train.channels)
  if lacking := [name for name in channels.names if name not in validation.channels.names]:
    raise InputError(
      f'{validation.name} has no channel {", ".join(lacking)}; it has {", ".join(validation.channels.names)}, and '
      'training validates on all channels'
    )
  subsets = experiment.validation_subsets(config, channels)
  listed = experiment.listed_subsets(config, channels)
  return Data(train, validation, channels, subsets, listed, example_digests(train))


def check_views(config: ml_collections.ConfigDict, data: Data) -> None:
  """Raises InputError for augmentation and sizes that would only be found when a step or a validation is traced."""
  experiment.check_sides(config, data.train.canvas)
  experiment.check_evaluation(config, data.validation)
  source, examples = data.train, config.train.batch_size
  count = len(source.channels)
  batch = {
    'image': jax.ShapeDtypeStruct((examples, *source.canvas, count), source.dtype),
    'size': jax.ShapeDtypeStruct((examples, 2), np.int32),
    'label': jax.ShapeDtypeStruct((examples,), np.int32),
    'present': jax.ShapeDtypeStruct((examples, count), bool),
  }
  order = source.channels.order(data.channels.names)
  statistics = {'mean': np.zeros(len(order), np.float32), 'std': np.ones(len(order), np.float32)}
  side = experiment.training_sides(config)[0]
  view = experiment.training_view_of(config, order, source.canvas, statistics, data.listed, side)
  targets = experiment.training_targets_of(config, order, len(source.classes), side)
  for function in filter(None, (view, targets)):
    jax.eval_shape(function, jax.ShapeDtypeStruct((), np.int32), batch)


def balanced_weights(source: Source) -> np.ndarray:
  """The weight n / (K n_k) of each class, float32, for n examples, n_k of class k, and K classes with examples.

  The weights of every class's examples have the same sum, and the mean over all examples is 1. A class without examples
  has weight 0.
  """
  counts = np.bincount(source.labels, minlength=len(source.classes))
  present = np.count_nonzero(counts)
  return np.where(counts > 0, len(source) / (present * np.maximum(counts, 1)), 0).astype(np.float32)
