"""Resamples a canvas to the network's input, once, by a homography, antialiased, on the device.

A point is (x, y) in pixels, and integers are pixel centres, as in OpenCV: a canvas of width W covers x from -0.5 to
W - 0.5. A matrix maps (x, y, 1) of the output to homogeneous coordinates of the canvas.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flaxnets.errors import InputError

_FAR = -1e6  # pixels: outside any canvas

# The compiled code is unrolled over the canvas pixels that contribute to an output pixel: 32 x 32 at this shrink.
MAX_SUBSAMPLES = 16


def subsamples_for(
  canvas: tuple[int, int],
  image_size: int,
  *,
  crop_ratio: tuple[float, float] = (1.0, 1.0),
  perspective: float = 0.0,
  resize: float = 1.0,
) -> int:
  """The `subsamples` that `warp` needs: the largest shrink of a configuration, rounded up.

  An image that keeps its size has crops that are no wider than it, and no wider than it is high times the largest
  ratio; likewise for their height. An image that was squashed to a square can be seen completely, for which this gives
  the side too. Perspective shrinks the crop to 1 - perspective of the output. Single corners can shrink a little more,
  which `warp` treats as this shrink. Evaluation resizes the shorter side to image_size x resize.

  Args:
    canvas: height and width, pixels; those of the image, or equal.
    image_size: side of the output, pixels.
    crop_ratio: as in `geometry.training_homographies`; 1 for evaluation, whose crop is square.
    perspective: as in `geometry.training_homographies`.
    resize: as in `geometry.evaluation_homographies`.

  Raises:
    InputError: for a shrink above 16, or crop_ratio or perspective outside their range.
  """
  check_crop_ratio(crop_ratio)
  check_perspective(perspective)
  height, width = canvas
  longest = max(min(width, height * crop_ratio[1]), min(height, width / crop_ratio[0]))
  shrink = longest / max(1, round(image_size * resize)) / (1 - perspective)
  if shrink > MAX_SUBSAMPLES:
    tilted = f' with a perspective of {perspective}' if perspective else ''
    raise InputError(
      f'a canvas of {canvas[0]} x {canvas[1]} shrinks up to {shrink:.1f} times{tilted}; '
      f'the most is {MAX_SUBSAMPLES}: crop or shrink the images, set a smaller data.canvas if they are read from '
      'files, or larger ones in image_size and train.image_sizes'
    )
  return max(1, math.ceil(shrink - 1e-6))


def check_crop_ratio(crop_ratio: tuple[float, float]) -> None:
  """InputError for a range of width over height that is empty or begins at 0."""
  if not 0 < crop_ratio[0] <= crop_ratio[1]:
    raise InputError(f'crop_ratio is {tuple(crop_ratio)}; it must be (least, most), above 0')


def check_perspective(perspective: float) -> None:
  """InputError for a perspective outside 0..2/3.

  From 2/3 on, the corners may not form a convex quadrilateral, and the horizon may be inside the output.
  """
  if not 0 <= perspective < 2 / 3:
    raise InputError(f'perspective is {perspective}; it must be a share of half the side, from 0 to below 2/3')


def warp(
  images: jax.Array | np.ndarray, matrices: jax.Array, image_size: int, *, fill: ArrayLike, subsamples: int
) -> jax.Array:
  """Resamples each canvas once, by one homography per canvas.

  An output pixel is a weighted mean of canvas pixels, with triangular weights along rows and columns. The half-width of
  the triangle is max(1, s). s is the local shrink along that axis: the root of the sum of squares of the derivatives of
  that canvas coordinate by the output's x and y. This is bilinear interpolation where nothing shrinks, and Pillow's
  antialiased BILINEAR `resize` where the matrix only scales and shifts. A mean of s x s bilinear subsamples would read
  as many pixels and only approximate it.

  Only pixels of the canvas have weight. An output pixel that crosses the edge of the canvas is blended with `fill`, in
  proportion to its part outside.

  Args:
    images: (b, H, W, C), any dtype.
    matrices: (b, 3, 3) float32, from output to canvas pixels. Where the third homogeneous coordinate is not positive
      (behind the horizon) the output is `fill`.
    image_size: side S of the output, pixels.
    fill: (C,) or a scalar, the value outside the canvas: the channel mean.
    subsamples: the largest shrink that is antialiased completely, from `subsamples_for`; larger ones are treated as
      this one. Each output pixel reads 2 x subsamples rows and columns.

  Returns:
    (b, S, S, C) float32, in the units of the canvas.
  """
  _, height, width, channels = images.shape
  x, y, shrink_x, shrink_y = _project(jnp.asarray(matrices, jnp.float32), image_size)
  columns, cover_x = taps_along(x, shrink_x, width, subsamples)
  rows, cover_y = taps_along(y, shrink_y, height, subsamples)
  flat = images.reshape(images.shape[0], height * width, channels)
  total: jax.Array | float = 0.0
  for row, row_weight in rows:
    line = sum(weight[..., None] * _pick(flat, row * width + column) for column, weight in columns)
    total += row_weight[..., None] * line
  weight = sum(weight for _, weight in rows) * sum(weight for _, weight in columns)
  inside = (cover_x * cover_y)[..., None]
  fill = jnp.asarray(fill, jnp.float32)
  return total * (inside / jnp.maximum(weight, 1e-6)[..., None]) + (1 - inside) * jax.lax.broadcast_to_rank(fill, 4)


# Mapped over the batch and not applied to a flattened one, so that it stays local to the device that holds the example.
# Pixels are read in the dtype of the canvas: bytes are a quarter of the traffic, and XLA fuses the conversion.
_gather = jax.vmap(lambda pixels, index: pixels.at[index].get(mode='promise_in_bounds'))


def _pick(flat: jax.Array | np.ndarray, index: jax.Array) -> jax.Array:
  return _gather(flat, index).astype(jnp.float32)


def _project(matrices: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Canvas x and y of every output pixel, and the local shrink along canvas x and y: each (b, size, size).

  Written without matrix products, which may run in TensorFloat-32 or bfloat16: too coarse for coordinates.
  """
  along = jnp.arange(size, dtype=jnp.float32)
  u, v = along[None, None, :], along[None, :, None]
  m = matrices[:, :, :, None, None]
  depth = m[:, 2, 0] * u + m[:, 2, 1] * v + m[:, 2, 2]
  behind, depth = depth < 1e-6, jnp.maximum(depth, 1e-6)
  x = jnp.where(behind, _FAR, m[:, 0, 0] * u + m[:, 0, 1] * v + m[:, 0, 2]) / depth
  y = jnp.where(behind, _FAR, m[:, 1, 0] * u + m[:, 1, 1] * v + m[:, 1, 2]) / depth
  shrink_x = jnp.hypot(m[:, 0, 0] - x * m[:, 2, 0], m[:, 0, 1] - x * m[:, 2, 1]) / depth
  shrink_y = jnp.hypot(m[:, 1, 0] - y * m[:, 2, 0], m[:, 1, 1] - y * m[:, 2, 1]) / depth
  return x, y, shrink_x, shrink_y


