"""Planes of one value: perhaps channels that failed and were not marked as absent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from flaxnets.data.source import Source

_SAMPLED = 8  # rows and columns of pixels that are compared first
_LISTED = 5  # channels in the message


def constant_planes(images: np.ndarray, among: np.ndarray) -> np.ndarray:
  """Which planes have one value throughout. All pixels are compared only where a sample of them is equal.

  Args:
    images: (n, height, width, m) numbers.
    among: (n, m) bool, the planes to look at.

  Returns:
    (n, m) bool; False for planes that were not looked at.
  """
  rows, columns = (-(-side // _SAMPLED) for side in images.shape[1:3])
  sample = images[:, ::rows, ::columns]
  constant = (sample == sample[:, :1, :1]).all(axis=(1, 2)) & among
  for image, plane in np.argwhere(constant):
    pixels = images[image, :, :, plane]
    constant[image, plane] = (pixels == pixels[0, 0]).all()
  return constant


class ConstantPlanes:
  """The number of images in which a channel has the same value in every pixel, while another channel varies.

  A channel that is constant in every image that has it is no failure but what it is, such as the time of day. An image
  that is constant in all of its channels is blank, and tells nothing about single ones.

  Args:
    source: of the images.
    channels: names of the channels to count; None for all of the source's.
  """

  def __init__(self, source: Source, channels: Sequence[str] | None = None):
    held = source.channels.names
    self._name, self._channels = source.name, [name for name in channels or held if name in held]
    self._planes = [held.index(name) for name in self._channels]
    self._images, self._complete = 0, False
    self._constant = np.zeros(len(self._channels), int)
    self._with_channel = np.zeros(len(self._channels), int)  # images that are not blank

  def counted(self, batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Mapping[str, np.ndarray]]:
    """The batches, as `flaxnets.data.batches.evaluation_batches` yields them, after they were counted.

    After `warn` nothing is counted: what passes again is the same images.
    """
    for batch in batches:
      if not self._complete:
        self._add(batch['image'], batch['present'], batch['mask'])
      yield batch

  def warn(self) -> None:
    """Logs the counts, once; nothing where there are none."""
    if self._complete:
      return
    self._complete = True
    failed = np.flatnonzero((self._constant > 0) & (self._constant < self._with_channel)).tolist()
    if not failed:
      return
    named = [f'{self._channels[place]} is constant in {self._constant[place]:,}' for place in failed[:_LISTED]]
    more = ', ...' * (len(failed) > _LISTED)
    logging.warning(
      '%s: %s%s of the %s images that were looked at: if these are failed channels, mark them absent '
      '(arrays: data.present_key, or planes of NaN; TIFFs: bands without data)',
      self._name,
      ', '.join(named),
      more,
      f'{self._images:,}',
    )

  def _add(self, images: np.ndarray, present: np.ndarray, mask: np.ndarray) -> None:
    """Counts the images (n, h, w, c) for which the mask (n,) holds, in the channels that are present (n, c)."""
    self._images += int(mask.sum())
    present = present & mask[:, np.newaxis]
    constant = constant_planes(images, present)[:, self._planes]
    present = present[:, self._planes]
    blank = (constant == present).all(axis=1)
    self._constant += constant[~blank].sum(axis=0)
    self._with_channel += present[~blank].sum(axis=0)
