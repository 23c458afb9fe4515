"""What a config says, as objects: its sources, its network, its subsets. The edge at which configs are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np
from flax import linen as nn

from flaxnets import models
from flaxnets.augment import pipeline
from flaxnets.augment.pipeline import View
from flaxnets.channels import MAX_SUBSETS, ChannelSet, Subset
from flaxnets.data import open as data_open
from flaxnets.data.source import DataOptions, Source


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


def channel_set(config: ml_collections.ConfigDict, channels: ChannelSet) -> ChannelSet:
  """The channels that the config's network is built for: all of its source's, or the expert's subset of them."""
  if not config.train.subset:
    return channels
  subset, wavelengths = channels.subset(config.train.subset), channels.wavelengths
  return ChannelSet(
    tuple(channels.names[index] for index in subset),
    tuple(wavelengths[index] for index in subset) if wavelengths else (),
  )


def build_network(config: ml_collections.ConfigDict, channels: ChannelSet, num_classes: int) -> nn.Module:
  """The config's network.

  Raises:
    InputError: for names that do not exist.
  """
  model = config.model
  return models.build(
    model.name,
    num_channels=len(channels),
    num_classes=num_classes,
    stem=model.stem,
    completion=model.completion,
    width=model.width,
    small_images=model.small_images,
    zero_init=model.zero_init,
    mask=model.mask,
    norm=model.norm,
    dtype=model.dtype,
  )


def training_view_of(
  config: ml_collections.ConfigDict, order: Sequence[int], canvas: tuple[int, int], fill: np.ndarray
) -> View:
  """What the config's network sees of a batch in training; see `flaxnets.augment.pipeline.training_view`."""
  augmentation = config.augment.to_dict()
  del augmentation['evaluation_resize']
  return pipeline.training_view(
    seed=config.seed,
    source_index=order,
    canvas=canvas,
    image_size=config.image_size,
    fill=fill,
    augmentation=augmentation,
    presence_mode=config.presence.mode,
    presence_probability=config.presence.probability,
    presence_fill=config.presence.fill,
  )


def subsets(config: ml_collections.ConfigDict, channels: ChannelSet, text: str) -> list[Subset]:
  """The subsets that a text asks for; of an expert's, which knows one, 'all' is that one.

  '' is 'all', or what the config says where that would be more than anybody wants.
  """
  text = text or ('all' if 2 ** len(channels) <= MAX_SUBSETS else f'full;{config.evaluate.subsets}')
  return channels.subsets('full' if config.train.subset and text == 'all' else text)


def statistics_of(statistics: Mapping[str, np.ndarray], order: Sequence[int]) -> dict[str, np.ndarray]:
  """Statistics measured on a source, for a network that takes the source's channels in this order."""
  order = np.asarray(order)
  return {key: value[np.ix_(order, order)] if value.ndim == 2 else value[order] for key, value in statistics.items()}