def taps_along(
  position: jax.Array, shrink: jax.Array, length: int, subsamples: int
) -> tuple[list[tuple[jax.Array, jax.Array]], jax.Array]:
  """The canvas pixels with weight along one axis of `warp`, and the share of each output pixel that is on the canvas.

  Returns:
    2 x subsamples pairs of an index in 0..length-1 and a weight, not normalised; and the share, in 0..1.
  """
  shrink = jnp.clip(shrink, 1e-3, subsamples)
  half = jnp.maximum(shrink, 1.0)
  # Positions far outside are invisible; they are clipped so that the index does not overflow.
  position = jnp.clip(position, -2.0 * subsamples, length + 2.0 * subsamples)
  first = jnp.floor(position - half).astype(jnp.int32) + 1
  taps = []
  for step in range(2 * subsamples):
    index = first + step
    weight = jnp.maximum(0.0, 1 - jnp.abs(index - position) / half)
    on_canvas = (index >= 0) & (index < length)
    taps.append((jnp.clip(index, 0, length - 1), jnp.where(on_canvas, weight, 0.0)))
  before, after = (position + 0.5) / shrink, (length - 0.5 - position) / shrink
  return taps, jnp.clip(before + 0.5, 0, 1) * jnp.clip(after + 0.5, 0, 1)
