"""Whether pixels are on the scale of a network's training data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flaxnets.errors import InputError
from flaxnets.inference.metadata import Metadata
from flaxnets.nn.stem import pixel_statistics

# Images whose values are this many times below or above the training data's are on another scale: 0..1 for 0..255, say,
# or reflectance for digital numbers. Within this factor nothing is rejected.
MAX_SCALE = 20.0

# The same for integers whose type cannot hold the training data's values: 8 bits of an image of 12 are a 16th of them.
MAX_SCALE_NARROWER = 4.0


def check(
  metadata: Metadata,
  variables: Mapping[str, Any],
  images: np.ndarray,
  subset: Sequence[int],
  present: np.ndarray | None = None,
) -> None:
  """Raises InputError for pixels on another scale than the training data's.

  Args:
    metadata: of the network, with the range of the training pixels.
    variables: of the network, with the means and deviations of its channels.
    images: (n, height, width, m), anything in place of absent planes.
    subset: indices of the m planes in the network's channels.
    present: (n, m) bool, the planes that are present; None for all.
  """
  statistics = pixel_statistics(variables)
  chosen = list(subset)
  check_range(
    images,
    present,
    dtype=metadata.dtype,
    low=np.asarray(metadata.low)[chosen],
    high=np.asarray(metadata.high)[chosen],
    mean=np.asarray(statistics['mean'], np.float64)[chosen],
    std=np.asarray(statistics['std'], np.float64)[chosen],
  )


def check_range(
  images: np.ndarray,
  present: np.ndarray | None = None,
  *,
  dtype: str,
  low: np.ndarray,
  high: np.ndarray,
  mean: np.ndarray,
  std: np.ndarray,
) -> None:
  """The same from the type of the training pixels and, for each of the m planes, their range, mean and deviation."""
  if str(images.dtype) == dtype and images.dtype.kind in 'iu':
    return  # the same integer type: a dark scene rather than 0..1
  highest, typical = magnitude(images, present)
  seen = float(np.max(np.abs([low, high])))
  usual = math.sqrt(np.mean(mean**2 + std**2))
  if images.dtype.kind in 'iu' and np.iinfo(images.dtype).max < seen and 0 < typical < usual / MAX_SCALE_NARROWER:
    raise InputError(
      f'these images are {images.dtype} and reach {highest:.4g}, but the network was trained on {dtype} of '
      f'{low.min():.4g} to {high.max():.4g}; give raw pixels on that scale'
    )
  # Training may have seen bright clouds, so that a dark image has a far lower maximum: its typical value decides too.
  if highest > MAX_SCALE * seen or (0 < highest < seen / MAX_SCALE and typical < usual / MAX_SCALE):
    raise InputError(
      f'these images reach {highest:.4g}, but the network was trained on {low.min():.4g} to '
      f'{high.max():.4g}; give raw pixels on that scale'
    )


def magnitude(images: np.ndarray, present: np.ndarray | None = None) -> tuple[float, float]:
  """The largest absolute value and the root mean square of some planes, 0 and 0 without any; see `check`.

  Nothing is copied but the planes of one image at a time, where some are absent.
  """
  parts: Iterable[np.ndarray] = [images]
  if present is not None and not present.all():
    parts = (image[..., has] for image, has in zip(images, present, strict=True))
  highest, squares, count = 0.0, 0.0, 0
  for part in parts:
    if part.size:
      highest = float(np.max([highest, float(part.max()), -float(part.min())]))  # NaN stays NaN
      axes = list(range(part.ndim))
      squares += float(np.einsum(part, axes, part, axes, [], dtype=np.float64, casting='same_kind'))
      count += part.size
  return highest, math.sqrt(squares / max(count, 1))
