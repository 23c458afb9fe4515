"""Rasters with any bands, such as TIFFs and .npy files: bands by name, their wavelengths, pixels without data.

The values are those of the file: the scale and offset that a file may declare are not applied, because a network takes
raw pixels and measures its own statistics.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from flaxnets.channels import ChannelSet
from flaxnets.data import npy
from flaxnets.data.decode import is_deep, is_photo, squash
from flaxnets.data.orientation import upright
from flaxnets.data.raster_pixels import fill_missing_pixels, opened, read_window, says_missing
from flaxnets.data.source import DTYPES, BadImage, DataOptions, Reading, wanted_channels
from flaxnets.data.tiff_pages import BadPages
from flaxnets.errors import InputError

SUFFIXES = ('.tif', '.tiff')
MISSING = ('error', 'mean')

_COLOURS = {'red': 'R', 'green': 'G', 'blue': 'B', 'gray': 'L'}
_PHOTOS = ({'gray'}, {'palette'}, {'red', 'green', 'blue'}, {'cyan', 'magenta', 'yellow', 'black'})


@dataclasses.dataclass(frozen=True)
class Header:
  """What a raster says before its pixels are read.

  Attributes:
    indexes: numbers of the bands that hold data, from 1. An alpha band is a mask and not among them, unless the user
      names as many bands as there are with it.
    names: their names: the descriptions, or else R, G, B or L by colour; empty if the file names none.
    dtype: number type that the pixels are read as.
    size: height and width, pixels, after the rotation.
    orientation: how the pixels are turned, as EXIF says it; 1 for not at all.
    masked: whether the file says which pixels have no data, or its floats may be NaN.
    note: what to know of its bands if the user names other ones; '' for nothing.
    photo: whether it is an 8-bit image of one, three or four colours and without names, as any program writes it.
  """

  indexes: tuple[int, ...]
  names: tuple[str, ...]
  dtype: np.dtype
  size: tuple[int, int]
  orientation: int
  masked: bool
  note: str
  photo: bool


def header(dataset: Any, name: str, named: int = 0) -> Header:
  """The header of a dataset from `raster_pixels.opened`.

  Args:
    dataset: the open file.
    name: the file in messages.
    named: how many bands the user names; 0 for none.

  Raises:
    BadImage: for complex numbers, or bands of different number types.
  """
  colours = [colour.name for colour in dataset.colorinterp]
  alpha_is_data = named == len(colours)
  indexes = [
    index for index, colour in zip(dataset.indexes, colours, strict=True) if alpha_is_data or colour != 'alpha'
  ]
  kinds = {dataset.dtypes[index - 1] for index in indexes}
  if len(kinds) != 1 or np.dtype(next(iter(kinds))).kind not in 'iuf':
    raise BadImage(f'{name}: its bands are {", ".join(sorted(kinds)) or "none"}; all must be one integer or float type')
  stored = np.dtype(kinds.pop())
  described = [dataset.descriptions[index - 1] for index in indexes]
  coloured = [_COLOURS.get(colours[index - 1]) for index in indexes]
  names = described if all(described) else coloured
  masks = dataset.mask_flag_enums
  has_value = any(flag.name == 'nodata' for index in indexes for flag in masks[index - 1])
  turn = dataset.tags().get('EXIF_Orientation', '')  # GDAL reads it in JPEGs only
  orientation = int(turn) if turn.isdecimal() else 1
  turned = orientation in (5, 6, 7, 8)
  return Header(
    tuple(indexes),
    tuple(re.sub(r'[\s,;]+', '_', (name or '').strip()) for name in names) if all(names) else (),
    stored if stored in DTYPES else np.dtype(np.float32),
    (dataset.width, dataset.height) if turned else (dataset.height, dataset.width),
    orientation,
    says_missing(dataset, indexes, alpha_is_data) or stored.kind == 'f',
    _note(dataset, colours),
    stored == np.uint8 and not any(described) and not has_value and set(colours) - {'alpha'} in _PHOTOS,
  )


def _note(dataset: Any, colours: Sequence[str]) -> str:
  if dataset.driver == npy.DRIVER:
    shape = dataset.height, dataset.width, dataset.count
    remedy = '; channels come last, so save np.moveaxis(array, 0, 2)' if shape[0] < min(shape[1:]) else ''
    return f'an .npy is (height, width, channels), and this one {shape}{remedy}'
  if 'alpha' not in colours:
    return ''
  return f'band {colours.index("alpha") + 1} is marked as alpha, and a mask unless data.bands names all {len(colours)}'


def _wavelength(dataset: Any, index: int) -> float | None:
  """Nanometres, from the places where GDAL's drivers put the centre wavelength of a band."""
  tags = {key.lower(): value for key, value in dataset.tags(index).items()}
  unit = tags.get('wavelength_unit', tags.get('wavelength_units', '')).lower()
  value = dataset.tags(index, ns='IMAGERY').get('CENTRAL_WAVELENGTH_UM')
  value, scale = (value, 1000) if value else (tags.get('wavelength'), 1000 if unit.startswith(('um', 'micro')) else 1)
  try:
    length = float(value) * scale if value else 0.0
  except ValueError:
    return None
  return length if 0 < length < math.inf else None


