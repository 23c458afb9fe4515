"""Which channels of a network are which of the data: by name, alias and wavelength, never by position."""

import pytest

from flaxnets.channels import ChannelSet
from flaxnets.data.band_names import identify
from flaxnets.errors import InputError
from flaxnets.inference.matching import match


@pytest.mark.parametrize(
  ('network', 'data', 'partners'),
  [
    ('RGB', 'B02,B03,B04,B08', {'B02': 'B', 'B03': 'G', 'B04': 'R'}),
    ('RGB', 'B1,B2,B3,B4,B8A', {'B2': 'B', 'B3': 'G', 'B4': 'R'}),  # B8A is only Sentinel-2's
    ('RGBN', 'blue,green,red,nir', {'blue': 'B', 'green': 'G', 'red': 'R', 'nir': 'N'}),
    ('B02,B03,B04,B08', 'RGB', {'R': 'B04', 'G': 'B03', 'B': 'B02'}),
    ('B04,B8A', 'R,NIR', {'R': 'B04', 'NIR': 'B8A'}),  # the near infrared bands stand in for each other
    ('B04,B8A,B08', 'NIR,R', {'NIR': 'B08', 'R': 'B04'}),  # unless there is the same one
    ('RGB', 'VV,VH', {}),
    ('DAPI,GFP', 'GFP,DAPI', {'GFP': 'GFP', 'DAPI': 'DAPI'}),
  ],
)
def test_bands_are_matched_by_what_their_names_mean(network, data, partners):
  found = match(ChannelSet.of(network), ChannelSet.of(data))
  assert found.partners == partners
  assert set(found.new) == set(ChannelSet.of(data).names) - set(partners)
  assert set(found.absent) == set(ChannelSet.of(network).names) - set(partners.values())


def test_a_name_with_several_meanings_needs_the_sensor():
  data = ChannelSet.of('B4,B5')
  with pytest.raises(InputError, match=r"'B4' is red \(sentinel2\), red \(landsat8\), nir \(landsat7\); say which"):
    match(ChannelSet.of('R,N'), data)
  assert match(ChannelSet.of('R,N'), data, sensor='landsat8').partners == {'B4': 'R', 'B5': 'N'}
  assert match(ChannelSet.of('R,N'), data, sensor='landsat7').partners == {'B4': 'N'}
  assert match(ChannelSet.of('R,N'), data, {'R': 'B4'}).partners == {'B4': 'R'}
  thermal = ChannelSet.of('B2,B3,B4,B5,B6,B7,B10,B11')  # a Landsat 8 stack, whose names are Sentinel-2's too
  with pytest.raises(InputError, match=r"'B5' is rededge071 \(sentinel2\), nir08 \(landsat8\); say which"):
    identify(thermal)
  assert identify(thermal, 'landsat8')[-1].wavelength == 12005
  with pytest.raises(InputError, match="no sensor 'spot'"):
    match(ChannelSet.of('R,N'), data, sensor='spot')


def test_wavelengths_match_bands_without_meaningful_names():
  data = ChannelSet(('b1', 'b2', 'b3'), (480.0, 655.0, 900.0))
  found = match(ChannelSet.of('RGB'), data)
  assert found.partners == {'b1': 'B', 'b2': 'R'} and found.new == ('b3',) and found.absent == ('G',)
  assert found.reasons['b2'] == '655 and 660 nm'
  assert identify(ChannelSet(('B4', 'B5'), (654.5, 865.0)))[1].wavelength == 865.0  # wavelengths settle it


def test_one_name_for_two_wavelengths_is_refused():
  with pytest.raises(InputError, match="channel 'x' is at 800 nm in the data and at 500 nm in the network"):
    match(ChannelSet(('x',), (500.0,)), ChannelSet(('x',), (800.0,)))
  assert match(ChannelSet(('x',), (500.0,)), ChannelSet(('x',), (800.0,)), {'x': 'x'}).partners == {'x': 'x'}


def test_a_given_pair_comes_first_and_is_checked():
  given = {'R': 'B08', 'G': 'B04', 'B': 'B03'}  # infrared as red: a false-colour image
  found = match(ChannelSet.of('RGB'), ChannelSet.of('B02,B03,B04,B08'), given)
  assert found.partners == {'B03': 'B', 'B04': 'G', 'B08': 'R'} and found.new == ('B02',)
  assert 'B08 is R of the network (given)' in found.describe()
  with pytest.raises(InputError, match='gives one channel of the data twice'):
    match(ChannelSet.of('RGB'), ChannelSet.of('B02,B03'), {'R': 'B02', 'G': 'B02'})
