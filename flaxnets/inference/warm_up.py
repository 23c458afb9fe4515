"""Compiles what prediction will need, before the first image of a service arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxnets.data.source import DTYPES
from flaxnets.errors import InputError
from flaxnets.inference.predictor import BATCH, Predictor

if TYPE_CHECKING:
  from flaxnets.inference.network import Network


def warm_up(
  net: Network,
  subsets: str = 'full',
  batch_sizes: int | Sequence[int] = 1,
  *,
  size: tuple[int, int] | None = None,
  dtype: str = '',
  mask: bool = False,
) -> None:
  """Compiles the programs of `Network.predict` and its like, so that later calls need not wait for it.

  There is one program for each subset, batch size (rounded up to a power of two, 256 at most), size of images where the
  network has no canvas, and number type. Each takes seconds to compile, and runs once on images of the channels' means.

  Args:
    net: the network.
    subsets: which `channels` will be named, as `flaxnets eval --subsets` takes them: 'RGB;RG', 'singles', 'all'.
    batch_sizes: numbers of images in one call.
    size: height and width of the images, pixels; None for the network's input. A network with a canvas, such as one
      that was trained on image files, has the same programs for all sizes.
    dtype: NumPy's name for the images' number type; '' for that of the training images.
    mask: whether images will lack channels by `present=` or planes of NaN as well. One more program for each subset
      with two channels or more, whichever of them are absent.

  Raises:
    InputError: for subsets that cannot be read or are more than 1,024, a batch size below 1, a size that the network
      does not take, or a number type that is none.
  """
  height, width = net.canvas or size or (net.config.image_size,) * 2
  counts = [batch_sizes] if isinstance(batch_sizes, int) else list(batch_sizes)
  if min(height, width, *counts) < 1:
    raise InputError(f'batch sizes {counts} and images of {height} x {width} pixels must be 1 or more')
  kind = _number_type(dtype or net.metadata.dtype)
  if net.canvas and kind not in DTYPES:
    kind = np.dtype(np.float32)  # what such images become on their way to the canvas
  batches = sorted({min(count, BATCH) for count in counts} | {count % BATCH for count in counts} - {0})
  for subset in net.channels.subsets(subsets):
    predictor = Predictor(net, [net.channels.names[index] for index in subset])
    masks = (False, True) if mask and len(subset) > 1 else (False,)
    image = np.broadcast_to(net.fill[list(subset)], (height, width, len(subset))).astype(kind)
    for count in batches:
      images, sizes = np.broadcast_to(image, (count, *image.shape)), np.tile((height, width), (count, 1))
      for masked in masks:
        present = np.ones((count, len(subset)), bool) if masked else None
        predictor.run(images, sizes, present=present, check=False)  # means near 0 are no wrong scale


def _number_type(name: str) -> np.dtype:
  try:
    kind = np.dtype(name)
  except TypeError:
    kind = np.dtype(object)
  if kind.kind not in 'biuf':
    raise InputError(f"dtype is {name!r}; the images' number type was expected, such as 'uint8' or 'float32'")
  return kind
