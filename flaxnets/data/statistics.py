"""What a network learns to know of its channels before training: mean, deviation, correlation and range."""

from __future__ import annotations

import numpy as np
from absl import logging

from flaxnets.data.batches import evaluation_batches
from flaxnets.data.source import Source
from flaxnets.errors import InputError


def measure(source: Source, *, examples: int = 2000, seed: int = 0, threads: int = 0,
            on_bad_image: str = 'error') -> dict[str, np.ndarray]:
  """Statistics over all pixels of randomly chosen examples, in raw pixel units.

  A channel that an example lacks counts for nothing there: mean, deviation and range are over the examples
  that have it, a correlation over those that have both channels. A pair never seen together has correlation
  0. Gaps may leave the matrix indefinite, which is repaired by the eigenvalue method of Rousseeuw and
  Molenberghs, "Transformation of non positive semidefinite correlation matrices" (1993). A channel that is
  constant, or that no example has, gets deviation 1 and correlation 0, with a warning; in the latter case
  mean, low and high are 0 too.

  Args:
    source: the training examples.
    examples: how many to take; all where there are fewer.
    seed: of the choice.
    threads: that read; 0 for one a core.
    on_bad_image: 'error', or 'skip' to leave unreadable examples out.

  Returns:
    float32 arrays (summed in float64): 'mean', 'std', 'low' and 'high' (C,), the last two the least and the
    greatest pixel, and 'correlation' (C, C), positive semi-definite with a diagonal of 1.

  Raises:
    InputError: if no chosen example is readable, or for a value of an argument that cannot be.
    BadImage: for an unreadable example, if `on_bad_image` is 'error'.
  """
  if examples < 1:
    raise InputError(f'channel statistics of {examples} examples; at least 1 is needed')
  count = min(examples, len(source))
  chosen = np.sort(np.random.default_rng(seed).choice(len(source), count, replace=False))
  sums = _Sums(len(source.channels))
  for batch in evaluation_batches(source, batch_size=min(count, 32), threads=threads, examples=chosen,
                                  on_bad_image=on_bad_image):
    for row in np.flatnonzero(batch['mask']):
      sums.add(batch['image'][row], batch['present'][row])
  if not sums.seen.any():
    raise InputError(f'{source.name}: none of the {count} examples for the channel statistics is readable')
  for name, seen, constant in zip(source.channels.names, sums.seen, sums.low == sums.high, strict=True):
    if not seen or constant:
      fact = 'is constant over' if seen else 'is absent from'
      logging.warning('%s: channel %s %s the %s examples measured', source.name, name, fact, count)
  return {name: values.astype(np.float32) for name, values in sums.statistics().items()}


class _Sums:
  """Running sums over pixels of each pair of channels, over the examples that have both."""

  def __init__(self, channels: int):
    self.seen = np.zeros(channels, int)  # examples
    self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
    self._origin = np.zeros(channels)  # near the mean, so that differences of large squares don't cancel
    self._count = np.zeros((channels, channels))
    self._total = np.zeros((channels, channels))  # [i, j]: of channel i, over the examples that have j
    self._square = np.zeros((channels, channels))  # likewise
    self._product = np.zeros((channels, channels))

  def add(self, image: np.ndarray, present: np.ndarray) -> None:
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
      'correlation': _semidefinite(np.clip(correlation, -1, 1)),
      'low': np.where(seen, self.low, 0),
      'high': np.where(seen, self.high, 0),
    }


def _semidefinite(correlation: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(correlation)
  if values[0] > -1e-10:
    return correlation
  repaired = (vectors * np.maximum(values, 0)) @ vectors.T
  scale = np.sqrt(repaired.diagonal())
  repaired /= np.outer(scale, scale)
  np.fill_diagonal(repaired, 1)
  return repaired
