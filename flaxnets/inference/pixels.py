"""Images in an array as a network takes them: numbers of the right shape, and which of their planes are present."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError, first_line


def numbers(images: Any, channels: ChannelSet, order: Sequence[int]) -> np.ndarray:
  """The images (n, height, width, m) as an array of numbers that JAX takes.

  Args:
    images: the array.
    channels: the network's.
    order: indices of the m channels in them, in the images' order.

  Raises:
    InputError: for another shape, or what are no real numbers.
  """
  images = array_of(images)
  images = images.astype(images.dtype.newbyteorder('='), copy=False)  # JAX takes no others
  if images.ndim != 4 or images.shape[-1] != len(order):
    raise InputError(
      f'images are (n, height, width, {len(order)}) for the channels {channels.label(order)}, '
      f'but these are {images.shape}{_remedy(images.shape, len(order))}'
    )
  if len(images) and 0 in images.shape[1:3]:
    raise InputError(f'images are {images.shape}, and so have no pixels')
  if images.dtype.kind not in 'biuf':
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise InputError(f'images are {images.dtype}; numbers such as uint8, uint16 or float32 were expected')
    images = images.astype(np.float32)  # bfloat16 and its like are no floats to NumPy
  return images


def array_of(images: Any) -> np.ndarray:
  """What a caller gives as an array of any library, in NumPy. Masked pixels become NaN.

  Raises:
    InputError: where NumPy cannot take it, such as a tensor on a GPU or one that requires gradients.
  """
  if np.ma.is_masked(images):
    floats = images.dtype if images.dtype.kind == 'f' else np.float32
    return images.astype(floats).filled(np.nan)
  try:
    return np.asarray(images)
  except (RuntimeError, TypeError, ValueError) as error:
    raise InputError(
      f'images are a {type(images).__name__}, which NumPy does not take ({first_line(error)}); '
      'give an array such as tensor.detach().cpu().float().numpy()'
    ) from None


def _remedy(shape: tuple[int, ...], channels: int) -> str:
  """What makes images of another shape (n, height, width, channels), as the end of a message; '' if that is unknown."""
  if len(shape) == 1:
    return '; give files as a list: list(images)'
  if len(shape) == 2 and channels == 1:
    return '; for one image give images[np.newaxis, ..., np.newaxis]'
  if len(shape) == 3 and shape[-1] == channels:
    return '; for one image give images[np.newaxis]'
  if len(shape) == 3 and shape[0] == channels:
    return '; for one image give np.moveaxis(images, 0, -1)[np.newaxis]'
  if len(shape) == 3 and channels == 1:
    return '; for images (n, height, width) give images[..., np.newaxis]'
  if len(shape) == 4 and shape[1] == channels:
    return '; channels come last, so give np.moveaxis(images, 1, -1)'
  return '; name the channels of these with channels=' if len(shape) == 4 else ''


def presence(present: Any, count: int, channels: ChannelSet, order: Sequence[int]) -> np.ndarray:
  """The planes that a caller says are present, as (n, m) bool.

  Args:
    present: (n, m) bool, or (m,) bool for all images.
    count: n, the number of images.
    channels, order: see `numbers`.

  Raises:
    InputError: for another shape or type.
  """
  expected = f'bool ({count}, {len(order)}), a value for each image and each of the channels {channels.label(order)}'
  try:
    present = np.asarray(present)
  except ValueError:
    raise InputError(f'present has rows of several lengths; it must be {expected}') from None
  if present.dtype != bool or present.shape not in ((count, len(order)), (len(order),)):
    raise InputError(
      f'present is {present.dtype} {present.shape}; it must be {expected}, or ({len(order)},) for all images'
    )
  return np.broadcast_to(present, (count, len(order)))


def without_absent(
  images: np.ndarray, channels: ChannelSet, order: Sequence[int], present: np.ndarray | None = None, first: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
  """The images with zeros in place of absent planes, and the (n, m) mask of present planes; None for all.

  Absent are the planes that `present` says are, and those that are NaN throughout.

  Args:
    images: (n, height, width, m) numbers.
    channels, order: see `numbers`.
    present: (n, m) bool; None for all.
    first: the number of the first image in messages.

  Raises:
    InputError: for an image without any channel, or a present plane with pixels that are not finite.
  """
  finite = images.dtype.kind != 'f' or np.isfinite(images).all()
  if finite and (present is None or present.all()):
    return images, None
  present = np.ones((len(images), len(order)), bool) if present is None else present
  if not finite:
    present = present & ~np.isnan(images).all(axis=(1, 2))
  images = np.where(present[:, np.newaxis, np.newaxis], images, images.dtype.type(0))
  wrong = ~np.isfinite(images).all(axis=(1, 2))
  if wrong.any():
    image, plane = np.argwhere(wrong)[0]
    raise InputError(
      f'image {first + image} has NaN or infinite pixels in channel {channels.names[order[plane]]}; '
      'an absent channel is NaN throughout, a present one nowhere'
    )
  if not present.any(axis=1).all():
    raise InputError(f'image {first + present.any(axis=1).argmin()} has none of the channels {channels.label(order)}')
  return images, present
