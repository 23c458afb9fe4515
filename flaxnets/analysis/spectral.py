"""Correlations of bands that were never seen together, from their wavelengths. NumPy only.

A band is taken for a mixture of the known bands around it and a remainder. The weights of the mixture are those of
ordinary Kriging over the logarithm of the wavelength, with a Matern covariance of order 3/2: N. Cressie, Statistics for
Spatial Data, Wiley 1993, section 3.2. Correlations of mixtures are those of real signals, so that
the result is positive semidefinite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxnets.analysis.covariance import semidefinite

LENGTH = 0.3  # of the covariance, in units of log wavelength: 450 and 600 nm are as far apart as 1,500 and 2,000 nm
NUGGET = 0.01  # share of a band's variance that says nothing about its neighbours


def predicted(correlation: np.ndarray, wavelengths: Sequence[float], wanted: Sequence[float]) -> np.ndarray:
  """The correlation of known and wanted bands.

  Example:
    >>> known = np.asarray([[1.0, 0.9], [0.9, 1.0]])
    >>> predicted(known, (500.0, 600.0), (550.0,)).shape
    (3, 3)

  Args:
    correlation: (C, C) of the known bands.
    wavelengths: their centres, C positive numbers, nanometres.
    wanted: centres of M bands of which only the wavelength is known.

  Returns:
    (C + M, C + M) float64, positive semidefinite with a diagonal of ones, known bands first. Their block is unchanged.

  Raises:
    ValueError: for wavelengths that are not positive, or another number of them than of known bands.
  """
  correlation = np.asarray(correlation, np.float64)
  known, new = _logarithms(wavelengths), _logarithms(wanted)
  if correlation.shape != (len(known),) * 2:
    raise ValueError(f'{len(known)} wavelengths for a correlation of shape {correlation.shape}')
  return _joint(correlation, known, new)


def filled(
  correlation: np.ndarray,
  known: np.ndarray,
  wavelengths: Sequence[float],
  *,
  reference: tuple[np.ndarray, Sequence[float]],
) -> np.ndarray:
  """A correlation with its unknown entries predicted, made positive semidefinite.

  Args:
    correlation: (C, C); anything where unknown.
    known: (C, C) bool, symmetric.
    wavelengths: of the C bands, nanometres.
    reference: a correlation, and the wavelengths of its bands, that the unknown entries are interpolated in.

  Returns:
    (C, C) float64. Where predicted entries contradict known ones, negative eigenvalues are set to zero, as in the
    first step of N. J. Higham, Computing the nearest correlation matrix, IMA J. Numerical Analysis 22 (2002).
  """
  guessed = predicted(*reference, wavelengths)[len(reference[1]) :, len(reference[1]) :]
  together = np.where(known, correlation, guessed)
  np.fill_diagonal(together, 1)
  return semidefinite(together)


def leave_one_out(correlation: np.ndarray, wavelengths: Sequence[float]) -> np.ndarray:
  """Each band's correlations as predicted from the other bands' alone, (C, C): row c is for band c as unknown."""
  count = len(wavelengths)
  rows = np.ones((count, count))
  for band in range(count):
    others = [index for index in range(count) if index != band]
    known = [wavelengths[index] for index in others]
    rows[band, others] = predicted(correlation[np.ix_(others, others)], known, [wavelengths[band]])[-1, :-1]
  return rows


def _logarithms(wavelengths: Sequence[float]) -> np.ndarray:
  """(C,) the natural logarithm of each wavelength."""
  values = np.asarray(wavelengths, np.float64)
  if not (values > 0).all():
    raise ValueError('wavelengths must be above 0 nanometres')
  return np.log(values)


def _covariance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  distance = np.sqrt(3) * np.abs(one[:, None] - other) / LENGTH
  return (1 + distance) * np.exp(-distance)


def _joint(correlation: np.ndarray, known: np.ndarray, new: np.ndarray) -> np.ndarray:
  """The correlation of known and new bands: each new one is a mixture of the known ones and a remainder."""
  among, count = _covariance(known, known) + NUGGET * np.eye(len(known)), len(known)
  across, inside = _covariance(new, known), _covariance(new, new) + NUGGET * np.eye(len(new))
  # Kriging weights that sum to one: the last row and column of the system are the constraint.
  system = np.block([[among, np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
  right = np.hstack([across, np.ones((len(new), 1))])
  weights = np.linalg.solve(system, right.T).T[:, :count]
  remainder = inside - weights @ across.T - across @ weights.T + weights @ among @ weights.T
  mixtures = weights @ correlation
  variance = mixtures @ weights.T + remainder
  deviation = np.sqrt(np.maximum(variance.diagonal(), NUGGET))
  mixtures /= deviation[:, None]
  joint = np.block([[correlation, mixtures.T], [mixtures, variance / np.outer(deviation, deviation)]])
  np.fill_diagonal(joint, 1)
  return joint
