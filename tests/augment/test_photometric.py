"""Brightness, contrast and noise against their definition, and a training view with and without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.augment.photometric import jitter
from flaxnets.errors import InputError

KEY = jax.random.key(7)
STD = np.asarray([10.0, 1000.0, 0.2, 5.0], np.float32)


def images_of(channels=4, batch=300, size=6):
  noise = np.random.default_rng(0).normal(size=(batch, size, size, channels))
  return (3 * STD[:channels] + STD[:channels] * noise).astype(np.float32)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_brightness_shifts_every_channel_of_every_example_by_up_to_its_share_of_a_deviation(channels):
  images = images_of(channels)
  shift = (np.asarray(jitter(KEY, images, STD[:channels], brightness=0.5)) - images) / STD[:channels]
  np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-4)
  drawn = shift[:, 0, 0]
  assert -0.5 <= drawn.min() < -0.45 and 0.45 < drawn.max() <= 0.5
  np.testing.assert_allclose(drawn.std(0), 1 / np.sqrt(12), atol=0.04)  # uniform, of width 1
  correlation = np.corrcoef(drawn.T).reshape(channels, channels)
  np.testing.assert_allclose(correlation, np.eye(channels), atol=0.2)  # channels are drawn independently


def test_contrast_scales_around_the_mean_of_the_channel_in_the_image():
  images = images_of()
  changed = np.asarray(jitter(KEY, images, STD, contrast=0.4), np.float64)
  np.testing.assert_allclose(changed.mean((1, 2)), images.mean((1, 2)), rtol=1e-5)
  factor = changed.std((1, 2)) / images.std((1, 2))
  np.testing.assert_allclose(
    changed - changed.mean((1, 2), keepdims=True),
    factor[:, None, None] * (images - images.mean((1, 2), keepdims=True)),
    atol=1e-3,
    rtol=1e-3,
  )
  assert 0.6 <= factor.min() < 0.65 and 1.35 < factor.max() <= 1.4


def test_noise_is_normal_with_a_deviation_that_is_uniform_up_to_the_option():
  images = np.zeros((300, 30, 30, 4), np.float32)
  noise = np.asarray(jitter(KEY, images, STD, noise=0.5)) / STD
  deviation = noise.std((1, 2))
  assert 0 <= deviation.min() < 0.03 and 0.46 < deviation.max() < 0.55
  np.testing.assert_allclose(deviation.mean(0), 0.25, atol=0.03)
  scaled = noise / deviation[:, None, None]
  np.testing.assert_allclose([scaled.mean(), (scaled**4).mean()], [0, 3], atol=0.02)
  assert abs(np.mean(scaled[:, 1:] * scaled[:, :-1])) < 0.01  # pixels are independent


def test_the_same_setting_does_the_same_to_bytes_and_to_reflectances():
  bytes_like = images_of()
  options = {'brightness': 0.3, 'contrast': 0.3, 'noise': 0.1}
  reference = np.asarray(jitter(KEY, bytes_like, STD, **options))
  scaled = np.asarray(jitter(KEY, bytes_like * 257, STD * 257, **options))
  np.testing.assert_allclose(scaled, reference * 257, rtol=1e-4)


def test_a_channel_does_not_depend_on_what_stands_in_the_others():
  options = {'brightness': 0.3, 'contrast': 0.3, 'noise': 0.1}
  images = images_of()
  without = images.copy()
  without[..., 1] = 0  # an absent plane
  first, second = (np.asarray(jitter(KEY, each, STD, **options)) for each in (images, without))
  np.testing.assert_array_equal(first[..., [0, 2, 3]], second[..., [0, 2, 3]])


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'brightness': -0.1}, 'brightness is -0.1; it must be a multiple'),
    ({'noise': -1}, 'noise is -1; it must be a multiple'),
    ({'contrast': 1.5}, 'contrast is 1.5; it must be the largest relative change, from 0 to 1'),
    ({'contrast': -0.5}, 'contrast is -0.5'),
  ],
)
def test_an_amount_outside_its_range_is_refused_by_name(options, words):
  with pytest.raises(InputError, match=words):
    jitter(KEY, images_of(), STD, **options)


def view_of(**changes):
  config = configs.default()
  config.image_size = 12
  config.update_from_flattened_dict(changes)
  statistics = {'mean': np.float32([120, 110, 100]), 'std': np.float32([60, 55, 50])}
  return jax.jit(experiment.training_view_of(config, (0, 1, 2), (20, 20), statistics))


def batch_of(images):
  count = len(images)
  return {
    'image': jnp.asarray(images),
    'size': jnp.full((count, 2), 20),
    'label': jnp.zeros(count, jnp.int32),
    'present': jnp.ones((count, 3), bool),
  }


def test_a_config_field_changes_the_training_view_and_only_its_pixels():
  batch = batch_of(np.random.default_rng(1).integers(0, 256, (8, 20, 20, 3), np.uint8))
  plain, present = view_of()(3, batch)
  brighter, still_present = view_of(**{'augment.brightness': 0.5})(3, batch)
  np.testing.assert_array_equal(present, still_present)
  shift = np.asarray(brighter - plain)
  assert (np.abs(shift).max(axis=(1, 2)) > 0).all()
  np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-3)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('contrast', 2.0, '^augment: contrast is 2.0; it must be'),
    ('flip', 1.5, '^augment: flip is 1.5; it must be'),
    ('perspective', 0.9, '^augment: perspective is 0.9; it must be'),
    ('mixup', -1.0, '^augment: mixup is -1.0; it must be'),
  ],
)
def test_an_option_of_the_config_outside_its_range_is_refused_with_the_name_of_its_group(field, value, words):
  with pytest.raises(InputError, match=words):
    view_of(**{f'augment.{field}': value})(3, batch_of(np.zeros((2, 20, 20, 3), np.uint8)))


def test_with_every_amount_at_zero_the_compiled_program_has_no_trace_of_it():
  batch = batch_of(np.zeros((8, 20, 20, 3), np.uint8))
  default, noisy = (view_of(**fields).lower(3, batch).as_text() for fields in ({}, {'augment.noise': 0.1}))
  assert 'erf_inv' in noisy and 'erf_inv' not in default
  assert jitter(KEY, batch['image'], STD) is batch['image']
