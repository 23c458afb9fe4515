"""EuroSAT in 13 bands: the images of an archive, the subsets of bands that the tables compare, and folds."""

from __future__ import annotations

import numpy as np

from flaxnets.channels import ChannelSet

SUBSETS = {
  '13 bands': '',
  'RGB': 'B04,B03,B02',
  'RGB, B08': 'B04,B03,B02,B08',
  '10 m': 'B02,B03,B04,B08',
  'B05-B07': 'B05,B06,B07',
  'B11, B12': 'B11,B12',
  'B08': 'B08',
}
FOLDS = 5


def read(path: str) -> tuple[np.ndarray, np.ndarray, ChannelSet]:
  """All images (N, C, h, w) of an archive with X_*, y_* and 'bands', their labels (N,) and the bands."""
  with np.load(path) as file:
    splits = sorted(key.removeprefix('X_') for key in file.files if key.startswith('X_'))
    images = np.concatenate([file[f'X_{split}'] for split in splits])
    labels = np.concatenate([file[f'y_{split}'] for split in splits])
    return images, labels, ChannelSet(tuple(map(str, file['bands'])))


def folds(labels: np.ndarray, *seed: int) -> np.ndarray:
  """The fold (N,) of each image, 0 to FOLDS - 1; as many of each class in every fold."""
  fold = np.empty(len(labels), int)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    fold[np.random.default_rng([*seed, int(label)]).permutation(members)] = np.arange(len(members)) % FOLDS
  return fold
