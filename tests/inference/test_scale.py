"""Whether pixels are on the scale of the training data is decided without copies of them."""

import tracemalloc

import numpy as np
import pytest

from flaxnets.errors import InputError
from flaxnets.inference import scale
from tests.networks import untrained

DTYPES = ('bool', 'uint8', 'int8', 'uint16', 'int64', 'float16', 'float32', 'float64')


def images_of(dtype, count=5):
  values = np.random.default_rng(0).uniform(-100, 100, (count, 6, 7, 3))
  return (values > 0 if dtype == 'bool' else np.abs(values) if dtype[0] == 'u' else values).astype(dtype)


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_magnitude_is_that_of_the_present_planes(dtype):
  images, present = images_of(dtype), np.ones((5, 3), bool)
  images[0, 0, 0] = True if dtype == 'bool' else np.iinfo(dtype).min if dtype == 'int8' else 90
  wide = images.astype(np.float64)
  expected = np.abs(wide).max(), np.sqrt(np.square(wide).mean())
  np.testing.assert_allclose(scale.magnitude(images), expected, rtol=1e-12)
  np.testing.assert_allclose(scale.magnitude(images, present), expected, rtol=1e-12)
  present[0], present[3, 1] = False, False
  planes = np.moveaxis(wide, 3, 1)[present]
  expected = np.abs(planes).max(), np.sqrt(np.square(planes).mean())
  np.testing.assert_allclose(scale.magnitude(images, present), expected, rtol=1e-12)


def test_what_is_absent_has_no_magnitude():
  assert scale.magnitude(images_of('float32', 0)) == (0, 0)
  assert scale.magnitude(images_of('float32'), np.zeros((5, 3), bool)) == (0, 0)


@pytest.mark.parametrize('absent', [False, True])
def test_the_scale_of_200_images_is_checked_in_a_twentieth_of_their_memory(absent):
  net, images = untrained(small=True), np.random.default_rng(0).uniform(0, 255, (200, 64, 64, 3)).astype(np.float32)
  present = np.ones((200, 3), bool)
  present[5, 1] = not absent
  tracemalloc.start()
  try:
    net.check_scale(images, (0, 1, 2), present)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < images.nbytes / 20
  with pytest.raises(InputError, match='give raw pixels on that scale'):
    net.check_scale(images / np.float32(255), (0, 1, 2), present)
