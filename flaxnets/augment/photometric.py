"""Brightness, contrast and noise, drawn for each channel of each example, on the device.

Pure functions of (key, position in the batch). All amounts are relative to the deviation of a channel over the training
data, so that one setting suits 8-bit RGB and 16-bit bands alike. Channels are drawn independently, from the same
distributions for any number of channels, and an absent channel has no influence on the present ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxnets.errors import InputError

_STREAM = 0x70686F74  # separates these draws from others that are derived from the same key


def jitter(
  key: jax.Array,
  images: jax.Array,
  std: ArrayLike,
  *,
  brightness: float = 0.0,
  contrast: float = 0.0,
  noise: float = 0.0,
) -> jax.Array:
  """Changes brightness and contrast of raw images, and adds noise. With all three at 0 it returns the images.

  The new value of a pixel is `m + f (x - m) + (s + n e) std`: m is the mean of that channel in that image, and e is
  normal noise, independent for each pixel. f, s and n are drawn once for each channel of each example. Values are not
  clipped: they may leave the range of the sensor.

  Args:
    key: a JAX key.
    images: (b, h, w, C) float32, raw pixel values.
    std: (C,) deviation of each channel over the training data, raw pixel values.
    brightness: the shift s is uniform in -brightness..brightness; 0 or more.
    contrast: the factor f is uniform in 1 - contrast..1 + contrast; 0 to 1.
    noise: the deviation n of the noise is uniform in 0..noise; 0 or more.

  Returns:
    (b, h, w, C) float32.

  Raises:
    InputError: for an argument outside its range.
  """
  if brightness < 0 or noise < 0:
    name, value = ('brightness', brightness) if brightness < 0 else ('noise', noise)
    raise InputError(f'{name} is {value}; it must be a multiple of the deviation of a channel, 0 or more')
  if not 0 <= contrast <= 1:
    raise InputError(f'contrast is {contrast}; it must be the largest relative change, from 0 to 1')
  if not (brightness or contrast or noise):
    return images
  key_draws, key_noise = jax.random.split(jax.random.fold_in(key, _STREAM))
  batch, _, _, channels = images.shape
  shift, factor, deviation = jax.random.uniform(key_draws, (3, batch, 1, 1, channels), minval=-1.0)
  std = jax.lax.broadcast_to_rank(jnp.asarray(std, jnp.float32), 4)
  if contrast:
    mean = images.mean(axis=(1, 2), keepdims=True)
    images = mean + (1 + contrast * factor) * (images - mean)
  if brightness:
    images = images + brightness * shift * std
  if noise:
    amount = noise * (deviation + 1) / 2 * std
    images = images + amount * jax.random.normal(key_noise, images.shape)
  return images
