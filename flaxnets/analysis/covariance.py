"""Mean, deviation, range and correlation of channels, measured on images that may lack some of them. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from flaxnets.errors import InputError


def channel_statistics(images: Any, present: Any = None) -> dict[str, np.ndarray]:
  """Measures the statistics that `flaxnets.put_statistics` takes, in raw pixel units.

  An image counts for the channels that it has. The correlation of two channels is over the images that have both. See
  `ChannelSums` for constant channels, channels that no image has and pairs that are never seen together.

  Example:
    >>> import numpy as np
    >>> import flaxnets
    >>> images = np.random.default_rng(0).normal(100, 20, (8, 16, 16, 4))
    >>> images[..., 1] = 300 - images[..., 0]
    >>> images[:4, ..., 3] = np.nan  # the first four images lack the last channel
    >>> statistics = flaxnets.channel_statistics(images)
    >>> statistics['mean'].round(-1)
    array([100., 200., 100., 100.], dtype=float32)
    >>> statistics['correlation'].round(1) + 0
    array([[ 1., -1.,  0.,  0.],
           [-1.,  1.,  0.,  0.],
           [ 0.,  0.,  1.,  0.],
           [ 0.,  0.,  0.,  1.]], dtype=float32)

  Args:
    images: (N, H, W, C) numbers, an array or anything that NumPy makes one of. A memory-mapped array is read image by
      image. A plane that is NaN throughout is an absent channel.
    present: (N, C) bool, the channels that each image has. None for all of them. Either way, planes that are NaN
      throughout are absent.

  Returns:
    float32 arrays. 'mean' and 'std' (C,). 'low' and 'high' (C,), the smallest and the largest pixel. 'correlation'
    (C, C), positive semidefinite with a diagonal of 1.

  Raises:
    InputError: for arrays of another shape, no images, or a present channel with some pixels that are not finite.
  """
  images = np.asarray(images)
  if images.ndim != 4 or not images.size or images.dtype.kind not in 'biuf':
    raise InputError(f'images must be numbers (N, H, W, C), at least one, but these are {images.dtype} {images.shape}')
  count, channels = len(images), images.shape[3]
  present = np.ones((count, channels), bool) if present is None else np.asarray(present)
  if present.shape != (count, channels) or present.dtype != bool:
    raise InputError(f'present must be bool {(count, channels)}, but it is {present.dtype} {present.shape}')
  sums = ChannelSums(channels)
  for index, (image, here) in enumerate(zip(images, present, strict=True)):
    if images.dtype.kind == 'f':
      here = here & ~np.isnan(image).all(axis=(0, 1))
      image = np.where(here, image, 0)
      finite = np.isfinite(image).all(axis=(0, 1))
      if not finite.all():
        raise InputError(
          f'image {index} has NaN or infinite pixels in channel {int(finite.argmin())}; '
          'an absent channel must be NaN in all pixels, and a present one in none'
        )
    sums.add(image, here)
  return sums.statistics()


class ChannelSums:
  """Running sums over the pixels of each pair of channels, over the images that have both.

  A channel that is constant, or that no image has, gets deviation 1 and correlation 0; in the latter case its mean and
  range are 0. A pair of channels that no image has both of gets correlation 0.

  Correlations over different sets of images may not fit together: their matrix can have negative eigenvalues. These are
  set to zero, the eigenvalue method of P. Rousseeuw and G. Molenberghs, Transformation of Non Positive Semidefinite
  Correlation Matrices, Communications in Statistics (1993).

  Attributes:
    seen: (C,) number of images that have each channel.
    low, high: (C,) smallest and largest pixel of each channel; infinite for a channel that no image has.
  """

  def __init__(self, channels: int):
    self.seen = np.zeros(channels, int)
    self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
    self._origin = np.zeros(channels)  # near the mean: sums of squares around it lose fewer digits
    self._count = np.zeros((channels, channels))
    self._total = np.zeros((channels, channels))  # [i, j]: sum of channel i over the images that have i and j
    self._square = np.zeros((channels, channels))  # [i, j]: sum of its squares over the same images
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

  @property
  def constant(self) -> np.ndarray:
    """(C,) bool, the channels that some image has and that have the same value in every pixel of all images."""
    return self.low == self.high

  def statistics(self) -> dict[str, np.ndarray]:
    """'mean', 'std', 'low', 'high' (C,) and 'correlation' (C, C), computed in float64 and returned as float32."""
    count = np.maximum(self._count, 1)
    mean = self._total / count
    variance = np.maximum(self._square / count - mean**2, 0)
    covariance = self._product / count - mean * mean.T
    seen = self.seen > 0
    varies = seen & ~self.constant
    std = np.where(varies, np.sqrt(variance.diagonal()), 1)
    # A channel that varies may be constant over the images that have its partner too: only rounding is left there.
    scale = np.sqrt(variance * variance.T)
    known = (scale > 1e-9 * np.outer(std, std)) & varies & varies[:, None]
    correlation = np.divide(covariance, scale, out=np.zeros_like(scale), where=known)
    np.fill_diagonal(correlation, 1)
    values = {
      'mean': self._origin + mean.diagonal(),
      'std': std,
      'correlation': semidefinite(np.clip(correlation, -1, 1)),
      'low': np.where(seen, self.low, 0),
      'high': np.where(seen, self.high, 0),
    }
    return {name: array.astype(np.float32) for name, array in values.items()}


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
