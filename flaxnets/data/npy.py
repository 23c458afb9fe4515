"""Images in .npy files, one in each, with what is used of a rasterio dataset; rasterio itself is not needed."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxnets.data import arrays
from flaxnets.data.source import DTYPES, BadImage

DRIVER = 'NPY'
SUFFIXES = ('.npy', '.npz')  # the second only to say what is read instead


class _Colour(enum.Enum):
  undefined = 0


class _Mask(enum.Enum):
  all_valid = 1


def holds_image(path: str | os.PathLike[str]) -> bool:
  """Whether a file is an .npy with an array that `NpyImage` takes, by its header."""
  if not str(path).lower().endswith(SUFFIXES[0]):
    return False
  try:
    NpyImage(path, '')
  except BadImage:
    return False
  return True


class NpyImage:
  """An array (height, width, channels) as bands without names; (height, width) is one band.

  The array is memory-mapped, so that only what is read of it takes memory. The attributes and methods are rasterio's.

  Args:
    path: the file.
    name: the file in messages.

  Raises:
    BadImage: if it cannot be read, or holds something else than uint8, uint16 or float32 of two or three axes.
  """

  driver = DRIVER
  subdatasets: tuple[str, ...] = ()
  crs = None
  gcps: tuple[tuple[()], None] = (), None

  def __init__(self, path: str | os.PathLike[str], name: str):
    self.name, self._pixels = os.fspath(path), _loaded(path, name)
    self.height, self.width, self.count = self._pixels.shape
    self.indexes = tuple(range(1, self.count + 1))
    self.dtypes = (self._pixels.dtype.newbyteorder('=').name,) * self.count
    self.descriptions = (None,) * self.count
    self.colorinterp = (_Colour.undefined,) * self.count
    self.mask_flag_enums = ((_Mask.all_valid,),) * self.count
    self.block_shapes = ((1, self.width),) * self.count

  @property
  def transform(self) -> Any:
    import rasterio

    return rasterio.Affine.identity()

  def tags(self, index: int = 0, ns: str = '') -> dict[str, str]:
    """No metadata."""
    return {}

  def read(self, indexes: Sequence[int], window: Any = None) -> np.ndarray:
    """Bands (m, h, w) of the image, or of a rasterio window in it."""
    pixels = self._pixels if window is None else self._pixels[window.toslices()]
    places = [index - 1 for index in indexes]
    return np.moveaxis(pixels[:, :, places].astype(self.dtypes[0]), 2, 0)


def _loaded(path: str | os.PathLike[str], name: str) -> np.ndarray:
  if str(path).lower().endswith('.npz'):
    raise BadImage(
      f'{name}: an image file is no .npz; save each image as .npy (height, width, channels), or all images in one .npz '
      'for data.source=arrays'
    )
  try:
    pixels = arrays.opened(path, mmap_mode='r')
  except Exception as error:  # NumPy has no exception of its own for corrupt files
    raise BadImage(f'{name}: cannot be read ({arrays.why_unreadable(error)})') from None
  if pixels.ndim not in (2, 3) or 0 in pixels.shape:
    raise BadImage(f'{name}: its array is {pixels.shape}, but an image is (height, width, channels)')
  if pixels.dtype.newbyteorder('=') not in DTYPES:
    raise BadImage(
      f'{name}: its array holds {pixels.dtype}; save it as uint8, uint16 or float32, as in array.astype(np.float32)'
    )
  return pixels.reshape(*pixels.shape[:2], -1)
