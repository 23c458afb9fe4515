"""The resampling, against Pillow and OpenCV, which know nothing of it."""

import functools
import math

import cv2
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxnets.augment.geometry import evaluation_homographies, training_homographies
from flaxnets.augment.warp import _project, subsamples_for, warp
from flaxnets.errors import InputError
from flaxnets.runtime import devices

FILL = np.array([120.0, 110.0, 100.0], np.float32)


def resample(images: np.ndarray, matrices: np.ndarray, image_size: int, **options) -> np.ndarray:
  return np.asarray(_warp(images, matrices, image_size, **options))


_warp = jax.jit(warp, static_argnames=('image_size', 'subsamples'))


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
  """(height, width, 3) uint8 with the spectrum of photographs, 1 / frequency, and sharp edges."""
  random = np.random.default_rng(seed)
  frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
  frequency[0, 0] = 1
  spectrum = np.fft.fft2(random.normal(size=(3, height, width))) / frequency
  image = np.moveaxis(np.fft.ifft2(spectrum).real, 0, -1)
  image = 128 + 45 * (image - image.mean()) / image.std()
  for _ in range(6):
    corners = cv2.convexHull(random.integers(0, (width, height), (4, 2)).astype(np.int32))
    image = cv2.fillConvexPoly(np.ascontiguousarray(image), corners, random.uniform(0, 255, 3))
  return np.clip(image, 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  return 10 * np.log10(255**2 / np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))


def pillow_view(image: np.ndarray, image_size: int, resize: float) -> np.ndarray:
  """What torchvision's Resize and CenterCrop do to a PIL image."""
  height, width = image.shape[:2]
  short = round(image_size * resize)
  height, width = int(short * height / min(height, width)), int(short * width / min(height, width))
  resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
  top, left = int(round((height - image_size) / 2)), int(round((width - image_size) / 2))
  return resized[top : top + image_size, left : left + image_size]


@pytest.mark.parametrize(
  ('shrink', 'shape', 'resize'),
  [
    (1, (192, 192), 1.0),
    (1.5, (192, 192), 1.0),
    (2, (192, 192), 1.0),
    (3, (192, 192), 1.0),
    (1.5, (192, 267), 1.14),
    (2, (250, 192), 1.0),
    (3, (192, 267), 1.14),
    (0.7, (250, 192), 1.14),
  ],
)
def test_the_evaluation_view_is_pillows_antialiased_resize_and_crop(shrink, shape, resize):
  image = photograph(*shape)
  size = int(192 / shrink / resize)

  @jax.jit
  def view(images, sizes):
    matrices = evaluation_homographies(sizes, canvas=shape, image_size=size, resize=resize)
    return warp(images, matrices, size, fill=FILL, subsamples=subsamples_for(shape, size, resize=resize))

  ours = view(image[None], np.array([shape], np.int32))
  # The issue asks for 35 dB; what is missing to equality is Pillow's rounding to whole grey levels.
  assert psnr(ours[0], pillow_view(image, size, resize)) > 55


def test_a_crop_of_shrink_one_is_the_canvas_itself():
  image = photograph(60, 60)
  matrices = evaluation_homographies(np.array([[60, 60]]), canvas=(60, 60), image_size=60)
  view = resample(image[None], matrices, 60, fill=FILL, subsamples=1)
  np.testing.assert_allclose(view[0], image, atol=1e-3)


def test_bilinear_warps_are_opencvs_to_a_grey_level():
  images = np.stack([photograph(120, 150, seed) for seed in range(8)])
  draw = jax.jit(
    functools.partial(
      training_homographies,
      canvas=(120, 150),
      image_size=90,
      crop_scale=(0.2, 1),
      flip=0.5,
      rotation=20,
      perspective=0.3,
    )
  )
  matrices = draw(jax.random.key(0), np.tile([120, 150], (8, 1)))
  ours = resample(images, matrices, 90, fill=FILL, subsamples=1)
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  compared = 0
  for image, matrix, view in zip(images, np.asarray(matrices, np.float64), ours, strict=True):
    theirs = cv2.warpPerspective(image, matrix, (90, 90), flags=flags)
    inside = cv2.warpPerspective(np.ones((120, 150), np.float32), matrix, (90, 90), flags=flags) > 0.999
    compared += inside.sum()
    assert np.abs(theirs.astype(float) - view)[inside].mean() < 0.5
  assert compared > 0.7 * 8 * 90 * 90


