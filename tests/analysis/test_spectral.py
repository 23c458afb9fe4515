"""Correlations of bands that were never seen together, from their wavelengths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxnets.analysis import spectral
from flaxnets.data.band_statistics import reference

CORRELATION, WAVELENGTHS = reference()
OFF = ~np.eye(len(WAVELENGTHS), dtype=bool)


def test_the_reference_is_a_correlation():
  np.testing.assert_array_equal(CORRELATION, CORRELATION.T)
  assert (CORRELATION.diagonal() == 1).all() and np.linalg.eigvalsh(CORRELATION)[0] > -1e-3
  assert list(WAVELENGTHS) == sorted(WAVELENGTHS)


def test_bands_of_sentinel_2_are_predicted_better_than_by_their_nearest_band():
  predicted = spectral.leave_one_out(CORRELATION, WAVELENGTHS)
  nearest = np.ones_like(CORRELATION)
  for band, wavelength in enumerate(WAVELENGTHS):
    others = np.delete(np.arange(len(WAVELENGTHS)), band)
    closest = others[np.abs(np.asarray(WAVELENGTHS)[others] - wavelength).argmin()]
    nearest[band, others] = CORRELATION[closest, others]
  error, baseline = (np.sqrt(np.square(rows - CORRELATION)[OFF].mean()) for rows in (predicted, nearest))
  assert error < 0.15 < baseline


@settings(max_examples=30)
@given(st.lists(st.floats(400, 2500), min_size=1, max_size=8))
def test_predictions_are_correlations_whatever_the_bands(wanted):
  joint = spectral.predicted(CORRELATION, WAVELENGTHS, wanted)
  np.testing.assert_allclose(joint, joint.T, atol=1e-12)
  np.testing.assert_array_equal(joint.diagonal(), 1)
  np.testing.assert_array_equal(joint[:13, :13], CORRELATION)
  assert np.linalg.eigvalsh(joint)[0] > -2e-3  # as far from semidefinite as the rounded reference
  assert np.abs(joint).max() <= 1 + 1e-6


def test_a_band_between_two_others_is_correlated_with_both():
  joint = spectral.predicted(np.asarray([[1, 0.8], [0.8, 1]]), (500.0, 600.0), (545.0, 2000.0))
  assert joint[2, 0] > 0.85 and joint[2, 1] > 0.85
  assert joint[2, 3] < joint[2, 1]


def test_only_unknown_entries_are_filled():
  known = np.ones((3, 3), bool)
  known[0, 2] = known[2, 0] = False
  correlation = np.asarray([[1, 0.9, np.nan], [0.9, 1, 0.3], [np.nan, 0.3, 1]])
  filled = spectral.filled(correlation, known, (560.0, 665.0, 842.0), reference=(CORRELATION, WAVELENGTHS))
  np.testing.assert_allclose(filled[known], correlation[known], atol=0.02)
  assert filled[0, 2] == pytest.approx(0.29, abs=0.05)  # as Sentinel-2's B03 and B08
  assert np.linalg.eigvalsh(filled)[0] > -1e-9


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ((np.eye(2), (500.0,), (600.0,)), '1 wavelengths for a correlation'),
    ((np.eye(1), (-1.0,), (600.0,)), 'above 0 nanometres'),
  ],
)
def test_impossible_bands_are_refused(arguments, said):
  with pytest.raises(ValueError, match=said):
    spectral.predicted(*arguments)
