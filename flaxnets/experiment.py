"""What a config says, as objects: its sources, its network, its subsets. The edge at which configs are read."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils

from flaxnets import models
from flaxnets.channels import MOST_SUBSETS, ChannelSet, Subset
from flaxnets.data import source
from flaxnets.errors import InputError
from flaxnets.runtime import atomic
from flaxnets.training.step import View, make_view


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """What a network knows beside its weights; travels with them in every checkpoint.

  Attributes:
    channels: the channel set that it was built for.
    classes: class names in the order of the labels.
    dtype: of the pixels that it was trained on.
    low, high: the least and the largest pixel value of each channel in training.
  """

  channels: ChannelSet
  classes: tuple[str, ...]
  dtype: str
  low: tuple[float, ...]
  high: tuple[float, ...]

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> Knowledge:
    return cls(
      ChannelSet(**fields['channels']), tuple(fields['classes']), fields['dtype'], tuple(fields['low']),
      tuple(fields['high']),
    )


def check_numbers(config: ml_collections.ConfigDict) -> None:
  """InputError for a number that would only show later what is wrong with it."""
  train = config.train
  for name, value, fits, allowed in (
    ('seed', config.seed, config.seed >= 0, '0 or more'),
    ('image_size', config.image_size, config.image_size > 0, 'above 0'),
    ('train.epochs', train.epochs, train.epochs > 0, 'above 0'),
    ('train.accumulate', train.accumulate, train.accumulate > 0, '1 or more'),
    ('train.log_every', train.log_every, train.log_every > 0, '1 or more'),
    ('train.checkpoint_every', train.checkpoint_every, train.checkpoint_every >= 0, '0 or more'),
    ('train.warmup_epochs', train.warmup_epochs, train.warmup_epochs >= 0, '0 or more'),
    ('train.label_smoothing', train.label_smoothing, 0 <= train.label_smoothing < 1, 'from 0 to below 1'),
    ('train.ema', train.ema, 0 <= train.ema < 1, 'from 0 to below 1'),
    ('evaluate.every', config.evaluate.every, config.evaluate.every >= 0, '0 or more'),
  ):
    if not fits:
      raise InputError(f'{name} is {value}; it is {allowed}')


def open_source(
  config: ml_collections.ConfigDict, split: str, *, root: str = '', classes: Sequence[str] | None = None
) -> source.Source:
  """The source of a split.

  Args:
    config: a whole config.
    split: 'train', 'validation' or 'test' for what the config calls so, else a split of the source's own.
    root: another folder or file than the config's.
    classes: the class names that the network knows, for any split but its training one; the source's own where None.

  Raises:
    InputError: see `flaxnets.data.source.open_source`.
  """
  data = config.data
  names = {'train': data.train, 'validation': data.validation, 'val': data.validation, 'test': data.test}
  return source.open_source(
    data.source, names.get(split, split), root=root or data.root, name=data.name, channels=data.channels,
    wavelengths=() if classes else data.wavelengths, classes=data.classes, image_key=data.image_key,
    label_key=data.label_key, channels_key=data.channels_key, classes_key=data.classes_key,
    present_key=data.present_key, canvas=canvas_side(config), on_bad_image=data.on_bad_image, class_names=classes,
  )


def canvas_side(config: ml_collections.ConfigDict) -> int:
  """Side in pixels of the canvas that encoded images are decoded to."""
  return config.data.canvas or round(1.5 * config.image_size)


def channel_set(config: ml_collections.ConfigDict, source: source.Source) -> ChannelSet:
  """The channels that the config's network is built for: the source's, or the expert's subset of them."""
  if not config.train.subset:
    return source.channels
  subset = source.channels.subset(config.train.subset)
  wavelengths = source.channels.wavelengths
  return ChannelSet(
    tuple(source.channels.names[index] for index in subset),
    tuple(wavelengths[index] for index in subset) if wavelengths else (),
  )


