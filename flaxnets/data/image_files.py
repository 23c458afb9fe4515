"""Sources of image files: photos, which are decoded to 8 bits, or rasters, which keep their number type and bands."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.data import raster_pixels
from flaxnets.data.decode import decode_planes, image_planes, read_image
from flaxnets.data.geotiff import Rasters, is_raster
from flaxnets.data.source import BadImage, DataOptions, Reading
from flaxnets.errors import InputError

SUFFIXES = raster_pixels.SUFFIXES  # of the files in a folder that are images


@dataclasses.dataclass(frozen=True)
class LabelledFiles:
  """The files of a split.

  Attributes:
    name: the source in messages: the split file or the folder.
    root: folder that the paths are relative to.
    paths: paths of the files, with '/'.
    labels: (N,) int32, one per path.
    classes: class names.
    lines: the line of each path in the split file; None without a split file.
  """

  name: str
  root: str
  paths: Sequence[str]
  labels: np.ndarray
  classes: Sequence[str]
  lines: Sequence[int] | None = None

  def path(self, index: int) -> str:
    return os.path.join(self.root, self.paths[index])

  def where(self, index: int) -> str:
    """The file and its line in the list, for messages."""
    return self.path(index) if self.lines is None else f'{self.path(index)} ({self.name}, line {self.lines[index]})'


def open_images(files: LabelledFiles, options: DataOptions, some: bool = False) -> PhotoFiles | RasterFiles:
  """The source of some files. The first one that can be opened decides for all whether they are photos or rasters.

  Args:
    files: the files.
    options: `channels`, `canvas` and so on.
    some: whether the files may lack some of the channels, as those of other splits than that of training may.

  Raises:
    InputError: for a channel that the files do not have, or an option out of its range.
    BadImage: if the first raster cannot be read; with `options.on_bad_image` 'skip', if none can.
  """
  failure = None
  for index in range(len(files.paths)):
    raster = is_raster(files.path(index), options)
    if raster is False:
      return PhotoFiles(files, options)
    if raster:
      try:
        raster_pixels.check_format(files.path(index), files.where(index))
        return RasterFiles(files, options, Rasters(files.path(index), options, some, files.where(index)))
      except BadImage as error:
        if options.on_bad_image != 'skip':
          raise
        failure = failure or error
  if failure:
    raise failure
  return PhotoFiles(files, options)


class _Files:
  """What sources of photos and of rasters have in common; see `flaxnets.data.source.Source` for the attributes.

  Attributes:
    root: the folder that `ids` are relative to.
  """

  def __init__(self, files: LabelledFiles, options: DataOptions):
    canvas = options.canvas
    if canvas < 1:
      raise InputError(f'canvas is {canvas}; it must be at least 1 pixel (data.canvas, or 1.5 x image_size)')
    self.name, self.root, self.classes, self.labels = files.name, files.root, tuple(files.classes), files.labels
    self.ids = _unique(files.paths)
    self.canvas = canvas, canvas
    self._files = files

  def __len__(self) -> int:
    return len(self._files.paths)

  def where(self, index: int) -> str:
    """The file and its line in the list, for messages."""
    return self._files.where(index)


class PhotoFiles(_Files):
  """Files that are decoded to 8 bits (`decode.decode`), whatever they hold."""

  def __init__(self, files: LabelledFiles, options: DataOptions):
    super().__init__(files, options)
    self.channels = ChannelSet.of(options.channels or 'RGB', options.wavelengths)
    self.dtype, self.has_missing_channels = np.dtype(np.uint8), False
    self._planes = image_planes(self.channels)

  def read(self, index: int, out: np.ndarray) -> Reading:
    return Reading(decode_planes(self.encoded(index), out, self._planes, name=self.where(index)))

  def encoded(self, index: int) -> bytes:
    """The bytes of a file.

    Raises:
      BadImage: if it cannot be read.
    """
    return read_image(self._files.path(index), self.where(index))


class RasterFiles(_Files):
  """Files that keep their number type and their bands.

  Args:
    files, options: see `open_images`.
    rasters: the reader, with the bands of the first file.
  """

  def __init__(self, files: LabelledFiles, options: DataOptions, rasters: Rasters):
    super().__init__(files, options)
    self.channels, self.dtype = rasters.channels, rasters.dtype
    self.has_missing_channels = rasters.has_missing_channels
    self._rasters = rasters

  def read(self, index: int, out: np.ndarray) -> Reading:
    path, where = self._files.path(index), self.where(index)
    raster_pixels.check_format(path, where)
    return self._rasters.read(path, out, where)


def _unique(paths: Sequence[str]) -> list[str]:
  """The paths. The second and later occurrences of a path get '#2', '#3' and so on appended."""
  seen: collections.Counter[str] = collections.Counter()
  ids = []
  for path in paths:
    seen[path] += 1
    ids.append(path if seen[path] == 1 else f'{path}#{seen[path]}')
  return ids
