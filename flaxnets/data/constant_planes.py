"""Counts planes of one value among planes that vary: perhaps channels that failed and were not marked as absent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
from absl import logging

from flaxnets.data.source import Source

_SAMPLED = 16  # pixels of a plane; only where these are equal are the others compared
_LISTED = 5  # channels in the message


class ConstantPlanes:
  """The number of images in which a channel has the same value in every pixel, while another channel varies.

  A channel that is constant in every image that has it is no failure but what it is, such as the time of day. An image
  that is constant in all of its channels is blank, and tells nothing about single ones.

  Args:
    source: of the images.
    channels: names of the channels to count; None for all of the source's.
  """

  _said: ClassVar[set[str]] = set()

  def __init__(self, source: Source, channels: Sequence[str] | None = None):
    held = source.channels.names
    self._name, self._channels = source.name, [name for name in channels or held if name in held]
    self._planes = [held.index(name) for name in self._channels]
    self._images = 0
    self._constant = np.zeros(len(self._channels), int)
    self._with_channel = np.zeros(len(self._channels), int)  # images that are not blank

  def counted(self, batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Mapping[str, np.ndarray]]:
    """The batches, as `flaxnets.data.batches.evaluation_batches` yields them, after they were counted."""
    for batch in batches:
      self._add(batch['image'], batch['present'], batch['mask'])
      yield batch

  def warn(self) -> None:
    """Logs the counts; nothing where there are none, and the same line once per process."""
    failed = np.flatnonzero((self._constant > 0) & (self._constant < self._with_channel)).tolist()
    if not failed:
      return
    named = [f'{self._channels[place]} is constant in {self._constant[place]:,}' for place in failed[:_LISTED]]
    more = ', ...' * (len(failed) > _LISTED)
    line = (
      f'{self._name}: {", ".join(named)}{more} of the {self._images:,} images that were looked at: if these are failed '
      'channels, mark them absent (arrays: data.present_key, or planes of NaN; TIFFs: bands without data)'
    )
    if line not in self._said:
      self._said.add(line)
      logging.warning('%s', line)

  def _add(self, images: np.ndarray, present: np.ndarray, mask: np.ndarray) -> None:
    """Counts the images (n, h, w, c) for which the mask (n,) holds, in the channels that are present (n, c)."""
    self._images += int(mask.sum())
    present = present[:, self._planes] & mask[:, np.newaxis]
    constant = self._constant_in(images) & present
    blank = (constant == present).all(axis=1)
    self._constant += constant[~blank].sum(axis=0)
    self._with_channel += present[~blank].sum(axis=0)

  def _constant_in(self, images: np.ndarray) -> np.ndarray:
    """(n, channels) bool, whether all pixels of a plane are equal."""
    pixels = images.reshape(len(images), -1, images.shape[-1])
    places = np.linspace(0, pixels.shape[1] - 1, _SAMPLED).astype(int)
    sampled = pixels[:, places][:, :, self._planes]
    constant = (sampled == sampled[:, :1]).all(axis=1)
    for row, place in np.argwhere(constant):
      plane = pixels[row, :, self._planes[place]]
      constant[row, place] = (plane == plane[0]).all()
    return constant
