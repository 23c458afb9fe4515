"""The peer's input: a PyTorch DataLoader over image files, decoded and augmented with Pillow in the customary chain.

The chain reimplements torchvision's transforms on Pillow images: RandomResizedCrop, RandomHorizontalFlip,
RandomRotation (bilinear), RandomPerspective, ToTensor, Normalize. Each geometric transform but the flip resamples.
Random numbers come from Python's `random`, which takes less time than a one-element tensor.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.children import pace

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(torch.utils.data.Dataset):
  """The images of a list of `path label` lines as (3, S, S) float32 tensors, with their labels.

  Args:
    root: folder with train.txt and the images that it lists.
    image_size: side S in pixels.
    augmentation: the fields of config.augment.
  """

  def __init__(self, root: str, image_size: int, augmentation: dict):
    lines = [line.rsplit(None, 1) for line in Path(root, 'train.txt').read_text().splitlines() if line.strip()]
    self._files = [(str(Path(root, path)), int(label)) for path, label in lines]
    self._size, self._augment = image_size, augmentation
    self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
    path, label = self._files[index]
    with Image.open(path) as file:
      image = file.convert('RGB')
    options = self._augment
    image = image.crop(random_box(image.size, options['crop_scale'], options['crop_ratio']))
    image = image.resize((self._size, self._size), Image.Resampling.BILINEAR)
    if random.random() < options['flip']:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = random.uniform(-options['rotation'], options['rotation'])
    image = image.rotate(angle, Image.Resampling.BILINEAR)
    if random.random() < options['perspective_probability']:
      matrix = perspective(self._size, options['perspective'])
      image = image.transform(image.size, Image.Transform.PERSPECTIVE, matrix, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
    return pixels.sub_(self._mean).div_(self._std), label


def random_box(size: tuple[int, int], scale: Sequence[float], ratio: Sequence[float]) -> tuple[int, int, int, int]:
  """RandomResizedCrop's left, top, right and bottom in an image of size (width, height), as integer pixels."""
  width, height = size
  for _ in range(10):
    area = width * height * random.uniform(*scale)
    aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      left, top = random.randint(0, width - w), random.randint(0, height - h)
      return left, top, left + w, top + h
  aspect = min(max(width / height, ratio[0]), ratio[1])
  w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
  return (width - w) // 2, (height - h) // 2, (width + w) // 2, (height + h) // 2


def perspective(size: int, distortion: float) -> list[float]:
  """RandomPerspective's eight coefficients from output to input pixels, in Pillow's order."""
  reach, last = int(distortion * size / 2), size - 1
  corners = [(0, 0), (last, 0), (last, last), (0, last)]
  moved = [(abs(x - random.randint(0, reach)), abs(y - random.randint(0, reach))) for x, y in corners]
  rows, values = [], []
  for (x, y), (u, v) in zip(corners, moved, strict=True):
    rows += [[u, v, 1, 0, 0, 0, -x * u, -x * v], [0, 0, 0, u, v, 1, -y * u, -y * v]]
    values += [x, y]
  return np.linalg.solve(np.array(rows, float), np.array(values, float)).tolist()


def serve(batch_size: int, image_size: int, augmentation: dict) -> Callable[[str, int, float], float]:
  """For a child process: a function of (root, workers, seconds) that returns seconds per batch."""
  cuda = torch.cuda.is_available()

  def wait(images: torch.Tensor) -> None:
    if cuda:
      torch.cuda.synchronize()

  def run(root: str, workers: int, seconds: float) -> float:
    photos = Photos(root, image_size, augmentation)
    # Endless, like our batches: at the end of an epoch the workers would idle.
    order = torch.utils.data.RandomSampler(photos, replacement=True, num_samples=2**40)
    loader = torch.utils.data.DataLoader(
      photos, batch_size, sampler=order, num_workers=workers, pin_memory=cuda, drop_last=True
    )
    batches = (images.cuda(non_blocking=True) if cuda else images for images, _ in loader)
    return pace(batches, wait, warm=2 * workers + 1, seconds=seconds)

  return run
