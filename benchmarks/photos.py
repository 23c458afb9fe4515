"""Synthetic images that decode like photographs, from a seed: files and a list in the layout of ImageNet-mini."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from flaxnets.errors import InputError

CLASSES = 10


def write(root: Path, count: int, height: int, width: int, *, quality: int = 90, seed: int = 0) -> Path:
  """Writes images/class<K>/<number>.jpg and train.txt under `root`; returns `root`."""
  lines = []
  for number in range(count):
    path = Path('images', f'class{number % CLASSES}', f'{number}.jpg')
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    pixels = photo(np.random.default_rng([seed, number]), height, width)
    (root / path).write_bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling='420'))
    lines.append(f'{path.as_posix()} {number % CLASSES}\n')
  (root / 'train.txt').write_text(''.join(lines))
  return root


def write_sized(root: Path, count: int, size: str) -> Path:
  """Writes JPEGs and their list; `size` is '84' or '500x375' (width x height) in pixels."""
  match = re.fullmatch(r'(\d+)(?:x(\d+))?', size)
  if not match or not int(match[1]):
    raise InputError(f'{size!r} is not an image size; write 84 or 500x375')
  return write(root, count, int(match[2] or match[1]), int(match[1]))


def mean_bytes(root: str) -> float:
  """The mean size of the first files in a folder's train.txt."""
  paths = [line.rsplit(None, 1)[0] for line in Path(root, 'train.txt').read_text().splitlines() if line.strip()]
  return statistics.mean(Path(root, path).stat().st_size for path in paths[:256])


def photo(random: np.random.Generator, height: int, width: int) -> np.ndarray:
  """(height, width, 3) uint8: noise at all scales, highly correlated across channels, and a few outlines.

  Amplitudes fall with frequency as 1 / f^1.5. Those of natural images fall roughly as 1 / f (D. Field, Relations
  between the statistics of natural images and the response properties of cortical cells, 1987), but few photographs are
  sharp to the pixel. Files at quality 90 therefore have the size of photographs: 2.5 bits per pixel at 500 x 375 and 5
  at 84 x 84.
  """
  image = np.zeros((height, width, 3), np.float32)
  finest = 1.0
  while finest * max(height, width) >= 2:
    cells = max(2, round(height * finest)), max(2, round(width * finest))
    gray, colour = random.standard_normal((*cells, 1)), random.standard_normal((*cells, 3))
    noise = (gray + 0.3 * colour).astype(np.float32)
    image += finest**-0.5 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    finest /= 2
  image = 118 + image * (55 / image.std())
  for _ in range(6):
    centre = int(random.integers(width)), int(random.integers(height))
    axes = tuple(int(side) for side in random.integers(2, max(3, max(height, width) // 5), 2))
    inside = cv2.ellipse(np.zeros((height, width), np.float32), centre, axes, random.uniform(0, 360), 0, 360, 1, -1)
    image += inside[..., None] * (random.uniform(-50, 50) + random.uniform(-15, 15, 3)).astype(np.float32)
  return np.clip(image, 0, 255).astype(np.uint8)
