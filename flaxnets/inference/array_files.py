"""Images to predict in .npy and .npz files: the array, the channels that it holds, and those that each image has."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.data import arrays
from flaxnets.errors import InputError

SUFFIXES = ('.npy', '.npz')


def open_images(path: str, key: str, data: Any) -> tuple[np.ndarray, ChannelSet | None, np.ndarray | None]:
  """An array of images, an .npy memory-mapped; of an .npz also the channels that it names and which each image has.

  Args:
    path: the file.
    key: the array in an .npz; '' for the only one with images.
    data: `data` of the network's config, whose `image_key`, `channels_key` and `present_key` name the arrays.

  Raises:
    InputError: if there is no such array, or `key` is needed. Anything that NumPy raises for a corrupt file.
  """
  if path.lower().endswith('.npy'):
    return arrays.opened(path, 'r'), None, None
  with arrays.opened(path) as archive:
    if key and key not in archive.files:
      raise InputError(f'there is no array {key!r}; --key names one of {", ".join(archive.files)}')
    found = {name: archive[name] for name in ([key] if key else archive.files)}
    names = [key] if key else [name for name, array in found.items() if array.ndim == 4]
    if len(names) != 1:
      raise InputError(
        f'{len(names)} arrays are (n, height, width, channels); --key names one of {", ".join(archive.files)}'
      )
    held = ChannelSet(arrays.texts(archive[data.channels_key])) if data.channels_key in archive.files else None
    split = arrays.split_of(names[0], data.image_key)
    mask = '' if split is None else arrays.key_of(data.present_key, split or pathlib.Path(path).stem)
    present = archive[mask] if mask in archive.files else None
  return found[names[0]], held, present


def checked(array: np.ndarray, present: np.ndarray | None, held: ChannelSet) -> np.ndarray:
  """The images (n, height, width, m) in an array, which may be one image alone.

  Args:
    array: (n, height, width, m) or (height, width, m).
    present: which of the m channels each image has, (n, m) bool; None for all.
    held: the m channels.

  Raises:
    InputError: for other shapes.
  """
  images = array[np.newaxis] if array.ndim == 3 else array
  if images.ndim != 4 or images.shape[-1] != len(held):
    raise InputError(
      f'the array is {array.shape}; (n, height, width, {len(held)}) was expected for the channels '
      f'{held.label(held.full)}'
    )
  if present is not None and (present.shape != (len(images), len(held)) or present.dtype != bool):
    raise InputError(
      f'presence must be a bool array {(len(images), len(held))}, one value for each image and channel, but it is '
      f'{present.dtype} {present.shape}'
    )
  return images
