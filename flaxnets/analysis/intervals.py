"""95 % intervals of shares and of paired differences."""

from __future__ import annotations

import math
import statistics

import numpy as np

from flaxnets.errors import InputError

CONFIDENCE = 0.95
_Z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def wilson(hits: float, trials: int) -> tuple[float, float]:
  """The 95 % interval of a share: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.

  Args:
    hits: how many of the trials were successes; a mean over seeds may be fractional.
    trials: how many trials there were.

  Returns:
    The ends of the interval, in 0..1.

  Raises:
    InputError: unless 0 <= hits <= trials and trials > 0.
  """
  if not 0 <= hits <= trials or trials == 0:
    raise InputError(f'no interval for {hits} hits in {trials} trials; give at least 1 trial and 0 to {trials} hits')
  share = hits / trials
  centre = share + _Z * _Z / (2 * trials)
  spread = _Z * math.sqrt(share * (1 - share) / trials + (_Z / (2 * trials)) ** 2)
  denominator = 1 + _Z * _Z / trials
  # At the ends the formula gives 0 and 1 up to rounding.
  low = (centre - spread) / denominator if hits else 0.0
  high = (centre + spread) / denominator if hits < trials else 1.0
  return low, high


def difference_interval(differences: np.ndarray) -> tuple[float, float]:
  """The 95 % interval of the mean of paired differences between two classifiers on the same images.

  A. Agresti and Y. Min, Simple improved confidence intervals for comparing matched proportions, Statistics in
  Medicine 24 (2005): the normal interval after adding half an image to each of the four cells (only the one was
  right, only the other, both, neither).

  Args:
    differences: (n,) in -1..1, n at least 1: one classifier's hit minus the other's on each image.

  Returns:
    The ends of the interval, in -1..1. The mean lies between them.
  """
  count = len(differences) + 2
  mean = differences.sum() / count
  variance = (np.square(differences).sum() + 1) / count - mean**2
  spread = _Z * math.sqrt(variance / count)
  return float(max(mean - spread, -1)), float(min(mean + spread, 1))
