"""Names and wavelengths of the bands in data sets that TFDS prepares: its features are tensors without names."""

from __future__ import annotations

from flaxnets.channels import ChannelSet

# Centre wavelengths in nanometres, as the EuroSAT paper lists them (Helber et al., 2019, table 1). They are the nominal
# ones of ESA's Sentinel-2 User Handbook (2015); the satellites differ from these by up to some nanometres.
SENTINEL2 = {
  'B01': 443.0,
  'B02': 490.0,
  'B03': 560.0,
  'B04': 665.0,
  'B05': 705.0,
  'B06': 740.0,
  'B07': 783.0,
  'B08': 842.0,
  'B8A': 865.0,
  'B09': 945.0,
  'B10': 1375.0,
  'B11': 1610.0,
  'B12': 2190.0,
}

# EuroSAT's files hold the bands in this order, B8A last, at the values of Level 1C (reflectance x 10,000).
EUROSAT = ('B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B09', 'B10', 'B11', 'B12', 'B8A')

# So2Sat LCZ42 (Zhu et al., 2020, section III): of Sentinel-1 the real and imaginary parts of the unfiltered VH and VV
# signals, the intensities of both after the refined Lee filter, and the real and imaginary parts of the off-diagonal
# element of their filtered covariance. Of Sentinel-2 ten bands as reflectances.
SO2SAT_SENTINEL1 = ('VH_re', 'VH_im', 'VV_re', 'VV_im', 'VH_lee', 'VV_lee', 'cov_re', 'cov_im')
SO2SAT_SENTINEL2 = ('B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B11', 'B12')

# Data set and config: the planes of each feature that holds pixels, in the order in which the channels are stacked.
TFDS_FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
  'eurosat/all': {'sentinel2': EUROSAT},
  'so2sat/all': {'sentinel1': SO2SAT_SENTINEL1, 'sentinel2': SO2SAT_SENTINEL2},
}


def known_features(name: str) -> dict[str, tuple[str, ...]]:
  """The features that hold pixels, and the names of their planes, of a data set 'name/config'; {} if not known."""
  return TFDS_FEATURES.get(name, {})


def with_wavelengths(names: tuple[str, ...]) -> ChannelSet:
  """Channels of `TFDS_FEATURES` with the centre wavelengths of Sentinel-2's bands; None for radar."""
  wavelengths = tuple(SENTINEL2.get(name) for name in names)
  return ChannelSet(names, wavelengths if any(wavelengths) else ())
