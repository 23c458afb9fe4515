"""The views: torchvision's distributions, one homography, the same for every batch size."""

import functools
import math

import cv2
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxnets.augment import geometry
from flaxnets.errors import InputError

SIDE = 32


@functools.cache
def drawing(canvas: tuple[int, int] = (48, 48), **options):
  """`training_homographies` for these options, compiled."""
  options = {'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), **options}
  return jax.jit(functools.partial(geometry.training_homographies, canvas=canvas, image_size=SIDE, **options))


def views(size, *, key: int = 0, **options) -> np.ndarray:
  return np.asarray(drawing(**options)(jax.random.key(key), np.asarray(size, np.int32)), np.float64)


def squares(examples: int, side: int = 60) -> np.ndarray:
  return np.full((examples, 2), side)


def apply(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
  """(b, n, 2) images of (n, 2) points."""
  mapped = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ np.swapaxes(matrices, 1, 2)
  return mapped[..., :2] / mapped[..., 2:]


CORNERS = np.array([[-0.5, -0.5], [SIDE - 0.5, -0.5], [SIDE - 0.5, SIDE - 0.5], [-0.5, SIDE - 0.5]])


def boxes(size, canvas: tuple[int, int], **options) -> np.ndarray:
  """(b, 4) left, top, right, bottom of the crops, in original pixels, from views that only crop."""
  matrices = views(size, canvas=canvas, **options)
  assert np.abs(matrices[:, [0, 1, 2, 2], [1, 0, 0, 1]]).max() < 1e-6
  corners = (apply(matrices, CORNERS[[0, 2]]) + 0.5) / np.array(canvas[::-1])
  return (corners * np.asarray(size)[:, None, ::-1]).reshape(-1, 4)


def reference_crop(random: np.random.Generator, height: int, width: int, scale, ratio) -> tuple[int, ...]:
  """RandomResizedCrop's rule, written as a loop: left, top, right, bottom."""
  for _ in range(10):
    area = height * width * random.uniform(*scale)
    aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      left, top = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
      return left, top, left + w, top + h
  w, h = width, height
  if width / height < ratio[0]:
    h = round(width / ratio[0])
  elif width / height > ratio[1]:
    w = round(height * ratio[1])
  return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h


@pytest.mark.parametrize(
  ('height', 'width', 'scale'),
  [
    (75, 100, (0.25, 1.0)),
    (30, 90, (0.3, 0.9)),
    (11, 8, (0.05, 0.4)),
  ],
)
def test_crops_are_distributed_as_torchvisions(height, width, scale):
  ratio, examples = (3 / 4, 4 / 3), 4000
  size = np.tile([height, width], (examples, 1))
  ours = boxes(size, (48, 48), crop_scale=scale, crop_ratio=ratio)
  np.testing.assert_allclose(ours, ours.round(), atol=2e-3)
  ours = ours.round().astype(int)
  assert (ours >= 0).all() and (ours[:, 2] <= width).all() and (ours[:, 3] <= height).all()
  random = np.random.default_rng(1)
  theirs = np.array([reference_crop(random, height, width, scale, ratio) for _ in range(examples)])
  for mine, other in zip(ours.T, theirs.T, strict=True):
    counts = [np.bincount(values, minlength=width + 1).cumsum() / examples for values in (mine, other)]
    assert np.abs(counts[0] - counts[1]).max() < 0.05  # Kolmogorov-Smirnov, p below 1e-4


@pytest.mark.parametrize(
  ('size', 'expected'),
  [
    ((20, 200), (86, 0, 113, 20)),
    ((200, 20), (0, 86, 20, 113)),
    ((60, 60), (0, 0, 60, 60)),
  ],
)
def test_where_no_crop_fits_it_is_the_centre(size, expected):
  box = boxes(np.array([size]), (48, 48), crop_scale=(1.0, 1.0), crop_ratio=(3 / 4, 4 / 3))[0]
  np.testing.assert_allclose(box, expected, atol=1e-3)


@settings(max_examples=8)
@given(st.lists(st.tuples(*[st.integers(8, 600)] * 2), min_size=4, max_size=4), st.integers(0, 99))
def test_a_squashed_canvas_shows_the_same_part_of_the_original(size, key):
  options = {
    'crop_scale': (0.25, 1.0),
    'crop_ratio': (3 / 4, 4 / 3),
    'flip': 0.5,
    'rotation': 10.0,
    'perspective': 0.2,
    'perspective_probability': 0.5,
  }
  evaluation = functools.partial(geometry.evaluation_homographies, image_size=SIDE, resize=1.1)
  size = np.array(size)
  points = np.array([[3.0, 4.0], [29.0, 10.0], [15.5, 30.0]])
  for view in (functools.partial(views, size, key=key, **options), functools.partial(evaluation, size)):
    shares = [
      (apply(np.asarray(view(canvas=(height, width))), points) + 0.5) / [width, height]
      for height, width in ((48, 48), (64, 96))
    ]
    np.testing.assert_allclose(*shares, atol=1e-4)


def test_evaluation_keeps_the_aspect_ratio_of_a_squashed_original():
  size = np.array([[30, 60], [90, 30]])
  matrices = np.asarray(geometry.evaluation_homographies(size, canvas=(48, 48), image_size=30))
  np.testing.assert_allclose(apply(matrices, CORNERS[:1]), [[[11.5, -0.5]], [[-0.5, 15.5]]], atol=1e-4)
  np.testing.assert_allclose(matrices[:, 0, 0], [48 / 60, 48 / 30], atol=1e-5)
  np.testing.assert_allclose(matrices[:, 1, 1], [48 / 30, 48 / 90], atol=1e-5)


def test_a_flip_mirrors_its_share_of_the_examples():
  plain, mirrored = views(squares(8)), views(squares(8), flip=1.0)
  swap = np.array([[-1, 0, SIDE - 1], [0, 1, 0], [0, 0, 1]])
  np.testing.assert_allclose(mirrored, plain @ swap, atol=1e-4)
  some = views(squares(4000), flip=0.3)
  assert abs((some[:, 0, 0] < 0).mean() - 0.3) < 0.03


def test_rotation_is_even_about_the_centre():
  matrices = views(squares(4000), rotation=25.0)
  centre = np.full((1, 2), (SIDE - 1) / 2)
  np.testing.assert_allclose(apply(matrices, centre), np.full((4000, 1, 2), 23.5), atol=1e-4)
  linear = matrices[:, :2, :2] / (48 / SIDE)
  np.testing.assert_allclose(linear @ np.swapaxes(linear, 1, 2), np.tile(np.eye(2), (4000, 1, 1)), atol=1e-5)
  angles = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
  quantiles = np.quantile(angles, [0, 0.25, 0.5, 0.75, 1])
  np.testing.assert_allclose(quantiles, [-25, -12.5, 0, 12.5, 25], atol=1.5)


def test_perspective_moves_four_corners_inwards_as_torchvisions():
  matrices = views(squares(4000), perspective=0.4, perspective_probability=0.6)
  edges = np.array([[-0.5, -0.5], [47.5, -0.5], [47.5, 47.5], [-0.5, 47.5]])
  corners = apply(np.linalg.inv(matrices), edges)  # where the canvas's own corners come out
  inwards = (corners - CORNERS) * [[1, 1], [-1, 1], [-1, -1], [1, -1]] / (SIDE / 2)
  tilted = np.abs(inwards).max(axis=(1, 2)) > 1e-3
  assert abs(tilted.mean() - 0.6) < 0.03
  np.testing.assert_allclose(
    np.quantile(inwards[tilted], [0, 0.25, 0.5, 0.75, 1], axis=0),
    np.tile(np.array([0, 0.1, 0.2, 0.3, 0.4])[:, None, None], (1, 4, 2)),
    atol=0.02,
  )
  # Each of the eight moves is drawn for itself.
  assert np.abs(np.corrcoef(inwards[tilted].reshape(-1, 8).T) - np.eye(8)).max() < 0.1
  for matrix, corner in zip(matrices[:20], corners[:20], strict=True):
    theirs = cv2.getPerspectiveTransform(corner.astype(np.float32), edges.astype(np.float32))
    np.testing.assert_allclose(matrix / matrix[2, 2], theirs, atol=1e-3)


def test_all_parts_multiply_into_one_homography_in_torchvisions_order():
  size = np.tile([[50, 70]], (8, 1))
  crop = {'crop_scale': (0.3, 0.9), 'crop_ratio': (3 / 4, 4 / 3)}
  turn, tilt = {'rotation': 30.0}, {'perspective': 0.3}
  base = views(squares(8))
  flipped, turned, tilted = (np.linalg.inv(base) @ views(squares(8), **part) for part in ({'flip': 0.5}, turn, tilt))
  whole = views(size, **crop, flip=0.5, **turn, **tilt)
  expected = views(size, **crop) @ flipped @ turned @ tilted
  points = np.array([[0.0, 0.0], [31.0, 0.0], [16.0, 20.0], [5.0, 31.0]])
  np.testing.assert_allclose(apply(whole, points), apply(expected, points), atol=1e-2)


def test_an_example_depends_on_the_key_and_its_place_only():
  options = {'crop_scale': (0.2, 1.0), 'flip': 0.5, 'rotation': 10.0, 'perspective': 0.2}
  all_of_them = views(squares(64), **options)
  np.testing.assert_array_equal(views(squares(64), **options), all_of_them)
  np.testing.assert_allclose(views(squares(8), **options), all_of_them[:8], atol=1e-4)
  assert np.abs(views(squares(64), key=1, **options) - all_of_them).max(axis=(1, 2)).min() > 1e-3
  assert len(np.unique(all_of_them[:, 0, 0])) == 64


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'crop_scale': (0.5, 0.2)}, r'^crop_scale is \(0.5, 0.2\)'),
    ({'crop_scale': (0.0, 1.0)}, 'above 0 and up to 1'),
    ({'crop_ratio': (0.0, 1.0)}, '^crop_ratio'),
    ({'flip': 1.5}, '^flip is 1.5; it must be a probability'),
    ({'perspective': 0.7}, '^perspective is 0.7'),
    ({'perspective_probability': -0.1}, '^perspective_probability is -0.1'),
  ],
)
def test_an_option_outside_its_range_is_refused_by_name(options, words):
  with pytest.raises(InputError, match=words):
    geometry.training_homographies(jax.random.key(0), squares(2), canvas=(48, 48), image_size=32, **options)


def test_an_evaluation_that_would_not_fill_the_output_is_refused():
  with pytest.raises(InputError, match='^resize is 0.9; it must be at least 1'):
    geometry.evaluation_homographies(squares(2), canvas=(48, 48), image_size=32, resize=0.9)
