"""Mean, deviation, range and correlation of channels over images in which some channels may be absent. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from flaxnets.errors import InputError


def channel_statistics(images: Any, present: Any = None) -> dict[str, np.ndarray]:
  """Mean, deviation, range and correlation of the channels of some images, in raw pixel units.

  A channel that an image lacks counts for nothing there; a pair of channels that is never seen together has
  correlation 0. See `ChannelSums` for constant channels and for how gaps are repaired.

  Example:
    >>> images = np.random.default_rng(0).normal(100, 20, (8, 16, 16, 4))
    >>> statistics = channel_statistics(images)
    >>> statistics['mean'].shape, statistics['correlation'].shape
    ((4,), (4, 4))

  Args:
    images: (N, H, W, C) numbers, anything that NumPy can make an array of. A plane of nothing but NaN is an absent
      channel.
    present: (N, C) bool, the channels that each image really has; None for all but the planes of NaN.

  Returns:
    float32 arrays: 'mean', 'std', 'low' and 'high' (C,), the last two the least and the greatest pixel, and
    'correlation' (C, C), positive semidefinite with a diagonal of 1; what `flaxnets.put_statistics` takes.

  Raises:
    InputError: for arrays of another shape, no images, or single pixels that are not finite.
  """
  images = np.asarray(images)
  if images.ndim != 4 or not images.size or images.dtype.kind not in 'biuf':
    raise InputError(f'images are numbers (N, H, W, C), at least one, but these are {images.dtype} {images.shape}')
  count, channels = len(images), images.shape[3]
  present = np.ones((count, channels), bool) if present is None else np.asarray(present)
  if present.shape != (count, channels) or present.dtype != bool:
    raise InputError(f'present is bool {(count, channels)}, but it is {present.dtype} {present.shape}')
  sums = ChannelSums(channels)
  for index, (image, has) in enumerate(zip(images, present, strict=True)):
    if images.dtype.kind == 'f':
      has = has & ~np.isnan(image).all(axis=(0, 1))
      image = np.where(has, image, 0)
      if not np.isfinite(image).all():
        plane = int((~np.isfinite(image).all(axis=(0, 1))).argmax())
        raise InputError(
          f'image {index} has NaN or infinite pixels in channel {plane}; a channel is NaN throughout, '
          'where it is absent, or not at all'
        )
    sums.add(image, has)
  return {name: values.astype(np.float32) for name, values in sums.statistics().items()}


class ChannelSums:
  """Running sums over the pixels of each pair of channels, over the examples that have both.

  Gaps may leave the correlation indefinite, which is repaired by the eigenvalue method of Rousseeuw and Molenberghs,
  Transformation of non positive semidefinite correlation matrices (1993). A channel that is constant, or that no
  example has, gets deviation 1 and correlation 0.
  """

  def __init__(self, channels: int):
    self.seen = np.zeros(channels, int)  # examples
    self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
    self._origin = np.zeros(channels)  # near the mean, so that differences of large squares don't cancel
    self._count = np.zeros((channels, channels))
    self._total = np.zeros((channels, channels))  # [i, j]: of channel i, over the examples that have j
    self._square = np.zeros((channels, channels))  # likewise
    self._product = np.zeros((channels, channels))

  def add(self, image: np.ndarray, present: np.ndarray) -> None:
    """Counts one image (H, W, C), finite everywhere, in the channels that are present (C,)."""
    pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
    self._origin = np.where((self.seen == 0) & present, pixels[0], self._origin)
    self.seen += present
    self.low = np.where(present, np.minimum(self.low, pixels.min(0)), self.low)
    self.high = np.where(present, np.maximum(self.high, pixels.max(0)), self.high)
    pixels -= self._origin
    pixels[:, ~present] = 0
    product = pixels.T @ pixels
    self._count += np.outer(present, present) * len(pixels)
    self._total += np.outer(pixels.sum(0), present)
    self._square += np.outer(product.diagonal(), present)
    self._product += product

  def statistics(self) -> dict[str, np.ndarray]:
    """'mean', 'std', 'low', 'high' (C,) and 'correlation' (C, C), float64."""
    count = np.maximum(self._count, 1)
    mean = self._total / count
    variance = np.maximum(self._square / count - mean**2, 0)
    covariance = self._product / count - mean * mean.T
    dull = (self.seen == 0) | (self.low == self.high)
    std = np.where(dull, 1, np.sqrt(variance.diagonal()))
    # A channel may vary, and yet be constant wherever its partner is present: what is left there is rounding.
    scale = np.sqrt(variance * variance.T)
    told = (scale > 1e-9 * np.outer(std, std)) & ~dull & ~dull[:, None]
    correlation = np.divide(covariance, scale, out=np.zeros_like(scale), where=told)
    np.fill_diagonal(correlation, 1)
    seen = self.seen > 0
    return {
      'mean': self._origin + mean.diagonal(),
      'std': std,
      'correlation': semidefinite(np.clip(correlation, -1, 1)),
      'low': np.where(seen, self.low, 0),
      'high': np.where(seen, self.high, 0),
    }


def semidefinite(correlation: np.ndarray) -> np.ndarray:
  """The correlation (C, C) with negative eigenvalues set to zero and its diagonal scaled back to 1."""
  values, vectors = np.linalg.eigh(correlation)
  if values[0] > -1e-10:
    return correlation
  repaired = (vectors * np.maximum(values, 0)) @ vectors.T
  scale = np.sqrt(repaired.diagonal())
  repaired /= np.outer(scale, scale)
  np.fill_diagonal(repaired, 1)
  return repaired
