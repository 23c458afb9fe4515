"""Turns the fields of a config into objects: sources, networks, training views and subsets.

Modules below this one take arguments and do not read configs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import ml_collections
import numpy as np

from flaxnets import config as configs
from flaxnets import models
from flaxnets.augment import pipeline
from flaxnets.augment.pipeline import Targets, View
from flaxnets.augment.warp import subsamples_for
from flaxnets.channels import MAX_SUBSETS, ChannelSet, Subset
from flaxnets.data import open as data_open
from flaxnets.data.source import DataOptions, Source
from flaxnets.errors import InputError
from flaxnets.models.classifier import Classifier

ENCODED = ('lists', 'folders', 'tfds')  # sources whose images are resized to a canvas, whatever their aspect ratio


def open_source(
  config: ml_collections.ConfigDict, split: str, *, root: str = '', classes: Sequence[str] | None = None
) -> Source:
  """The source of a split.

  Args:
    config: a complete config.
    split: 'train', 'validation' or 'test' for the config's data.train, data.validation or data.test; otherwise the
      name of a split as the source knows it.
    root: replaces the config's data.root; '' for the config's.
    classes: the network's class names, for all splits except its training split; None for those of the source.

  Raises:
    InputError: see `flaxnets.data.open.open_source`.
  """
  data = config.data
  options = DataOptions.from_fields(
    data,
    root=root or data.root,
    wavelengths=() if classes else tuple(data.wavelengths),
    canvas=configs.canvas_side(config),
  )
  return data_open.open_source(options, configs.split_of(data, split), classes)


def training_sides(config: ml_collections.ConfigDict) -> tuple[int, ...]:
  """Sides of the training images in pixels, each for an equal share of a run's steps."""
  return tuple(config.train.image_sizes) or (config.image_size,)


def check_sides(config: ml_collections.ConfigDict, canvas: tuple[int, int]) -> None:
  """Raises InputError where a canvas (height, width) is too large for one of the sides of the training images."""
  for side in training_sides(config):
    with _errors_name(f'training images of {side} pixels'):
      subsamples_for(canvas, side, crop_ratio=config.augment.crop_ratio, perspective=config.augment.perspective)


def check_evaluation(config: ml_collections.ConfigDict, source: Source) -> None:
  """Raises InputError where the images of a source are too large to be evaluated at image_size."""
  with _errors_name(source.name):
    subsamples_for(source.canvas, config.image_size, resize=config.augment.evaluation_resize)


def canvas_of(config: ml_collections.ConfigDict, source: Source | None = None) -> tuple[int, int] | None:
  """(height, width) in pixels that images are resized to before the network's view; None if they keep their size.

  Args:
    config: a complete config.
    source: its training source; its images may have been prepared with a different canvas.
  """
  if config.data.source not in ENCODED:
    return None
  height, width = source.canvas if source else (configs.canvas_side(config),) * 2
  return int(height), int(width)


def channel_set(config: ml_collections.ConfigDict, channels: ChannelSet) -> ChannelSet:
  """The channels that the config's network is built for: those of its source, or for an expert its train.subset."""
  if not config.train.subset:
    return channels
  subset, wavelengths = channels.subset(config.train.subset), channels.wavelengths
  return ChannelSet(
    tuple(channels.names[index] for index in subset),
    tuple(wavelengths[index] for index in subset) if wavelengths else (),
  )


def build_network(config: ml_collections.ConfigDict, channels: ChannelSet, num_classes: int) -> Classifier:
  """The config's network.

  Raises:
    InputError: see `flaxnets.models.build`.
  """
  options = config.model.to_dict()
  return models.build(options.pop('name'), num_channels=len(channels), num_classes=num_classes, **options)


def training_view_of(
  config: ml_collections.ConfigDict,
  order: Sequence[int],
  canvas: tuple[int, int],
  statistics: Mapping[str, np.ndarray],
  listed: Sequence[Subset] = (),
  image_size: int = 0,
) -> View:
  """The training view of a config: from a batch to the network's input. See `flaxnets.augment.pipeline.training_view`.

  Args:
    config: a complete config.
    order: index of each of the network's channels in the source.
    canvas: height and width of the batch's images, pixels.
    statistics: 'mean' and 'std' (C,) of the network's channels.
    listed: from `listed_subsets`.
    image_size: side of the training images, pixels; 0 for the config's.
  """
  with _errors_name('augment'):
    view = pipeline.training_view(
      seed=config.seed,
      source_index=order,
      canvas=canvas,
      image_size=image_size or config.image_size,
      statistics=statistics,
      augmentation=config.augment.to_dict(),
      presence_mode=config.presence.mode,
      presence_probability=config.presence.probability,
      presence_fill=config.presence.fill,
      presence_subsets=listed,
    )
  return _errors_name('augment')(view)  # most options are checked when the view is traced


def training_targets_of(
  config: ml_collections.ConfigDict, order: Sequence[int], num_classes: int, image_size: int = 0
) -> Targets | None:
  """The soft labels that belong to the training view of a config; see `flaxnets.augment.pipeline.training_targets`."""
  with _errors_name('augment'):
    return pipeline.training_targets(
      seed=config.seed,
      source_index=order,
      image_size=image_size or config.image_size,
      num_classes=num_classes,
      augmentation=config.augment.to_dict(),
    )


@contextlib.contextmanager
def _errors_name(place: str) -> Iterator[None]:
  """Prefixes errors with what they are about, such as the field of the config or its group."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{place}: {error}') from None


def subsets(config: ml_collections.ConfigDict, channels: ChannelSet, text: str) -> list[Subset]:
  """The subsets of a network's channels that a text lists; see `flaxnets.channels.ChannelSet.subsets`.

  '' means 'all' for up to ten channels, otherwise the full set and the config's evaluate.subsets, or 64 random subsets
  (the full set among them) where those are 'all' or ''. For an expert, 'all' means the full set of its channels.
  """
  few = 2 ** len(channels) <= MAX_SUBSETS
  asked = text or ('all' if few else config.evaluate.subsets)
  if config.train.subset and asked == 'all':
    return channels.subsets('full')
  if not text and not few:
    asked = 'sample:64' if asked in ('', 'all') else f'full;{asked}'
  with contextlib.nullcontext() if text else _errors_name('evaluate.subsets'):
    return channels.subsets(asked)


def validation_subsets(config: ml_collections.ConfigDict, channels: ChannelSet) -> list[Subset]:
  """The subsets that evaluate.subsets lists for validation in training; see `subsets`."""
  with _errors_name('evaluate.subsets'):
    return subsets(config, channels, config.evaluate.subsets)


def listed_subsets(config: ml_collections.ConfigDict, channels: ChannelSet) -> list[Subset]:
  """The subsets that presence.subsets lists for training.

  Raises:
    InputError: for a text that is not subsets of these channels.
  """
  with _errors_name('presence.subsets'):
    return channels.subsets(config.presence.subsets) if config.presence.subsets else []


def statistics_of(statistics: Mapping[str, np.ndarray], order: Sequence[int]) -> dict[str, np.ndarray]:
  """Statistics measured on a source, for a network that takes the source's channels in this order."""
  places = np.asarray(order)
  return {key: value[np.ix_(places, places)] if value.ndim == 2 else value[places] for key, value in statistics.items()}
