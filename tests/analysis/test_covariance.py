"""The channel statistics of an array against NumPy's on all pixels at once."""

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest

import flaxnets
from flaxnets.analysis import covariance
from flaxnets.channels import ChannelSet
from flaxnets.data.source import ArraySource
from flaxnets.data.statistics import measure
from flaxnets.errors import InputError


def images_of(count=40, channels=4, dtype=np.float32):
  """Channels with different means, deviations and correlations."""
  random = np.random.default_rng(0)
  common = random.normal(size=(count, 8, 6, 1))
  images = 1000 * np.arange(1, channels + 1) + 50 * common + random.normal(0, 40, (count, 8, 6, channels))
  return images.astype(dtype)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16, np.int64, np.float16, np.float32, np.float64])
def test_statistics_of_complete_images_are_numpys(dtype):
  images = images_of(dtype=dtype)
  found = flaxnets.channel_statistics(images)
  pixels = images.reshape(-1, 4).astype(np.float64)
  np.testing.assert_allclose(found['mean'], np.mean(pixels, 0), rtol=1e-6)
  np.testing.assert_allclose(found['std'], np.std(pixels, 0), rtol=1e-5)
  np.testing.assert_allclose(found['correlation'], np.corrcoef(pixels.T), atol=1e-5)
  np.testing.assert_array_equal(found['low'], pixels.min(0).astype(np.float32))
  np.testing.assert_array_equal(found['high'], pixels.max(0).astype(np.float32))
  assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}


@hypothesis.given(
  images=st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda dtype: hypothesis.extra.numpy.arrays(
      dtype, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
    )
  )
)
@hypothesis.settings(max_examples=40)
def test_statistics_of_few_pixels_and_of_constant_channels_are_numpys(images):
  found = flaxnets.channel_statistics(images)
  pixels = images.reshape(-1, images.shape[-1]).T.astype(np.float64)
  constant = pixels.min(1) == pixels.max(1)
  covariance = np.cov(pixels, bias=True).reshape(len(pixels), len(pixels))
  std = np.where(constant, 1, pixels.std(1))
  correlation = np.where(constant | constant[:, None], 0, covariance / np.outer(std, std))
  np.fill_diagonal(correlation, 1)
  np.testing.assert_allclose(found['mean'], pixels.mean(1), rtol=1e-6)
  np.testing.assert_allclose(found['std'], std, rtol=1e-6)
  np.testing.assert_allclose(found['correlation'], correlation, atol=1e-6)
  np.testing.assert_array_equal(found['low'], pixels.min(1))
  np.testing.assert_array_equal(found['high'], pixels.max(1))
  assert all(values.dtype == np.float32 for values in found.values())


def presence(count=40, channels=4):
  present = np.random.default_rng(1).random((count, channels)) < 0.7
  present[:, 0] = True
  return present


def test_absent_channels_count_for_nothing_and_correlations_are_over_pairs():
  images, present = images_of(), presence()
  found = flaxnets.channel_statistics(images, present)
  for one in range(4):
    own = images[present[:, one], ..., one].astype(np.float64)
    np.testing.assert_allclose(found['mean'][one], np.mean(own), rtol=1e-6)
    np.testing.assert_allclose(found['std'][one], np.std(own), rtol=1e-5)
    assert (found['low'][one], found['high'][one]) == (own.min(), own.max())
    for other in range(one):
      both = images[present[:, one] & present[:, other]].astype(np.float64)
      expected = np.corrcoef(both[..., one].ravel(), both[..., other].ravel())[0, 1]
      np.testing.assert_allclose(found['correlation'][one, other], expected, atol=1e-5)


def test_planes_of_nan_are_absent_channels_and_add_to_presence():
  images, present = images_of(), presence()
  expected = flaxnets.channel_statistics(images, present)
  with_nan = np.where(present[:, None, None], images, np.nan)
  partly = present.copy()
  partly[::2] = True  # the others are only known as absent by their NaN
  for argument in (None, partly):
    found = flaxnets.channel_statistics(with_nan, argument)
    for name, values in expected.items():
      np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_pixels_of_channels_that_are_declared_absent_do_not_matter():
  images, present = images_of(), presence()
  expected = flaxnets.channel_statistics(images, present)
  images[~present[:, 1], 3, 3, 1] = np.inf
  np.testing.assert_array_equal(flaxnets.channel_statistics(images, present)['mean'], expected['mean'])


def test_a_memory_mapped_array_is_read_image_by_image(tmp_path, monkeypatch):
  np.save(tmp_path / 'images.npy', images_of())
  mapped = np.load(tmp_path / 'images.npy', mmap_mode='r')
  shapes, add = [], covariance.ChannelSums.add

  def watching(self, image, present):
    shapes.append(image.shape)
    return add(self, image, present)

  monkeypatch.setattr(covariance.ChannelSums, 'add', watching)
  found = flaxnets.channel_statistics(mapped)
  assert shapes == [(8, 6, 4)] * 40
  monkeypatch.undo()
  np.testing.assert_array_equal(found['correlation'], flaxnets.channel_statistics(images_of())['correlation'])


