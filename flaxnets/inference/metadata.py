"""What a checkpoint knows besides weights: channels, classes and the range of its training pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flaxnets.channels import ChannelSet


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What a network knows besides its weights; it is saved in every checkpoint.

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
  def from_json(cls, fields: Mapping[str, Any]) -> Metadata:
    return cls(
      ChannelSet(**fields['channels']),
      tuple(fields['classes']),
      fields['dtype'],
      tuple(fields['low']),
      tuple(fields['high']),
    )

  @classmethod
  def from_saved(cls, meta: Mapping[str, Any]) -> Metadata:
    """From what a checkpoint stores beside its arrays; up to version 0.1.0 the key was 'knowledge'."""
    return cls.from_json(meta['metadata'] if 'metadata' in meta else meta['knowledge'])
