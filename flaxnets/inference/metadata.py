"""What a checkpoint knows besides weights: channels, classes, the range of the training pixels and their canvas."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flaxnets.channels import ChannelSet


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What a network knows besides its weights; it is saved in every checkpoint.

  Attributes:
    channels: the channel set that the network was built for.
    classes: class names in the order of the labels.
    dtype: NumPy's name for the type of the training pixels.
    low, high: the lowest and the highest pixel value of each channel in training.
    canvas: (height, width) in pixels that images of any size are squashed to before the network's view, as the training
      images were. None if images keep their own size, and in checkpoints up to version 0.1.0, where the canvas follows
      from the config.
  """

  channels: ChannelSet
  classes: tuple[str, ...]
  dtype: str
  low: tuple[float, ...]
  high: tuple[float, ...]
  canvas: tuple[int, int] | None = None

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> Metadata:
    canvas = fields.get('canvas')
    return cls(
      ChannelSet(**fields['channels']),
      tuple(fields['classes']),
      fields['dtype'],
      tuple(fields['low']),
      tuple(fields['high']),
      tuple(canvas) if canvas else None,
    )

  @classmethod
  def from_saved(cls, meta: Mapping[str, Any]) -> Metadata:
    """From what a checkpoint stores beside its arrays; up to version 0.1.0 the key was 'knowledge'."""
    return cls.from_json(meta['metadata'] if 'metadata' in meta else meta['knowledge'])
