"""A trained network evaluated on images and labels in memory, with the figures of `flaxnets eval`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.data.arrays import numbered_labels
from flaxnets.data.decode import squash
from flaxnets.data.source import ArraySource, Reading, Source
from flaxnets.errors import InputError
from flaxnets.evaluation import judge
from flaxnets.inference import pixels
from flaxnets.inference.network import Network


def evaluate(
  net: Network,
  images: np.ndarray | Source,
  labels: np.ndarray | None = None,
  subsets: str = '',
  *,
  channels: str | Sequence[str] | None = None,
  batch_size: int = 0,
) -> list[dict[str, Any]]:
  """Evaluates a network on subsets of the channels of some images; public as `flaxnets.evaluate`.

  The functions are compiled at the first call, and again for other subsets, other channels or images of another size.

  Args:
    net: from `flaxnets.load`.
    images: (n, height, width, m) raw pixels; they are seen as `net.predict` sees them. Or a source, such as
      `flaxnets.experiment.open_source(net.config, 'test', classes=net.classes)`, with its own labels and channels.
    labels: (n,) integers, the places of the classes in `net.classes`, or class names.
    subsets: 'all', 'RG', 'singles', 'size>=2'; see `flaxnets.channels.ChannelSet.subsets`. '' as in `flaxnets eval`.
    channels: names of the m channels in their order; None for the network's.
    batch_size: images at a time; the config's where 0.

  Returns:
    A row for each subset, as in eval/<split>.json:
      channels: the subset's label.
      recalibrated: whether the network has BatchNorm statistics of its own for this subset, which were used.
      accuracy, precision, recall, f1: fractions in 0..1, the last three means over classes; under the same names with
        _low and _high the ends of their 95 % intervals.
      top5: a fraction in 0..1; None for up to five classes.
      loss: mean cross-entropy, nats.
      ece: expected calibration error, 0..1; calibration: the 15 bins of confidence that it comes from, each with count,
        confidence and accuracy (None where count is 0).
      params: number of trained values; macs, mixing_macs, flops: counts for one image, see `flaxnets.models.cost`.
      confusion: K lists of K counts, rows the true classes. Only for up to 100 classes.

  Raises:
    InputError: for shapes, labels or channels that do not fit, or pixels on another scale.
  """
  if isinstance(images, Source):
    if labels is not None or channels is not None:
      raise InputError('a source has its own labels and channels; leave out labels and channels')
    if tuple(images.classes) != tuple(net.classes):
      raise InputError(
        f"{images.name} has other classes than the network, or another order; open it with the network's (classes=)"
      )
    source = images
  elif labels is None:
    raise InputError('images in an array need labels, the places of their classes in net.classes')
  else:
    source = _source_of(
      net,
      _array_of(images, 'images of several sizes cannot be evaluated as an array; resize them to one, or use a source'),
      _array_of(labels, 'labels have rows of several lengths; give one integer for each image'),
      channels,
    )
  return judge.evaluate(net, subsets=subsets, batch_size=batch_size, source=source)[0]['subsets']


def _array_of(values: Any, unequal: str) -> np.ndarray:
  try:
    return np.asanyarray(values)  # with the mask of a masked array
  except ValueError:
    raise InputError(unequal) from None


def _source_of(
  net: Network, images: np.ndarray, labels: np.ndarray, channels: str | Sequence[str] | None
) -> ArraySource:
  order = net.channels.full if channels is None else net.channels.order(channels)
  held = ChannelSet(tuple(net.channels.names[index] for index in order))
  images = pixels.numbers(images, net.channels, order)
  if labels.dtype.kind in 'US':
    labels = numbered_labels(labels, net.classes, 'these images')[0]
  if not net.canvas:
    return ArraySource('these images', images, labels, held, net.classes)
  source = SquashedArrays('these images', images, labels, held, net.classes)
  source.squash_to(net.canvas)
  return source


class SquashedArrays(ArraySource):
  """Images in an array, squashed to a canvas as image files are."""

  def squash_to(self, canvas: tuple[int, int]) -> None:
    """Sets the height and width of the canvas, pixels."""
    self._original, self.canvas = self.canvas, canvas

  def read(self, index: int, out: np.ndarray) -> Reading:
    original = np.empty((*self._original, out.shape[2]), out.dtype)
    reading = super().read(index, original)
    squash(original, out)
    return Reading(self._original, reading.present)
