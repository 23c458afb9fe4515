import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxnets.channels import ChannelSet
from flaxnets.cli import main
from flaxnets.errors import InputError

RGB = ChannelSet.of('RGB')
SENTINEL = ChannelSet.of('B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B10,B11,B12')


def labels(channels, text):
  return [channels.label(subset) for subset in channels.subsets(text)]


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('all', ['RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B']),
    ('singles', ['R', 'G', 'B']),
    ('pairs', ['RG', 'RB', 'GB']),
    ('size>=2', ['RGB', 'RG', 'RB', 'GB']),
    ('size<2', ['R', 'G', 'B']),
    ('size==3', ['RGB']),
    ('full', ['RGB']),
    ('BR', ['RB']),
    ('R,G', ['RG']),
    ('B; RG ;full;RG', ['RGB', 'RG', 'B']),
  ],
)
def test_subsets_are_what_people_write_larger_ones_first_and_none_twice(text, expected):
  assert labels(RGB, text) == expected


def test_many_bands_are_named_with_commas_and_sampled_without_repeats():
  assert labels(SENTINEL, 'B04,B03,B02; B8A') == ['B02,B03,B04', 'B8A']
  sampled = SENTINEL.subsets('sample:64')
  assert len(set(sampled)) == 64 and SENTINEL.full in sampled
  assert sampled == SENTINEL.subsets('sample:64')
  assert {len(subset) for subset in sampled} >= set(range(2, 12))


def test_a_sample_of_more_than_there_are_is_all():
  assert RGB.subsets('sample:100') == RGB.subsets('all')


@pytest.mark.parametrize(
  ('channels', 'text', 'said'),
  [
    (RGB, 'RN', "no channel 'N'; the channels are R, G, B; subsets are channel names"),
    (RGB, 'RR', "channel 'R' is repeated in R,R"),
    (RGB, '', "cannot read the subset ''"),
    (RGB, 'size>>2', "cannot read the subset 'size>>2'"),
    (RGB, 'size>3', 'matches no subset of the 3 channels'),
    (RGB, 'sample:0', "'sample:0' is no subset; the number must be at least 1"),
    (SENTINEL, 'all', '8,191 subsets'),
    (SENTINEL, 'B99', "no channel 'B99'"),
  ],
)
def test_a_text_that_is_no_subset_is_a_one_line_error(channels, text, said):
  with pytest.raises(InputError) as error:
    channels.subsets(text)
  assert said in str(error.value)
  assert '\n' not in str(error.value)


def test_order_keeps_the_order_given_and_subset_sorts():
  assert RGB.order('BR') == (2, 0)
  assert RGB.subset('BR') == (0, 2)
  assert SENTINEL.order(['B12', 'B01']) == (12, 0)
  assert SENTINEL.order('B12') == (12,)


@pytest.mark.parametrize('names', [(), ('R', 'R'), ('',), ('a b',), ('a;b',)])
def test_a_channel_set_needs_unique_well_formed_names(names):
  with pytest.raises(InputError):
    ChannelSet(names)


def test_wavelengths_are_one_a_channel():
  assert ChannelSet.of('RGB', (665, 560, None)).wavelengths == (665, 560, None)
  with pytest.raises(InputError, match='2 wavelengths for 3 channels'):
    ChannelSet.of('RGB', (665, 560))


@pytest.mark.parametrize(
  ('text', 'names'),
  [
    ('RGB', ['R', 'G', 'B']),
    ('BGR', ['B', 'G', 'R']),
    ('RG', ['R', 'G']),
    ('RGBN', ['R', 'G', 'B', 'N']),
    ('NRG', ['N', 'R', 'G']),
    ('RGBD', ['R', 'G', 'B', 'D']),
    ('TRGB', ['T', 'R', 'G', 'B']),
    ('R', ['R']),
    ('L', ['L']),
    ('B08', ['B08']),
    ('B8A', ['B8A']),
    ('NIR', ['NIR']),
    ('SWIR', ['SWIR']),
    ('TIR', ['TIR']),
    ('DAPI', ['DAPI']),
    ('VV', ['VV']),
    ('VH', ['VH']),
    ('BB', ['BB']),
    ('red', ['red']),
    ('rgb', ['rgb']),
    ('RGB1', ['RGB1']),
    ('B08,', ['B08']),
    ('RG,', ['RG']),
    ('VV,VH', ['VV', 'VH']),
    (' B02, B03 ,B08 ', ['B02', 'B03', 'B08']),
    ('R,G,B,', ['R', 'G', 'B']),
  ],
)
def test_a_text_without_a_comma_is_one_name_unless_it_spells_red_green_blue(text, names):
  assert list(ChannelSet.of(text).names) == names


@pytest.mark.parametrize('text', ['', ',', 'R,,G', ',R', 'R G B', 'R,R'])
def test_a_text_that_lists_no_channels_is_an_error(text):
  with pytest.raises(InputError):
    ChannelSet.of(text)


def test_channels_of_a_set_are_read_by_the_names_of_the_set():
  assert ChannelSet(('VV', 'VH')).order('VH') == (1,)
  assert ChannelSet(('V', 'H')).order('VH') == (0, 1)
  assert ChannelSet(('RG', 'R', 'G')).order('RG') == (0,)
  assert ChannelSet(('R', 'G', 'B', 'NIR')).order('RG') == (0, 1)
  assert ChannelSet(('R', 'G', 'B', 'NIR')).order('NIR') == (3,)
  with pytest.raises(InputError, match="no channel 'NIR'; the channels are B02, B03"):
    ChannelSet(('B02', 'B03')).order('NIR')


@given(st.integers(1, 10), st.data())
def test_sizes_count_as_combinations_do(count, data):
  channels = ChannelSet(tuple(f'c{index}' for index in range(count)))
  size = data.draw(st.integers(1, count))
  assert len(channels.subsets(f'size=={size}')) == math.comb(count, size)
  assert len(channels.subsets('all')) == 2**count - 1


@given(
  st.integers(1, 13).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1), min_size=1)))
)
def test_a_label_reads_back_as_its_subset(pair):
  count, members = pair
  for names in (tuple('ABCDEFGHIJKLM'[:count]), SENTINEL.names[:count]):
    channels, subset = ChannelSet(names), tuple(sorted(members))
    assert channels.subsets(channels.label(subset)) == [subset]


def test_one_band_costs_a_network_of_one_channel(capsys):
  options = ['--model=resnet18', '--width=8', '--image_size=32', '--num_classes=2', '--small_images', '--json']
  assert main.run('cost', ['--channels=B08', *options]) == 0
  assert [row['channels'] for row in json.loads(capsys.readouterr().out)] == ['B08']
