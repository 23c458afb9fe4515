"""Mixup and cutmix: an example gets pixels of a partner in the same batch, and its label a share of the partner's.

H. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018. S. Yun et al., CutMix: Regularization Strategy to
Train Strong Classifiers with Localizable Features, ICCV 2019.

The partner of a row is the row before it in the global batch, which is shuffled, and that of the first row is the last.
So pairs depend neither on the number of devices nor on that of microbatches. Amounts are drawn for each example, from
(key, position in the batch).

Where channels can be absent, an example is mixed only if its partner has every channel that it has; otherwise it stays
as it is. Its present channels do not change. A mixed label therefore holds in every subset of the channels that the
network sees afterwards.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxnets.errors import InputError

_STREAM = 0x6D697875  # separates these draws from others that are derived from the same key


def mix_images(
  key: jax.Array, images: jax.Array, present: jax.Array, *, mixup: float = 0.0, cutmix: float = 0.0
) -> jax.Array:
  """Mixes pixels of partners into images. With both options at 0 it returns the images.

  Mixup takes the weighted mean of an image and its partner, and cutmix takes a box from the partner. With both, each
  example gets one of them, with even odds.

  Args:
    key: a JAX key.
    images: (b, S, S, C) float32.
    present: (b, C) bool, the channels that each example really has.
    mixup: parameter alpha of the distribution Beta(alpha, alpha) of the partner's weight; 0 for no mixup.
    cutmix: the same for the share of the image's area that the box has before it is cut off at the border; 0 for no
      cutmix.

  Returns:
    (b, S, S, C) float32.

  Raises:
    InputError: for a negative option.
  """
  if not enabled(mixup=mixup, cutmix=cutmix):
    return images
  weight = _partner_weight(key, present, images.shape[1], mixup, cutmix)
  return (1 - weight) * images + weight * jnp.roll(images, 1, axis=0)


def mix_labels(
  key: jax.Array,
  labels: jax.Array,
  present: jax.Array,
  *,
  num_classes: int,
  image_size: int,
  mixup: float = 0.0,
  cutmix: float = 0.0,
) -> jax.Array:
  """The soft labels of the images that `mix_images` makes with the same key, presence and options.

  Args:
    key, present, mixup, cutmix: see `mix_images`.
    labels: (b,) int, below num_classes.
    num_classes: K.
    image_size: S, pixels.

  Returns:
    (b, K) float32, each row a distribution: the partner's class has the mean weight of the partner's pixels.

  Raises:
    InputError: for a negative option.
  """
  targets = jax.nn.one_hot(labels, num_classes)
  if not enabled(mixup=mixup, cutmix=cutmix):
    return targets
  weight = _partner_weight(key, present, image_size, mixup, cutmix).mean(axis=(1, 2))
  return (1 - weight) * targets + weight * jnp.roll(targets, 1, axis=0)


def enabled(*, mixup: float = 0.0, cutmix: float = 0.0) -> bool:
  """Whether anything is mixed.

  Raises:
    InputError: for a negative option.
  """
  for name, value in (('mixup', mixup), ('cutmix', cutmix)):
    if value < 0:
      raise InputError(f'{name} is {value}; it must be the parameter of a beta distribution, above 0, or 0 for none')
  return bool(mixup or cutmix)


def _partner_weight(key: jax.Array, present: jax.Array, size: int, mixup: float, cutmix: float) -> jax.Array:
  """The partner's weight in each pixel of each example: (b, S, S, 1), or (b, 1, 1, 1) for all pixels alike."""
  key_choice, key_mixup, key_area, key_box = jax.random.split(jax.random.fold_in(key, _STREAM), 4)
  batch = present.shape[0]
  weights = []
  if mixup:
    weights.append(jax.random.beta(key_mixup, mixup, mixup, (batch, 1, 1, 1)))
  if cutmix:
    area = jax.random.beta(key_area, cutmix, cutmix, (batch, 1))
    weights.append(_boxes(area, jax.random.uniform(key_box, (batch, 2)), size))
  weight = weights[0]
  if len(weights) == 2:
    weight = jnp.where(jax.random.bernoulli(key_choice, 0.5, (batch, 1, 1, 1)), weights[0], weights[1])
  complete = (jnp.roll(present, 1, axis=0) | ~present).all(axis=1)
  return jnp.where(complete[:, None, None, None], weight, 0.0)


def _boxes(area: jax.Array, centre: jax.Array, size: int) -> jax.Array:
  """1 inside square boxes and 0 outside: (b, S, S, 1), from areas (b, 1) and centres (b, 2), as shares of the image."""
  half = jnp.sqrt(area) / 2
  low, high = (jnp.round(size * edge)[:, None] for edge in (centre - half, centre + half))
  pixel = jnp.arange(size)[None, :, None]
  inside = (low <= pixel) & (pixel < high)
  return (inside[:, :, None, :1] & inside[:, None, :, 1:]).astype(jnp.float32)