def test_a_rotated_shrunk_tilted_view_is_the_mean_of_many_fine_samples():
  image = photograph(240, 240)
  tilt = np.array([[0.9, 0.2, 20], [-0.2, 1, 45], [0.0002, -0.0003, 1]])
  shrink = np.array([[2.2, 0, 0.6], [0, 2.2, 0.6], [0, 0, 1]])
  matrix = tilt @ shrink
  # Sixteen bilinear samples along each side of the triangle's two output pixels, weighted by the triangle.
  offsets = (np.arange(32) + 0.5) / 16 - 1
  weights = 1 - np.abs(offsets)
  total = np.zeros((80, 80, 3))
  for dy, wy in zip(offsets, weights, strict=True):
    for dx, wx in zip(offsets, weights, strict=True):
      shifted = matrix @ np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]])
      total += (
        wx
        * wy
        * cv2.warpPerspective(
          image.astype(np.float32), shifted, (80, 80), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
      )
  fine = total / weights.sum() ** 2
  ours, plain = (
    resample(image[None], matrix[None].astype(np.float32), 80, fill=FILL, subsamples=most)[0] for most in (3, 1)
  )
  assert psnr(ours, fine) > 38
  assert psnr(plain, fine) < 30  # for without averaging it aliases


def test_the_local_shrink_is_how_far_apart_neighbours_come_from():
  tilt = np.array([[0.9, 0.3, 20], [-0.5, 1.1, 45], [0.004, -0.003, 1]])
  step = 1e-3
  x, y, shrink_x, shrink_y = (np.asarray(part)[0] for part in _project(tilt[None].astype(np.float32), 60))
  u = np.stack([*np.meshgrid(np.arange(60), np.arange(60)), np.ones((60, 60))], -1)
  place, right, below = ((u + offset) @ tilt.T for offset in ([0, 0, 0], [step, 0, 0], [0, step, 0]))
  place, right, below = (mapped[..., :2] / mapped[..., 2:] for mapped in (place, right, below))
  np.testing.assert_allclose(np.stack([x, y], -1), place, atol=1e-3)
  expected = np.hypot(right - place, below - place) / step
  np.testing.assert_allclose(np.stack([shrink_x, shrink_y], -1), expected, rtol=1e-3)


def test_behind_the_horizon_there_is_only_fill():
  # It runs through column 8; taken at its word, the matrix would show the canvas upside down right of it.
  matrix = np.array([[[1, 0, -14], [0, 1, -14], [-1 / 8, 0, 1]]])
  mirrored = matrix[0] @ [11, 11, 1]
  assert mirrored[2] < 0 and 0 < mirrored[0] / mirrored[2] < 39 and 0 < mirrored[1] / mirrored[2] < 39
  canvas = np.full((1, 40, 40, 1), 200, np.uint8)
  view = resample(canvas, matrix.astype(np.float32), 24, fill=100.0, subsamples=1)
  np.testing.assert_allclose(view, 100, atol=1e-3)


def test_stripes_too_fine_for_the_output_turn_gray():
  stripes = np.tile(np.array([0, 255], np.uint8), (200, 100))[None, :, :, None]
  angle = np.deg2rad(8)
  turn = np.array([[np.cos(angle), -np.sin(angle), 20], [np.sin(angle), np.cos(angle), 10], [0, 0, 1]])
  matrix = turn @ np.diag([2, 2, 1])
  for subsamples, most, least in ((2, 8, 0), (1, 255, 50)):
    view = resample(stripes, matrix[None].astype(np.float32), 60, fill=127.5, subsamples=subsamples)
    assert least <= float(view.std()) < most


@settings(max_examples=40)
@given(
  st.floats(0.3, 3),
  st.floats(0.3, 3),
  st.floats(-3.2, 3.2),
  st.floats(-80, 80),
  st.floats(-80, 80),
  st.floats(-0.01, 0.01),
  st.floats(-0.01, 0.01),
  st.sampled_from([1, 2]),
)
def test_every_output_is_a_mean_of_the_canvas_and_the_fill(sx, sy, angle, dx, dy, g, h, subsamples):
  turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
  matrix = np.array([[1, 0, dx], [0, 1, dy], [g, h, 1]]) @ np.diag([sx, sy, 1]) @ turn
  canvas = np.full((1, 40, 30, 1), 200, np.uint8)
  white = resample(canvas, matrix[None].astype(np.float32), 24, fill=100.0, subsamples=subsamples)
  assert 99.99 < white.min() <= white.max() < 200.01
  # Well inside the canvas there is no fill, and well outside nothing else.
  u = np.stack([*np.meshgrid(np.arange(24), np.arange(24)), np.ones((24, 24))], -1) @ matrix.T
  x, y = u[..., 0] / u[..., 2], u[..., 1] / u[..., 2]
  margin = 3 * subsamples
  far_in = (u[..., 2] > 0.01) & (np.minimum(x, y) > margin) & (x < 29 - margin) & (y < 39 - margin)
  far_out = (u[..., 2] < 0) | (np.minimum(x, y) < -margin) | (x > 29 + margin) | (y > 39 + margin)
  np.testing.assert_allclose(white[0, ..., 0][far_in], 200, atol=0.01)
  np.testing.assert_allclose(white[0, ..., 0][far_out], 100, atol=0.01)


def test_an_output_pixel_across_the_edge_is_blended_by_the_share_outside():
  half = np.array([[[1, 0, -0.5], [0, 1, 0], [0, 0, 1]]], np.float32)  # the first pixel lies half outside
  view = resample(np.full((1, 4, 4, 1), 200, np.uint8), half, 4, fill=100.0, subsamples=1)
  np.testing.assert_allclose(view[0, :, :, 0], np.tile([150, 200, 200, 200], (4, 1)), atol=1e-3)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_each_of_thirteen_channels_is_resampled_as_if_alone(dtype):
  images = np.random.default_rng(0).uniform(0, 250, (2, 30, 40, 13)).astype(dtype)
  fill = np.arange(13, dtype=np.float32)
  matrices = np.array([[[1.5, 0.4, 3], [-0.4, 1.5, 5], [0, 0, 1]], [[-1, 0, 20], [0.1, 2, 1], [0.01, 0, 1]]])
  together = resample(images, matrices, 16, fill=fill, subsamples=1)
  assert together.dtype == np.float32 and together.shape == (2, 16, 16, 13)
  for channel in (0, 12):
    alone = resample(images[..., channel : channel + 1], matrices, 16, fill=fill[channel], subsamples=1)
    np.testing.assert_allclose(together[..., channel : channel + 1], alone, atol=1e-3)


def test_a_sharded_batch_is_resampled_without_talk_between_devices(mesh8):
  def view(key, images, size):
    matrices = training_homographies(
      key,
      size,
      canvas=(24, 24),
      image_size=16,
      crop_scale=(0.3, 1),
      flip=0.5,
      rotation=9,
      perspective=0.2,
      perspective_probability=0.5,
    )
    return warp(images, matrices, 16, fill=FILL, subsamples=2)

  images = np.stack([photograph(24, 24, seed) for seed in range(16)])
  size = np.tile(np.array([[30, 50]], np.int32), (16, 1))
  split = functools.partial(jax.device_put, device=devices.sharded(mesh8))
  key = jax.device_put(jax.random.key(5), devices.replicated(mesh8))
  compiled = jax.jit(view).lower(key, split(images), split(size)).compile()
  talk = ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute')
  assert not any(word in compiled.as_text() for word in talk)
  alone = jax.jit(view)(jax.random.key(5), images, size)
  np.testing.assert_allclose(compiled(key, split(images), split(size)), alone, atol=1e-2)


@pytest.mark.parametrize(
  ('canvas', 'options', 'expected'),
  [
    ((96, 96), {}, 1),
    ((144, 144), {}, 2),
    ((144, 144), {'perspective': 0.2}, 2),
    ((40, 40), {}, 1),
    ((144, 300), {}, 2),
    ((144, 300), {'crop_ratio': (0.75, 3.0)}, 4),
    ((300, 144), {'crop_ratio': (0.25, 1.5)}, 4),
    ((144, 144), {'crop_ratio': (0.5, 0.8)}, 2),
    ((144, 144), {'perspective': 0.5}, 3),
    ((224, 224), {'resize': 1.2}, 2),
  ],
)
def test_the_largest_shrink_decides_the_number_of_subsamples(canvas, options, expected):
  assert subsamples_for(canvas, 96, **options) == expected


@pytest.mark.parametrize('canvas', [(64, 256), (250, 64), (64, 64)])
@pytest.mark.parametrize('crop_ratio', [(3 / 4, 4 / 3), (0.2, 5.0), (0.3, 0.5)])
def test_the_largest_shrink_is_that_of_the_largest_crop(canvas, crop_ratio):
  size, shrinks = np.tile(np.array([canvas], np.int32), (256, 1)), []
  for least in (0.1, 1.0):
    matrices = training_homographies(
      jax.random.key(0), size, canvas=canvas, image_size=16, crop_scale=(least, 1.0), crop_ratio=crop_ratio
    )
    shrinks += [float(shrink.max()) for shrink in _project(matrices, 16)[2:]]
  assert subsamples_for(canvas, 16, crop_ratio=crop_ratio) == math.ceil(max(shrinks) - 0.1)


@pytest.mark.parametrize(
  ('canvas', 'perspective', 'words'),
  [
    ((2000, 2000), 0.0, 'set a smaller data.canvas'),
    ((800, 800), 0.6, 'shrinks up to 20.8 times with a perspective of 0.6'),
    ((144, 144), 1.0, '0 to below 2/3'),
  ],
)
def test_an_impossible_shrink_is_refused_in_words(canvas, perspective, words):
  with pytest.raises(InputError, match=words):
    subsamples_for(canvas, 96, perspective=perspective)
