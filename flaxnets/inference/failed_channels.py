"""Warns of channels that may have failed: planes of one value that are said to be present, such as a dead camera's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from flaxnets.analysis.text import counted
from flaxnets.data.constant_planes import constant_planes
from flaxnets.inference.metadata import Metadata

# What looks at images (n, height, width, m), the indices of their channels, and the mask of present planes or None.
Look = Callable[[np.ndarray, Sequence[int], np.ndarray | None], None]


class FailedChannels:
  """Counts images with a constant plane, and warns of them in one line.

  Images of a single pixel are not looked at, nor channels that had one value throughout training.

  Args:
    metadata: of the network.
    noun: what an image is called in the warning, in the singular.
  """

  def __init__(self, metadata: Metadata, noun: str = 'image'):
    self._noun, self._channels = noun, metadata.channels
    self._varied = np.asarray(metadata.low) != np.asarray(metadata.high)
    self._seen = self._found = 0
    self._example, self._others = '', ''

  def look(
    self,
    images: np.ndarray,
    order: Sequence[int],
    present: np.ndarray | None = None,
    name: Callable[[int], str] | None = None,
  ) -> None:
    """Looks at some images.

    Args:
      images: (n, height, width, m) numbers.
      order: the network's indices of the m channels.
      present: (n, m) bool, the planes that are present; None for all.
      name: gives the name of an image in the warning by its index in `images`; None for its number among all images
        looked at so far.
    """
    if images.shape[1] * images.shape[2] > 1:
      varied = np.broadcast_to(self._varied[list(order)], (len(images), len(order)))
      constant = constant_planes(images, varied if present is None else varied & present)
      found = np.flatnonzero(constant.any(axis=1))
      if len(found) and not self._found:
        first = int(found[0])
        lacking = () if present is None else np.flatnonzero(~present[first])
        values = {order[plane]: float(images[first, 0, 0, plane]) for plane in np.flatnonzero(constant[first]).tolist()}
        rest = [index for plane, index in enumerate(order) if plane not in lacking and index not in values]
        self._keep(name(first) if name else f'{self._noun} {self._seen + first}', values, rest)
      self._found += len(found)
    self._seen += len(images)

  def warn(self, remedy: str) -> None:
    """Warns of the images with a constant plane since the last warning, if any.

    Args:
      remedy: how to leave a channel out; '{others}' in it becomes the channels that the first image has besides.
    """
    if self._found:
      have = 'has' if self._found == 1 else 'have'
      advice = f'; if the channel failed, leave it out: {remedy.format(others=self._others)}' if self._others else ''
      logging.warning(
        '%s',
        f'{self._found:,} of {counted(self._seen, self._noun)} {have} a constant plane, '
        f'the first is {self._example}{advice}',
      )
    self._seen = self._found = 0

  def _keep(self, name: str, values: dict[int, float], rest: Sequence[int]) -> None:
    """Notes the first image, the values of its constant planes and its other channels."""
    self._others = self._channels.label(rest)
    planes = [f'channel {self._channels.names[index]} is {value:g} throughout' for index, value in values.items()]
    guess = 'each of its channels has one value throughout, so that its class is a guess'
    self._example = f'{name}: {", ".join(planes) if rest else guess}'
