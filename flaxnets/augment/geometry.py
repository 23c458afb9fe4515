"""The part of each canvas that the network sees: one homography per example, with which `warp` resamples it once.

All functions are pure functions of (key, original sizes). They return matrices (b, 3, 3) from output to canvas pixels,
in the coordinates of `warp`. Inside this file, points of the output or of the crop are in -1..1 from edge to edge, and
points of the original or of the canvas in 0..1. So the aspect ratio of the canvas does not matter, and only
`_to_pixels` deals with pixel centres.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets.augment.warp import check_crop_ratio, check_perspective
from flaxnets.errors import InputError

_TRIES = 10  # attempts to draw a crop that fits, as in torchvision
_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)  # clockwise from the upper left

# TensorFloat-32, the default for matrix products on some devices, would move points by a tenth of a pixel.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def training_homographies(
  key: jax.Array,
  size: jax.Array,
  *,
  canvas: tuple[int, int],
  image_size: int,
  crop_scale: tuple[float, float] = (1.0, 1.0),
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
  flip: float = 0.0,
  rotation: float = 0.0,
  perspective: float = 0.0,
  perspective_probability: float = 1.0,
) -> jax.Array:
  """Random resized crop, left-right flip, rotation and perspective, multiplied into one matrix each.

  The distributions are those of torchvision's RandomResizedCrop, RandomHorizontalFlip, RandomRotation and
  RandomPerspective, in this order, except that corners move by fractions of a pixel too. Beyond the edges of a rotated
  or tilted crop the output shows the rest of the image. Row i depends only on key, i and size[i].

  Args:
    key: a JAX key.
    size: (b, 2) heights and widths of the originals, in whose pixels crops are drawn.
    canvas: height and width that the originals were resized to, pixels.
    image_size: side of the output, pixels.
    crop_scale: smallest and largest area of the crop, as a share of the original's.
    crop_ratio: smallest and largest width over height of the crop; its logarithm is uniform.
    flip: probability of a left-right flip.
    rotation: largest angle of the rotation about the centre of the crop, degrees, in either direction.
    perspective: largest shift of each corner inwards, along x and along y, as a share of half the side; below 2/3.
    perspective_probability: probability that the corners are shifted.

  Returns:
    (b, 3, 3) float32.

  Raises:
    InputError: for an argument outside its range.
  """
  _check(crop_scale, crop_ratio, flip, perspective, perspective_probability)
  size = jnp.asarray(size, jnp.int32)
  # One draw for everything: each additional one takes a third of a second to compile.
  draws = jax.random.uniform(key, (size.shape[0], 2 * _TRIES + 13))
  crop, (flipped, turned, tilted), moved = draws[:, : 2 * _TRIES + 2], draws[:, -11:-8].T, draws[:, -8:]
  box = _random_crop(crop, size, crop_scale, crop_ratio) / size[:, [1, 0, 1, 0]]
  mirror = jnp.where(flipped < flip, -1.0, 1.0)
  angle = math.radians(rotation) * (2 * turned - 1)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  reach = jnp.where(tilted < perspective_probability, perspective, 0.0)
  inwards = reach[:, None, None] * moved.reshape(-1, 4, 2)
  # The matrices lead from the output back to the image, so the last transform is undone first.
  tilt = _square_from_corners((1 - inwards) * _CORNERS[None])
  turn = _matrices((mirror * cos, mirror * sin, 0), (-sin, cos, 0), (0, 0, 1))
  return _to_pixels(_product(_box_from_square(box), _product(turn, tilt)), canvas, image_size)


def evaluation_homographies(
  size: jax.Array | np.ndarray, *, canvas: tuple[int, int], image_size: int, resize: float = 1.0
) -> jax.Array:
  """Resizes the shorter side to image_size x resize and crops the centre, as torchvision's Resize and CenterCrop.

  Args:
    size: (b, 2) heights and widths of the originals, pixels.
    canvas: height and width that the originals were resized to, pixels.
    image_size: side of the output, pixels.
    resize: size of the shorter side in relation to the output, at least 1.

  Returns:
    (b, 3, 3) float32.

  Raises:
    InputError: for resize below 1.
  """
  if resize < 1:
    raise InputError(f'resize is {resize}; it must be at least 1, or the image would not fill {image_size} pixels')
  size = jnp.asarray(size, jnp.int32)
  resized = round(image_size * resize) * size // size.min(axis=1, keepdims=True)
  start = jnp.round((resized - image_size) / 2)
  box = jnp.concatenate([start, start + image_size], axis=1) / jnp.tile(resized, 2)
  return _to_pixels(_box_from_square(box[:, [1, 0, 3, 2]]), canvas, image_size)


def _check(crop_scale, crop_ratio, flip, perspective, perspective_probability) -> None:
  if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
    raise InputError(f'crop_scale is {tuple(crop_scale)}; it must be (least, most), above 0 and up to 1')
  check_crop_ratio(crop_ratio)
  check_perspective(perspective)
  for name, value in (('flip', flip), ('perspective_probability', perspective_probability)):
    if not 0 <= value <= 1:
      raise InputError(f'{name} is {value}; it must be a probability, from 0 to 1')


def _random_crop(
  draws: jax.Array, size: jax.Array, scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
  """RandomResizedCrop's boxes: (b, 4) left, top, right, bottom in integer pixels of the original, from (b, 22) draws.

  The box is the first of ten draws of area and ratio that fits. If none fits, it is the largest centred one with an
  allowed ratio.
  """
  height, width = size.astype(jnp.float32).T
  share = scale[0] + (scale[1] - scale[0]) * draws[:, :_TRIES]
  area = (height * width)[:, None] * share
  aspect = ratio[0] * (ratio[1] / ratio[0]) ** draws[:, _TRIES : 2 * _TRIES]
  tries = jnp.round(jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], axis=-1))
  fits = ((tries > 0) & (tries <= size[:, None, :])).all(axis=-1)
  found = fits.any(axis=1, keepdims=True)
  first = jnp.take_along_axis(tries, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
  nearest = jnp.clip(width / height, ratio[0], ratio[1])
  largest = jnp.stack(
    [jnp.minimum(height, jnp.round(width / nearest)), jnp.minimum(width, jnp.round(height * nearest))], axis=-1
  )
  crop = jnp.where(found, first, largest)
  room = size - crop
  start = jnp.where(found, jnp.floor(draws[:, 2 * _TRIES :] * (room + 1)), jnp.floor(room / 2))
  return jnp.concatenate([start, start + crop], axis=1)[:, [1, 0, 3, 2]]


def _square_from_corners(corners: jax.Array) -> jax.Array:
  """The homographies that map (b, 4, 2) corners, in the order of `_CORNERS`, to `_CORNERS`.

  The map from the unit square to the corners has a closed form: P. Heckbert, Fundamentals of Texture Mapping and Image
  Warping (1989), section 2.2.3. Its adjugate is its inverse up to a factor, which does not matter for homographies.
  """
  upper_left, upper_right, lower_right, lower_left = jnp.moveaxis(corners, 1, 0)
  right, low = upper_right - lower_right, lower_left - lower_right
  skew = upper_left - upper_right + lower_right - lower_left
  g, h = _cross(skew, low) / _cross(right, low), _cross(right, skew) / _cross(right, low)
  a = jnp.concatenate([upper_right - upper_left + g * upper_right, g], axis=1)
  b = jnp.concatenate([lower_left - upper_left + h * lower_left, h], axis=1)
  c = jnp.concatenate([upper_left, jnp.ones_like(g)], axis=1)
  unit_square = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
  matrices = _product(np.array([[2, 0, -1], [0, 2, -1], [0, 0, 1]], np.float32), unit_square)
  return matrices / matrices[:, 2:, 2:]


def _cross(a: jax.Array, b: jax.Array) -> jax.Array:
  return a[:, :1] * b[:, 1:] - a[:, 1:] * b[:, :1]


def _box_from_square(box: jax.Array) -> jax.Array:
  """Maps -1..1 to boxes (b, 4): left, top, right, bottom."""
  left, top, right, bottom = box.T
  return _matrices(((right - left) / 2, 0, (left + right) / 2), (0, (bottom - top) / 2, (top + bottom) / 2), (0, 0, 1))


def _matrices(*rows: tuple) -> jax.Array:
  """(b, 3, 3) from three rows of three entries, each (b,) or a number; the first entry must be (b,)."""
  return jnp.stack(jnp.broadcast_arrays(*(entry for row in rows for entry in row)), -1).reshape(-1, 3, 3)


def _to_pixels(matrices: jax.Array, canvas: tuple[int, int], image_size: int) -> jax.Array:
  """Matrices from output to canvas pixels, from those that map -1..1 of the output to 0..1 of the canvas."""
  step, start = 2 / image_size, 1 / image_size - 1
  before = np.array([[step, 0, start], [0, step, start], [0, 0, 1]], np.float32)
  after = np.array([[canvas[1], 0, -0.5], [0, canvas[0], -0.5], [0, 0, 1]], np.float32)
  return _product(after, _product(matrices, before))