def build_network(config: ml_collections.ConfigDict, channels: ChannelSet, num_classes: int) -> nn.Module:
  """The config's network.

  Raises:
    InputError: for names that do not exist.
  """
  model = config.model
  return models.build(
    model.name, channels=len(channels), num_classes=num_classes, stem=model.stem, completion=model.completion,
    width=model.width, small_images=model.small_images, zero_init=model.zero_init, mask=model.mask, norm=model.norm,
    dtype=model.dtype,
  )


def training_view(
  config: ml_collections.ConfigDict, order: Sequence[int], canvas: tuple[int, int], fill: np.ndarray
) -> View:
  """What the config's network sees of a batch in training; see `flaxnets.training.step.make_view`."""
  augmentation = config.augment.to_dict()
  del augmentation['evaluation_resize']
  return make_view(
    seed=config.seed, order=order, canvas=canvas, image_size=config.image_size, fill=fill, augmentation=augmentation,
    presence_mode=config.presence.mode, presence_probability=config.presence.probability,
    presence_fill=config.presence.fill,
  )


def subsets(config: ml_collections.ConfigDict, channels: ChannelSet, text: str) -> list[Subset]:
  """The subsets that a text asks for; of an expert's, which knows one, 'all' is that one.

  '' is 'all', or what the config says where that would be more than anybody wants.
  """
  text = text or ('all' if 2 ** len(channels) <= MOST_SUBSETS else config.evaluate.subsets)
  return channels.subsets('full' if config.train.subset and text == 'all' else text)


def scores_name(split: str) -> str:
  """How a split is called in the names of files: 'test5k' for 'test5k.txt', 'site_test' for 'site/test'.

  Of an absolute path it is the last part. 'train[90%:]' is 'train_90___'.
  """
  path = pathlib.PurePath(split)
  name = path.name if path.is_absolute() else '_'.join(path.parts)
  name = name.removesuffix('.txt').removesuffix('.npz')
  return ''.join(letter if letter.isalnum() or letter in '-_.' else '_' for letter in name)


def statistics_of(statistics: Mapping[str, np.ndarray], order: Sequence[int]) -> dict[str, np.ndarray]:
  """Statistics measured on a source, for a network that takes the source's channels in this order."""
  order = np.asarray(order)
  return {
    key: value[np.ix_(order, order)] if value.ndim == 2 else value[order] for key, value in statistics.items()
  }


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as plain JSON values, as config.json holds it."""
  return json.loads(config.to_json())


def from_json(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(fields)


def claim_workdir(workdir: str | os.PathLike[str], config: ml_collections.ConfigDict) -> pathlib.Path:
  """Makes a run's folder, writes its config.json, and refuses to go on with another config; called by all hosts.

  Raises:
    InputError: if the folder cannot be written, is not the same for all hosts, or a run with a different config lives
      there; names the fields.
  """
  folder = pathlib.Path(workdir)
  path, fields = folder / 'config.json', as_json(config)
  if jax.process_index() == 0 and not path.exists():
    try:
      folder.mkdir(parents=True, exist_ok=True)
      atomic.write_text(path, json.dumps(fields, indent=1) + '\n')
    except OSError as error:
      raise InputError(f'--workdir={folder} cannot be written: {error.strerror}') from None
  multihost_utils.sync_global_devices('config.json: written')  # nothing where there is one host
  try:
    theirs = json.loads(path.read_text())
  except json.JSONDecodeError:
    raise InputError(f'{path} is damaged: not JSON; put it right or choose another --workdir') from None
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror}; all processes need one --workdir, on a disk that '
                     'they share') from None
  differing = differences(theirs, fields)
  if differing:
    listed = '; '.join(f'{name} is {old!r} there and {new!r} here' for name, (old, new) in differing.items())
    raise InputError(f'{folder} holds a run with another config ({listed}); choose another --workdir')
  return folder


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = '') -> dict[str, tuple[Any, Any]]:
  """The fields (dotted names) in which two nested configs differ, each with both values."""
  found: dict[str, tuple[Any, Any]] = {}
  for key in [*one, *(key for key in other if key not in one)]:
    old, new = one.get(key), other.get(key)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
      found.update(differences(old, new, f'{prefix}{key}.'))
    elif old != new:
      found[f'{prefix}{key}'] = (old, new)
  return found