def is_raster(path: str | os.PathLike[str], options: DataOptions, eight_bits: bool = False) -> bool | None:
  """Whether a file has more to it than a photo of 8 bits: other bands, 16 bits or floats, names, or no data.

  Every image file is a raster where the options name its bands, a TIFF also where they have a value for no data. An
  .npy always is.

  Args:
    path: the file.
    options: how it is read.
    eight_bits: whether the file stands among photos, where a PNG of 16 bits becomes 8.

  Returns:
    None if the file cannot be opened; only PNGs, TIFFs and .npy files are.

  Raises:
    InputError: for a raster, if rasterio is not installed.
  """
  text = str(path).lower()
  if not os.path.isfile(path):
    return None
  # What `Rasters` does not read, such as an .npz, is one too, so that it says why.
  if options.bands or text.endswith(npy.SUFFIXES):
    return os.path.getsize(path) > 0 or None
  try:
    if text.endswith('.png'):
      with open(path, 'rb') as file:
        start = file.read(25)
      return is_deep(start) and not eight_bits if start else None
    if not text.endswith(SUFFIXES):
      return False
    if options.nodata:
      return True
    if importlib.util.find_spec('rasterio') is None and is_photo(path):
      return False
    with opened(path) as dataset:
      return _is_raster(dataset, str(path))
  except BadPages:  # `Rasters` says why
    return True
  except (OSError, BadImage):
    return None


def _is_raster(dataset: Any, name: str) -> bool:
  try:
    return not header(dataset, name).photo
  except BadImage:  # `Rasters` says why
    return True


def band_names(head: Header, options: DataOptions, name: str) -> ChannelSet:
  """The names of a file's bands: `options.bands`, or those that the file has, or `options.channels` if it names all.

  Raises:
    BadImage: if there are no names, or not one for each band.
  """
  count = len(head.indexes)
  try:
    if options.bands:
      named = ChannelSet.of(options.bands)
      if len(named) != count:
        raise InputError(f'{len(named)} names ({", ".join(named.names)}) for {count} bands')
      return named
    wanted = ChannelSet.of(options.channels).names if options.channels else ()
    by_colour = set(head.names) <= set(_COLOURS.values()) and not set(wanted) <= set(head.names)
    if len(wanted) == count and (not head.names or by_colour):
      return ChannelSet(wanted)
    if not head.names:
      raise InputError(
        f'its {count} bands have no names; name all, in their order: '
        "data.bands='B02,B03,B08', or --channels for flaxnets predict"
      )
    return ChannelSet(head.names)
  except InputError as error:
    raise BadImage(f'{_noted(name, head)}: {error}') from None


def _noted(name: str, head: Header) -> str:
  return f'{name} ({head.note})' if head.note else name


