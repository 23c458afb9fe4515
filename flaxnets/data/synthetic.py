"""Synthetic images, made from a seed: each channel shows the shape, and only several channels together show the hue.

The shape differs from its background in every channel by a contrast of random size and random sign. In one channel, the
hue, the sign is opposite to that of the other two: a red shape on cyan and a cyan shape on red have the same hue, as on
the opponent axes of colour vision. This bounds the accuracy for the three hues. One channel says nothing about the hue,
since its contrast has the same distribution for each hue: a third of all guesses are right. Two channels allow two
thirds, since different signs leave two hues. Three channels allow all.

Position, size, angle, brightness, gradient of light and noise are drawn for each image. Flips, rotations,
perspective and moderate crops keep the label.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.data.source import ArraySource, DataOptions
from flaxnets.errors import InputError

SHAPES = ('disc', 'ring', 'cross', 'triangle')
HUES = ('red-cyan', 'green-magenta', 'blue-yellow')  # the channel with the opposite sign is R, G, B
CLASSES = tuple(f'{hue} {shape}' for shape in SHAPES for hue in HUES)
STREAMS = ('train', 'validation', 'test')

_SPLIT = re.compile(r'(\w+)\[(\d{0,9}):(\d{1,9})\]')
_BLOCK = 256  # examples that are drawn together, so that an example does not depend on the slice it is read in


def source(split: str, *, size: int = 48) -> ArraySource:
  """A slice of an endless stream of examples, in the notation of TFDS: 'train[:4000]' or 'test[1000:2000]'.

  The streams 'train', 'validation' and 'test' share no example. An example depends only on its stream, its position
  there and the size.

  Args:
    split: the stream, with the first position (0 if left out) and the position after the last.
    size: height and width of the images, pixels, at least 16.

  Returns:
    A source of uint8 images (N, size, size, 3), channels R, G, B, with the 12 labels of `CLASSES` in turn.

  Raises:
    InputError: for a split of another form, without examples or too large for the memory, and for a size below 16.
  """
  match = _SPLIT.fullmatch(split.strip())
  if not match or match[1] not in STREAMS:
    raise InputError(
      f"cannot read the synthetic split {split!r}; write it as 'train[:4000]' (streams: {', '.join(STREAMS)})"
    )
  start, stop = int(match[2] or 0), int(match[3])
  if start >= stop:
    raise InputError(f"the synthetic split {split!r} has no examples; write it as 'train[:4000]'")
  if size < 16:
    raise InputError(f'synthetic images of {size} pixels are too small to show shapes; the size must be at least 16')
  try:
    images = np.empty((stop - start, size, size, 3), np.uint8)
  except MemoryError:
    raise InputError(f'the synthetic split {split!r} does not fit into memory; write a shorter one') from None
  for block in range(start // _BLOCK, (stop - 1) // _BLOCK + 1):
    first = block * _BLOCK
    low, high = max(start, first), min(stop, first + _BLOCK)
    images[low - start : high - start] = _block(STREAMS.index(match[1]), block, size)[low - first : high - first]
  labels = np.arange(start, stop) % len(CLASSES)
  ids = [f'{match[1]}[{place}]' for place in range(start, stop)]
  return ArraySource(
    f'synthetic {split}',
    images,
    labels,
    ChannelSet.of('RGB'),
    CLASSES,
    ids=ids,
    reopen=functools.partial(source, split, size=size),
  )


def open_synthetic(options: DataOptions, split: str, class_names: Sequence[str] | None = None) -> ArraySource:
  """`source` for `flaxnets.data.open`; InputError for other channels than R, G, B."""
  del class_names  # the classes are always CLASSES
  made = source(split)
  if options.channels and ChannelSet.of(options.channels).names != made.channels.names:
    raise InputError(f'synthetic images have the channels RGB, not {options.channels}')
  return made


def _block(stream: int, block: int, size: int) -> np.ndarray:
  """The images at the positions [256 block, 256 (block + 1)) of a stream: (256, size, size, 3) uint8."""
  random = np.random.default_rng([stream, block])

  def draw(low, high, *shape):
    return random.uniform(low, high, (_BLOCK, *shape)).astype(np.float32)

  shape, hue = np.divmod((block * _BLOCK + np.arange(_BLOCK)) % len(CLASSES), len(HUES))
  inside = _coverage(shape, size, draw(0.4, 0.6, 2, 1, 1), draw(0.26, 0.38, 1, 1), draw(0, 2 * np.pi, 1, 1))

  sign = np.where(np.arange(3) == hue[:, None], -1, 1) * random.choice([-1, 1], (_BLOCK, 1))
  contrast = sign[:, None, None, :] * draw(32, 72, 1, 1, 3)
  # The background takes half the contrast, so that dark and light shapes cover the same range of greys.
  image = draw(75, 180, 1, 1, 1) + draw(-12, 12, 1, 1, 3) + (inside[..., None] - 0.5) * contrast
  image += _light(size, draw(0, 18, 1, 1), draw(0, 2 * np.pi, 1, 1))[..., None]
  image += random.standard_normal(image.shape, np.float32) * draw(4, 14, 1, 1, 1)
  return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _coverage(shape: np.ndarray, size: int, centre: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
  """Share of each pixel that a shape covers, 0 to 1: (n, size, size). Centre and radius are shares of the size."""
  middle = (np.arange(size, dtype=np.float32) + 0.5) / size
  right, down = middle - centre[:, 0], middle[:, None] - centre[:, 1]
  x = (np.cos(angle) * right + np.sin(angle) * down) / radius
  y = (np.cos(angle) * down - np.sin(angle) * right) / radius
  outside = np.empty(x.shape, np.float32)  # distance to the outline, negative inside, in units of the radius
  for kind, distance in enumerate(_DISTANCES):
    outside[shape == kind] = distance(x[shape == kind], y[shape == kind])
  return np.clip(0.5 - outside * radius * size, 0, 1)


def _light(size: int, strength: np.ndarray, angle: np.ndarray) -> np.ndarray:
  """Light from one side, the same in every channel: (n, size, size), from -strength to strength or less."""
  middle = np.linspace(-1, 1, size, dtype=np.float32)
  return strength * (np.cos(angle) * middle + np.sin(angle) * middle[:, None])


def _disc(x, y):
  return np.hypot(x, y) - 1


def _ring(x, y):
  return np.abs(np.hypot(x, y) - 0.75) - 0.25


def _cross(x, y):
  x, y = np.abs(x), np.abs(y)
  return np.maximum(np.minimum(x, y) - 0.3, np.maximum(x, y) - 1)


def _triangle(x, y):
  return np.maximum(y, np.abs(x) * np.sqrt(3) / 2 - y / 2) - 0.55


_DISTANCES = (_disc, _ring, _cross, _triangle)  # in the order of SHAPES
