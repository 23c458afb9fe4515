"""What a config says, as objects: its sources, its network, its subsets. The edge at which configs are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import ml_collections
import numpy as np

from flaxnets import models
from flaxnets.augment import pipeline
from flaxnets.augment.pipeline import Targets, View
from flaxnets.channels import MAX_SUBSETS, ChannelSet, Subset
from flaxnets.data import open as data_open
from flaxnets.data.source import DataOptions, Source
from flaxnets.errors import InputError
from flaxnets.models.classifier import Classifier

ENCODED = ('lists', 'folders', 'tfds')  # sources whose images are squashed to a canvas before the network's view


def open_source(
  config: ml_collections.ConfigDict, split: str, *, root: str = '', classes: Sequence[str] | None = None
) -> Source:
  """The source of a split.

  Args:
    config: a whole config.
    split: 'train', 'validation' or 'test' for what the config calls so, else a split of the source's own.
    root: another folder or file than the config's.
    classes: the class names that the network knows, for any split but its training one; the source's own where None.

  Raises:
    InputError: see `flaxnets.data.open.open_source`.
  """
  data = config.data
  names = {'train': data.train, 'validation': data.validation, 'val': data.validation, 'test': data.test}
  fields = {
    name: data[name]
    for name in (
      'name',
      'channels',
      'classes',
      'image_key',
      'label_key',
      'channels_key',
      'classes_key',
      'present_key',
      'on_bad_image',
    )
  }
  options = DataOptions(
    data.source,
    root or data.root,
    wavelengths=() if classes else tuple(data.wavelengths),
    canvas=canvas_side(config),
    **fields,
  )
  return data_open.open_source(options, names.get(split, split), classes)


def canvas_side(config: ml_collections.ConfigDict) -> int:
  """Side in pixels of the canvas that encoded images are decoded to."""
  return config.data.canvas or round(1.5 * config.image_size)


def canvas_of(config: ml_collections.ConfigDict, source: Source | None = None) -> tuple[int, int] | None:
  """(height, width) in pixels that images are squashed to before the network's view; None if they keep their size.

  Args:
    config: a complete config.
    source: its training source, whose images may be prepared with another canvas than the config's.
  """
  if config.data.source not in ENCODED:
    return None
  height, width = source.canvas if source else (canvas_side(config),) * 2
  return int(height), int(width)


def channel_set(config: ml_collections.ConfigDict, channels: ChannelSet) -> ChannelSet:
  """The channels that the config's network is built for: all of its source's, or the expert's subset of them."""
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
) -> View:
  """What the config's network sees of a batch in training; see `flaxnets.augment.pipeline.training_view`.

  Args:
    config: a whole config.
    order: index of each of the network's channels in the source.
    canvas: height and width of the batch's images, pixels.
    statistics: 'mean' and 'std' (C,) of the network's channels.
  """
  with _errors_name('augment'):
    view = pipeline.training_view(
      seed=config.seed,
      source_index=order,
      canvas=canvas,
      image_size=config.image_size,
      statistics=statistics,
      augmentation=config.augment.to_dict(),
      presence_mode=config.presence.mode,
      presence_probability=config.presence.probability,
      presence_fill=config.presence.fill,
    )
  return _errors_name('augment')(view)  # most options are checked when the view is traced


def training_targets_of(config: ml_collections.ConfigDict, order: Sequence[int], num_classes: int) -> Targets | None:
  """The soft labels of the config's training view; see `flaxnets.augment.pipeline.training_targets`."""
  with _errors_name('augment'):
    return pipeline.training_targets(
      seed=config.seed,
      source_index=order,
      image_size=config.image_size,
      num_classes=num_classes,
      augmentation=config.augment.to_dict(),
    )


@contextlib.contextmanager
def _errors_name(group: str) -> Iterator[None]:
  """Puts the name of a group of the config before errors about options that are fields of it."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{group}: {error}') from None


def subsets(config: ml_collections.ConfigDict, channels: ChannelSet, text: str) -> list[Subset]:
  """The subsets that a text asks for; of an expert's, which knows one, 'all' is that one.

  '' is 'all', or what the config says where that would be more than anybody wants.
  """
  text = text or ('all' if 2 ** len(channels) <= MAX_SUBSETS else f'full;{config.evaluate.subsets}')
  return channels.subsets('full' if config.train.subset and text == 'all' else text)


def statistics_of(statistics: Mapping[str, np.ndarray], order: Sequence[int]) -> dict[str, np.ndarray]:
  """Statistics measured on a source, for a network that takes the source's channels in this order."""
  places = np.asarray(order)
  return {key: value[np.ix_(places, places)] if value.ndim == 2 else value[places] for key, value in statistics.items()}