class Rasters:
  """Reads files with the bands of a first one; see `flaxnets.data.source.Source` for the attributes.

  Args:
    path: the first file. Others must have its number type, and bands with its names, in any order.
    options: `channels` to read, '' for all; `bands`, `nodata`, `missing_pixels`, `canvas`, `wavelengths`.
    some: whether the file may lack some of the channels, as other splits than that of training may.
    name: the file in messages; '' for its path.

  Raises:
    InputError: for a channel that the file does not have, or an option out of its range.
    BadImage: if the file cannot be read, or does not name its bands.
  """

  def __init__(self, path: str | os.PathLike[str], options: DataOptions, some: bool = False, name: str = ''):
    if options.missing_pixels not in MISSING:
      raise InputError(f'data.missing_pixels is {options.missing_pixels!r}; choose one of {", ".join(MISSING)}')
    self.nodata = _number(options.nodata)
    self._named = len(ChannelSet.of(options.bands)) if options.bands else 0
    name = name or str(path)
    with opened(path, name) as dataset:
      head = header(dataset, name, self._named)
      lengths = tuple(_wavelength(dataset, index) for index in head.indexes)
      if len(head.indexes) < dataset.count and not options.bands:
        logging.log_first_n(logging.WARNING, '%s: %s; a pixel has no data where it is 0', 1, name, head.note)
    held = band_names(head, options, name)
    places = wanted_channels(held, options.channels, _noted(name, head), some)
    own = tuple(lengths[place] for place in places) if any(lengths) else ()
    self.channels = ChannelSet(tuple(held.names[place] for place in places), options.wavelengths or own)
    self.dtype, self.canvas, self.size = head.dtype, (options.canvas, options.canvas), head.size
    self.has_missing_channels = head.masked or self.nodata is not None
    self.options = options

  def only(self, names: Sequence[str]) -> Rasters:
    """The same for some of the channels."""
    fewer = copy.copy(self)
    fewer.channels = ChannelSet(tuple(names))
    return fewer

  def read(self, path: str | os.PathLike[str], out: np.ndarray, name: str = '') -> Reading:
    """Reads a file into `out`, (H, W, C) of `dtype`, resized; see `flaxnets.data.source.Source.read`."""
    name = name or str(path)
    with opened(path, name) as dataset:
      head = header(dataset, name, self._named)
      pixels, valid = self.read_window(dataset, self._indexes(head, name), name=name)
    pixels = np.ascontiguousarray(upright(pixels, head.orientation))
    valid = None if valid is None else upright(valid, head.orientation)
    present, filled = fill_missing_pixels(pixels, valid, self.channels.names, self.options.missing_pixels, name)
    if not present.any():
      raise BadImage(f'{name}: none of its pixels has data in {", ".join(self.channels.names)}')
    if not (present.all() or self.has_missing_channels):
      raise BadImage(
        f'{name}: no pixel of channel {self.channels.names[int((~present).argmax())]} has data, but the first file '
        'declares no value for that; give the value, as in data.nodata=0'
      )
    squash(pixels, out)
    return Reading(head.size, None if present.all() else present, filled)

  def indexes(self, dataset: Any, name: str) -> list[int]:
    """The numbers of the channels' bands in an open file; `name` is the file in messages.

    Raises:
      BadImage: if it has other bands or another number type.
    """
    return self._indexes(header(dataset, name, self._named), name)

  def read_window(
    self, dataset: Any, indexes: Sequence[int], window: Any = None, *, name: str
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """See `raster_pixels.read_window`, with what the options say of pixels without data and of alpha."""
    alpha_is_data = self._named == dataset.count
    return read_window(dataset, indexes, window, nodata=self.nodata, alpha_is_data=alpha_is_data, name=name)

  def _indexes(self, head: Header, name: str) -> list[int]:
    if head.dtype != self.dtype:
      raise BadImage(f'{name}: its pixels are {head.dtype}, but those of the first file are {self.dtype}')
    held = band_names(head, self.options, name)
    for channel in self.channels.names:
      if channel not in held.names:
        raise BadImage(f'{name}: it has no channel {channel!r}, only {", ".join(held.names)}')
    return [head.indexes[held.names.index(channel)] for channel in self.channels.names]


def _number(text: str) -> float | None:
  try:
    return float(text) if text else None
  except ValueError:
    raise InputError(f"data.nodata is {text!r}; it must be a number, such as '0', or 'nan'") from None