def test_lists_are_taken_as_arrays():
  images = images_of(3, 2)
  np.testing.assert_array_equal(
    flaxnets.channel_statistics(images.tolist())['std'], flaxnets.channel_statistics(images)['std']
  )


def test_a_constant_channel_and_one_that_no_image_has_get_deviation_one_and_correlation_zero():
  images = images_of()
  images[..., 1] = 7
  images[..., 2] = np.nan
  found = flaxnets.channel_statistics(images)
  assert found['std'][1:3].tolist() == [1, 1]
  assert found['mean'][1:3].tolist() == found['low'][1:3].tolist() == found['high'][1:3].tolist() == [7, 0]
  expected = np.eye(4)
  expected[0, 3] = expected[3, 0] = np.corrcoef(images[..., 0].ravel(), images[..., 3].ravel())[0, 1]
  np.testing.assert_allclose(found['correlation'], expected, atol=1e-5)


def test_small_deviations_around_a_large_mean_keep_their_digits():
  images = (1e6 + np.random.default_rng(0).normal(0, 0.5, (10, 8, 8, 2))).astype(np.float64)
  np.testing.assert_allclose(flaxnets.channel_statistics(images)['std'], images.reshape(-1, 2).std(0), rtol=1e-6)


def test_correlations_that_contradict_each_other_become_semidefinite():
  plane = np.random.default_rng(3).normal(0, 1, (30, 4, 4))
  third = np.arange(30)[:, None, None] % 3
  images = np.stack([plane, plane, np.where(third == 2, -plane, plane)], -1)  # a = b, b = c, but a = -c
  present = np.ones((30, 3), bool)
  present[np.arange(30), (np.arange(30) % 3 + 2) % 3] = False
  correlation = flaxnets.channel_statistics(images, present)['correlation']
  np.testing.assert_array_equal(correlation.diagonal(), 1)
  assert np.linalg.eigvalsh(correlation.astype(np.float64))[0] > -1e-6
  # The nearest matrix that treats the three pairs alike has correlations of +-1/2.
  np.testing.assert_allclose(correlation, [[1, 0.5, -0.5], [0.5, 1, 0.5], [-0.5, 0.5, 1]], atol=1e-5)


def test_a_pair_never_seen_together_has_no_correlation():
  images = np.random.default_rng(2).integers(0, 256, (20, 3, 3, 1)).repeat(2, -1).astype(np.uint8)
  present = np.arange(20)[:, None] % 2 == np.arange(2)
  np.testing.assert_array_equal(flaxnets.channel_statistics(images, present)['correlation'], np.eye(2))


def test_a_channel_that_is_constant_where_its_partner_is_present_has_no_correlation_with_it():
  images = np.random.default_rng(4).normal(0.1, 1, (20, 4, 4, 2)).astype(np.float32)
  images[:10, ..., 0] = 0.3
  present = np.ones((20, 2), bool)
  present[10:, 1] = False
  np.testing.assert_array_equal(flaxnets.channel_statistics(images, present)['correlation'], np.eye(2))


def test_a_source_of_the_same_images_gives_the_same_statistics():
  images, present = images_of(), presence()
  names = ChannelSet(('B1', 'B2', 'B3', 'B4'))
  source = ArraySource('arrays', images, np.zeros(40, int), names, ('one',), present)
  for name, values in flaxnets.channel_statistics(images, present).items():
    np.testing.assert_allclose(measure(source)[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
  ('images', 'present', 'words'),
  [
    (
      np.zeros((4, 4, 3)),
      None,
      r'images must be numbers \(N, H, W, C\), at least one, but these are float64 \(4, 4, 3\)',
    ),
    (np.zeros((0, 4, 4, 3)), None, r'at least one, but these are float64 \(0, 4, 4, 3\)'),
    (np.full((1, 1, 1, 1), 'a'), None, 'images must be numbers'),
    (np.zeros((2, 4, 4, 3)), np.ones((2, 2), bool), r'present must be bool \(2, 3\), but it is bool \(2, 2\)'),
    (np.zeros((2, 4, 4, 3)), np.ones((2, 3)), r'present must be bool \(2, 3\), but it is float64 \(2, 3\)'),
  ],
)
def test_arrays_of_another_form_are_refused(images, present, words):
  with pytest.raises(InputError, match=words):
    flaxnets.channel_statistics(images, present)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_single_pixels_that_are_not_finite_are_refused_by_image_and_channel(value):
  images = images_of()
  images[3, 2, 1, 2] = value
  with pytest.raises(
    InputError, match='image 3 has NaN or infinite pixels in channel 2; an absent channel must be NaN'
  ):
    flaxnets.channel_statistics(images)
