import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets.augment import presence
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError

KEY = jax.random.key(0)


@pytest.mark.parametrize('mode', presence.MODES)
@pytest.mark.parametrize('channels', [1, 3, 13])
def test_no_example_loses_its_last_channel(mode, channels):
  kept = presence.sample_channels(KEY, mode, (2000, channels), probability=1.0, subsets=[(0,), (channels - 1,)])
  assert kept.shape == (2000, presence.PASSES[mode], channels) and kept.any(axis=2).all()


def test_a_pair_is_all_channels_and_an_incomplete_subset():
  full, incomplete = np.moveaxis(np.asarray(presence.sample_channels(KEY, 'pair', (12000, 3), probability=0.0)), 1, 0)
  assert full.all()
  subsets, counts = np.unique(incomplete, axis=0, return_counts=True)
  assert len(subsets) == 6 and not subsets.all(1).any() and subsets.any(1).all()
  # Sizes 1 and 2 with even odds, 3 subsets of each.
  np.testing.assert_allclose(counts / 12000, 1 / 6, atol=0.02)
  assert np.asarray(presence.sample_channels(KEY, 'pair', (4, 1), probability=0.0)).all()


def test_a_sandwich_is_all_channels_one_drawn_evenly_and_a_random_subset():
  full, single, random = np.moveaxis(
    np.asarray(presence.sample_channels(KEY, 'sandwich', (12000, 3), probability=0.0)), 1, 0
  )
  assert full.all() and (single.sum(axis=1) == 1).all()
  np.testing.assert_allclose(single.mean(axis=0), 1 / 3, atol=0.02)
  np.testing.assert_allclose(np.bincount(random.sum(axis=1), minlength=4) / 12000, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.02)


def test_hierarchical_draws_sizes_evenly_and_then_members_evenly():
  kept = np.asarray(presence.sample_channels(KEY, 'hierarchical', (12000, 3), probability=0.0))[:, 0]
  counts = collections.Counter(map(tuple, kept.tolist()))
  assert len(counts) == 7
  for subset, count in counts.items():
    expected = 12000 / 3 / {1: 3, 2: 3, 3: 1}[sum(subset)]
    assert abs(count - expected) < 5 * expected**0.5


def test_listed_draws_each_of_its_subsets_evenly_and_no_other():
  listed = ChannelSet.of('RGBN').subsets('full;RG;N')
  kept = np.asarray(presence.sample_channels(KEY, 'listed', (12000, 4), probability=0.0, subsets=listed))[:, 0]
  counts = collections.Counter(tuple(np.flatnonzero(row).tolist()) for row in kept)
  assert counts.keys() == {(0, 1, 2, 3), (0, 1), (3,)}
  np.testing.assert_allclose([count / 12000 for count in counts.values()], 1 / 3, atol=0.02)


def test_drop_hits_its_share_and_leaves_each_other_channel_even_odds():
  kept = np.asarray(presence.sample_channels(KEY, 'drop', (12000, 3), probability=0.5))[:, 0]
  sizes = np.bincount(kept.sum(axis=1), minlength=4) / 12000
  np.testing.assert_allclose(sizes, [0, 0.125, 0.25, 0.625], atol=0.02)
  np.testing.assert_allclose(kept.mean(axis=0), kept.mean(), atol=0.02)


def test_full_and_random_keeps_a_share_full():
  kept = np.asarray(presence.sample_channels(KEY, 'full_and_random', (12000, 4), probability=0.3))[:, 0]
  sizes = np.bincount(kept.sum(axis=1), minlength=5) / 12000
  np.testing.assert_allclose(sizes, [0, 0.1, 0.1, 0.1, 0.7], atol=0.02)


def test_none_keeps_all():
  assert presence.sample_channels(KEY, 'none', (5, 3), probability=1.0).all()


@pytest.mark.parametrize('mode', presence.MODES)
def test_an_example_draws_by_key_and_place_alone(mode):
  options = {'probability': 0.5, 'subsets': [(0, 1), (2,)]}
  few = presence.sample_channels(KEY, mode, (64, 3), **options)
  many = presence.sample_channels(KEY, mode, (128, 3), **options)
  other = presence.sample_channels(jax.random.key(1), mode, (64, 3), **options)
  np.testing.assert_array_equal(few, many[:64])
  if mode != 'none':
    assert (few != other).any() and (few != many[64:]).any()


def test_left_out_channels_are_absent_and_blackened_ones_are_present_and_black():
  images = jnp.full((400, 2, 2, 3), 7.0)
  kept = jnp.asarray([[[True, False, True]]] * 400)
  everything = jnp.ones((400, 3), bool)
  absent, mask = presence.drop_channels(KEY, images, kept, everything, fill='absent')
  assert (absent == 7).all() and (mask == kept).all()
  black, mask = presence.drop_channels(KEY, images, kept, everything, fill='black')
  assert (black[..., 1] == 0).all() and (black[..., [0, 2]] == 7).all() and mask.all()
  either, mask = presence.drop_channels(KEY, images, kept, everything, fill='either')
  is_black = either[:, 0, 0, 1] == 0
  assert (is_black == mask[:, 0, 1]).all() and 150 < is_black.sum() < 250


def test_channels_that_an_example_lacks_stay_absent_and_it_keeps_at_least_one():
  images, present = jnp.ones((2, 2, 2, 3)), jnp.asarray([[True, True, False], [False, False, True]])
  kept = jnp.asarray([[[True, False, True]]] * 2)
  for fill in presence.FILLS:
    mask = presence.drop_channels(KEY, images, kept, present, fill=fill)[1][:, 0]
    assert not (mask & ~present).any() and mask.any(axis=1).all()
  _, mask = presence.drop_channels(KEY, images, ~kept, present, fill='absent')
  np.testing.assert_array_equal(mask[:, 0], [[False, True, False], [False, False, True]])


def test_unknown_names_are_told_with_those_there_are():
  with pytest.raises(InputError, match='there are none, drop'):
    presence.sample_channels(KEY, 'half', (2, 3), probability=0.5)
  with pytest.raises(InputError, match='there are absent, black'):
    presence.check('none', 'grey', 0.0, has_subsets=False)
  with pytest.raises(InputError, match="passes of mode 'sandwich' share"):
    presence.check('sandwich', 'black', 0.0, has_subsets=False)
  with pytest.raises(InputError, match='needs the subsets to draw from; list them in presence.subsets'):
    presence.sample_channels(KEY, 'listed', (2, 3), probability=0.5)
