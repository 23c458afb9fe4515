"""Which channels of a network are which channels of some data: by name, through aliases, or by wavelength."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flaxnets.channels import ChannelSet
from flaxnets.data.band_names import NEAR_INFRARED, Band, identify
from flaxnets.errors import InputError

TOLERANCE = 20.0  # nanometres; of Sentinel-2's bands, the nearest two (B08 and B8A) are 23 apart


@dataclasses.dataclass(frozen=True)
class Matching:
  """The result of `match`.

  Attributes:
    partners: for each channel of the data that the network knows, the network's channel.
    reasons: for each of them, why: 'given', 'same name', a common name such as 'red', or both wavelengths.
    new: channels of the data that the network does not know.
    absent: channels of the network that the data lack.
    wavelengths: of the data's and of the network's channels in nanometres, nominal ones included; None if unknown.
  """

  partners: dict[str, str]
  reasons: dict[str, str]
  new: tuple[str, ...]
  absent: tuple[str, ...]
  wavelengths: tuple[dict[str, float | None], dict[str, float | None]]

  def describe(self) -> list[str]:
    """The lines that a person should see."""
    lines = [f'{name} is {self.partners[name]} of the network ({self.reasons[name]})' for name in self.partners]
    if self.new:
      lines.append(f'new to the network: {", ".join(self.new)}')
    if self.absent:
      lines.append(f'not in the data: {", ".join(self.absent)} of the network')
    return lines


def match(network: ChannelSet, data: ChannelSet, given: Mapping[str, str] | None = None, sensor: str = '') -> Matching:
  """Finds the network's channel for each channel of the data. Positions say nothing.

  In this order, each for the channels that are still without a partner: `given`; the same name; the same common name
  (`flaxnets.data.band_names`); the nearest wavelength, if it is within TOLERANCE.

  Args:
    network: the network's channels.
    data: the data's channels.
    given: network's channel: data's channel. If it isn't empty, names with other meanings do not matter.
    sensor: which sensor's names the data have; '' to find out.

  Raises:
    InputError: for unknown or repeated names in `given`, an unknown sensor, a name of several meanings, or one name
      for two different wavelengths.
  """
  given = dict(given or {})
  if len(set(given.values())) < len(given):
    raise InputError(f'map (--map) gives one channel of the data twice: {", ".join(given.values())}')
  for old, new in given.items():
    network.index(old)
    data.index(new)
  theirs, ours = _bands(data, sensor, strict=not given), _bands(network, '', strict=False)
  partners = {new: old for old, new in given.items()}
  reasons = dict.fromkeys(partners, 'given')

  def pair(new: str, old: str, reason: str) -> None:
    if new not in partners and old not in partners.values():
      partners[new], reasons[new] = old, reason

  for name in data.names:
    if name in network.names and name not in partners and name not in partners.values():
      _check_same(name, ours[name], theirs[name])
      pair(name, name, 'same name')
  for same in (lambda one, other: one == other, lambda one, other: {one, other} == NEAR_INFRARED):
    for new, band in theirs.items():
      for old, known in ours.items():
        if band and known and band.common and same(band.common, known.common):
          pair(new, old, band.common)
  for distance, new, old in sorted(_distances(theirs, ours)):
    if distance <= TOLERANCE:
      pair(new, old, f'{_wavelength(theirs[new]):g} and {_wavelength(ours[old]):g} nm')
  ordered = {name: partners[name] for name in data.names if name in partners}
  return Matching(
    ordered,
    reasons,
    tuple(name for name in data.names if name not in partners),
    tuple(name for name in network.names if name not in partners.values()),
    tuple({name: _wavelength(band) for name, band in bands.items()} for bands in (theirs, ours)),  # type: ignore[arg-type]
  )


def _bands(channels: ChannelSet, sensor: str, strict: bool) -> dict[str, Band | None]:
  try:
    return dict(zip(channels.names, identify(channels, sensor), strict=True))
  except InputError:
    if strict or sensor:
      raise
  wavelengths = channels.wavelengths or (None,) * len(channels)
  return {name: value and Band('', value) for name, value in zip(channels.names, wavelengths, strict=True)}  # type: ignore[misc]


def _wavelength(band: Band | None) -> float | None:
  return band.wavelength if band else None


def _check_same(name: str, known: Band | None, band: Band | None) -> None:
  one, other = _wavelength(known), _wavelength(band)
  if one and other and abs(one - other) > 2 * TOLERANCE:
    raise InputError(
      f'channel {name!r} is at {other:g} nm in the data and at {one:g} nm in the network; name channels apart, or say '
      f'with map that they belong together (--map={name}:{name})'
    )


def _distances(theirs: Mapping[str, Band | None], ours: Mapping[str, Band | None]) -> list[tuple[float, str, str]]:
  """Of all pairs whose wavelengths are known and that no common names keep apart."""
  found = []
  for new, band in theirs.items():
    for old, known in ours.items():
      one, other = _wavelength(band), _wavelength(known)
      if one and other and not (band and known and band.common and known.common):
        found.append((abs(one - other), new, old))
  return found
