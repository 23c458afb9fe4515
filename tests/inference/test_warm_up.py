"""Programs that are compiled before the first image arrives: prediction then compiles nothing."""

import numpy as np
import pytest

from flaxnets.errors import InputError
from tests.networks import untrained, untrained_near_zero


def photos(count, height=20, width=24, dtype=np.uint8):
  return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(dtype)


def programs(net):
  return net.compiled._cache_size()


def test_what_was_warmed_up_is_not_compiled_again_when_channels_fail():
  net, images = untrained(small=True), photos(2)
  net.warm_up('RGB;RG', 2, size=(20, 24), mask=True)
  assert programs(net) == 4  # two subsets, with and without a mask
  net.predict(images)
  net.features(list(images))
  net.predict(images, present=[True, False, True])
  net.probabilities(images[..., [1, 0]], 'GR')
  net.predict(images[..., :2], present=[[True, False], [False, True]], channels='RG')
  assert programs(net) == 4
  net.predict(images[..., 2:], 'B')
  assert programs(net) == 5


def test_images_of_any_size_are_warmed_up_where_the_network_has_a_canvas():
  net = untrained(small=True, **{'data.source': 'tfds'})
  net.warm_up(dtype='float64', mask=True)
  net.warm_up('RG')
  assert programs(net) == 3
  lacking = photos(1, 31, 17, np.float64)
  lacking[..., 1] = np.nan
  net.predict(photos(1, 31, 17, np.float64)), net.predict(lacking), net.predict(photos(1)[..., :2], 'RG')
  assert programs(net) == 3


def test_many_images_go_in_batches_of_which_the_last_is_warmed_up_too():
  net = untrained(small=True)
  net.warm_up('R', 258)
  assert programs(net) == 2
  net.predict(photos(258, 16, 16)[..., :1], 'R')
  assert programs(net) == 2


def test_a_network_whose_channels_have_means_near_0_is_warmed_up():
  net = untrained_near_zero()
  net.warm_up('G')
  assert programs(net) == 1


@pytest.mark.parametrize(
  ('arguments', 'options', 'said'),
  [
    (('RX',), {}, "no channel 'X'"),
    (('', 1), {}, "cannot read the subset ''"),
    (('full', 0), {}, r'batch sizes \[0\] and images of 16 x 16 pixels must be 1 or more'),
    (('full', 1), {'size': (0, 8)}, 'images of 0 x 8 pixels must be 1 or more'),
    (('full', 1), {'dtype': 'colour'}, "dtype is 'colour'; the images' number type was expected"),
  ],
)
def test_what_cannot_be_warmed_up_is_an_error_of_one_line(arguments, options, said):
  with pytest.raises(InputError, match=said) as raised:
    untrained(small=True).warm_up(*arguments, **options)
  assert '\n' not in str(raised.value)
