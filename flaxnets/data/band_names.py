"""Which band a name stands for: 'R', 'red', Sentinel-2's 'B04' and Landsat 8's 'B4' are the same part of the spectrum.

Bands are known here by the common names of the STAC electro-optical extension (https://github.com/stac-extensions/eo),
such as 'red' and 'nir'. Centre wavelengths are nominal, in nanometres: Sentinel-2's are those of `flaxnets.data.bands`;
Landsat's are the middles of the ranges that the U.S. Geological Survey gives (https://www.usgs.gov/landsat-missions).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flaxnets.channels import ChannelSet
from flaxnets.data.bands import SENTINEL2
from flaxnets.errors import InputError

_SENTINEL2_COMMON = {
  'B01': 'coastal',
  'B02': 'blue',
  'B03': 'green',
  'B04': 'red',
  'B05': 'rededge071',
  'B06': 'rededge075',
  'B07': 'rededge078',
  'B08': 'nir',
  'B8A': 'nir08',
  'B09': 'nir09',
  'B10': 'cirrus',
  'B11': 'swir16',
  'B12': 'swir22',
}


@dataclasses.dataclass(frozen=True)
class Band:
  """A part of the spectrum.

  Attributes:
    common: STAC's common name; '' where only the wavelength is known.
    wavelength: its centre in nanometres, None if unknown.
  """

  common: str
  wavelength: float | None


# Sentinel-2's bands are also written without the zero, as in Google Earth Engine: B4 for B04.
SENSORS: dict[str, dict[str, Band]] = {
  'sentinel2': {
    name: Band(_SENTINEL2_COMMON[band], wavelength)
    for band, wavelength in SENTINEL2.items()
    for name in {band, band.replace('B0', 'B')}
  },
  'landsat8': {  # Operational Land Imager and Thermal Infrared Sensor of Landsat 8 and 9
    'B1': Band('coastal', 443.0),
    'B2': Band('blue', 482.0),
    'B3': Band('green', 561.5),
    'B4': Band('red', 654.5),
    'B5': Band('nir08', 865.0),
    'B6': Band('swir16', 1608.5),
    'B7': Band('swir22', 2200.5),
    'B8': Band('pan', 589.5),
    'B9': Band('cirrus', 1373.5),
    'B10': Band('lwir11', 10895.0),
    'B11': Band('lwir12', 12005.0),
  },
  'landsat7': {  # Thematic Mapper of Landsat 4 and 5, Enhanced Thematic Mapper Plus of Landsat 7
    'B1': Band('blue', 485.0),
    'B2': Band('green', 560.0),
    'B3': Band('red', 660.0),
    'B4': Band('nir', 835.0),
    'B5': Band('swir16', 1650.0),
    'B7': Band('swir22', 2215.0),
    'B8': Band('pan', 710.0),
  },
}

# Words that mean the same for every sensor, in lower case. Wavelengths: the middles of STAC's ranges.
WORDS: dict[str, Band] = {
  word: band
  for band, words in (
    (Band('coastal', 425.0), ('coastal', 'aerosol')),
    (Band('blue', 485.0), ('b', 'blue')),
    (Band('green', 560.0), ('g', 'green')),
    (Band('yellow', 610.0), ('yellow',)),
    (Band('red', 660.0), ('r', 'red')),
    (Band('nir', 830.0), ('n', 'nir')),
    (Band('nir08', 865.0), ('nir08', 'narrownir')),
    (Band('nir09', 945.0), ('nir09', 'watervapour', 'watervapor')),
    (Band('cirrus', 1375.0), ('cirrus',)),
    (Band('swir16', 1620.0), ('swir1', 'swir16')),
    (Band('swir22', 2180.0), ('swir2', 'swir22')),
    (Band('rededge071', 705.0), ('rededge1', 'rededge071', 're1')),
    (Band('rededge075', 740.0), ('rededge2', 'rededge075', 're2')),
    (Band('rededge078', 783.0), ('rededge3', 'rededge078', 're3')),
  )
  for word in words
}

# Bands of the same common name are the same band; of these pairs too, where there is no closer partner.
NEAR_INFRARED = {'nir', 'nir08'}


def identify(channels: ChannelSet, sensor: str = '') -> tuple[Band | None, ...]:
  """What each channel's name stands for; None for a name without a known meaning.

  A name such as B4 is red for one sensor and near infrared for another. It has a meaning if a sensor is given, if the
  other names leave one sensor (B8A is only Sentinel-2's), or if all sensors that have all the names agree about it.
  Wavelengths of the channel set take the place of nominal ones.

  Args:
    channels: the names, and their wavelengths where known.
    sensor: one of SENSORS; '' to find out.

  Raises:
    InputError: for an unknown sensor, or a name that the sensors disagree about.
  """
  if sensor and sensor not in SENSORS:
    raise InputError(f'no sensor {sensor!r}; there are {", ".join(SENSORS)}')
  numbered = [name for name in channels.names if any(name in bands for bands in SENSORS.values())]
  fitting = {
    which: bands
    for which, bands in SENSORS.items()
    if (which == sensor if sensor else all(name in bands for name in numbered))
  }
  wavelengths = channels.wavelengths or (None,) * len(channels)
  return tuple(_band(name, wavelength, fitting) for name, wavelength in zip(channels.names, wavelengths, strict=True))


def _band(name: str, wavelength: float | None, sensors: Mapping[str, Mapping[str, Band]]) -> Band | None:
  meanings = {which: bands[name] for which, bands in sensors.items() if name in bands}
  if len({band.common for band in meanings.values()}) > 1:
    if wavelength is not None:
      return Band('', wavelength)
    said = ', '.join(f'{band.common} ({which})' for which, band in meanings.items())
    raise InputError(f'channel {name!r} is {said}; say which with --sensor, or give data.wavelengths')
  known = next(iter(meanings.values()), WORDS.get(name.lower().replace('_', '').replace('-', '')))
  if known is None:
    return None if wavelength is None else Band('', wavelength)
  return known if wavelength is None else Band(known.common, wavelength)
