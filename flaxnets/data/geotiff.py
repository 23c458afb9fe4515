"""Rasters with any bands, such as GeoTIFFs: bands by name, their wavelengths, pixels without data. Read by rasterio.

The values are those of the file: the scale and offset that a file may declare are not applied, because a network takes
raw pixels and measures its own statistics.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.data.decode import MAX_PIXELS, is_deep, squash
from flaxnets.data.source import DTYPES, BadImage, DataOptions, Reading
from flaxnets.errors import InputError

SUFFIXES = ('.tif', '.tiff')
MISSING = ('error', 'mean')

_COLOURS = {'red': 'R', 'green': 'G', 'blue': 'B', 'gray': 'L'}
_PHOTOS = ({'gray'}, {'palette'}, {'red', 'green', 'blue'}, {'cyan', 'magenta', 'yellow', 'black'})


@dataclasses.dataclass(frozen=True)
class Header:
  """What a raster says before its pixels are read.

  Attributes:
    indexes: numbers of the bands that hold data, from 1; an alpha band is a mask and not among them.
    names: their names: the descriptions, or else R, G, B or L by colour; empty if the file names none.
    dtype: number type that the pixels are read as.
    size: height and width, pixels.
    masked: whether the file says which pixels have no data, or its floats may be NaN.
    photo: whether it is an 8-bit image of one, three or four colours and without names, as any program writes it.
  """

  indexes: tuple[int, ...]
  names: tuple[str, ...]
  dtype: np.dtype
  size: tuple[int, int]
  masked: bool
  photo: bool


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], name: str = '') -> Iterator[Any]:
  """A rasterio dataset.

  Args:
    path: whatever GDAL reads: a GeoTIFF, a VRT, a JPEG 2000.
    name: the file in messages; '' for its path.

  Raises:
    InputError: if rasterio is not installed.
    BadImage: if the file cannot be opened, or while it is read.
  """
  try:
    import rasterio
  except ImportError:
    raise InputError(f"{name or path}: rasterio reads such files; pip install 'flaxnets[geo]'") from None
  try:
    with rasterio.open(path) as dataset:
      yield dataset
  except rasterio.errors.RasterioError as error:
    reason = ' '.join(str(error.__cause__ or error).split())
    raise BadImage(f'{name or path}: cannot be read ({reason.replace(f"{path}: ", "")})') from None


@contextlib.contextmanager
def cache_for(dataset: Any) -> Iterator[None]:
  """Bounds GDAL's cache of blocks while a raster is read in strips: two rows of its blocks, 64 MiB to 512 MiB.

  By default the cache takes 5 % of the machine's memory.
  """
  import rasterio

  height = max(shape[0] for shape in dataset.block_shapes)
  row = height * dataset.width * sum(np.dtype(kind).itemsize for kind in dataset.dtypes)
  with rasterio.Env(GDAL_CACHEMAX=min(max(2 * row, 2**26), 2**29)):
    yield


def header(dataset: Any) -> Header:
  """The header of a rasterio dataset.

  Raises:
    BadImage: for complex numbers, or bands of different number types.
  """
  colours = [colour.name for colour in dataset.colorinterp]
  indexes = [index for index, colour in zip(dataset.indexes, colours, strict=True) if colour != 'alpha']
  kinds = {dataset.dtypes[index - 1] for index in indexes}
  if len(kinds) != 1 or np.dtype(next(iter(kinds))).kind not in 'iuf':
    raise BadImage(f'{dataset.name}: its bands are {", ".join(sorted(kinds)) or "none"}; all must be one type of number')
  stored = np.dtype(kinds.pop())
  described = [dataset.descriptions[index - 1] for index in indexes]
  coloured = [_COLOURS.get(colours[index - 1]) for index in indexes]
  names = described if all(described) else coloured
  masks = dataset.mask_flag_enums
  flags = {flag.name for index in indexes for flag in masks[index - 1]}
  return Header(
    tuple(indexes),
    tuple(re.sub(r'[\s,;]+', '_', name.strip()) for name in names) if all(names) else (),
    stored if stored in DTYPES else np.dtype(np.float32),
    (dataset.height, dataset.width),
    flags != {'all_valid'} or stored.kind == 'f',
    stored == np.uint8 and not any(described) and 'nodata' not in flags and set(colours) - {'alpha'} in _PHOTOS,
  )


def _wavelength(dataset: Any, index: int) -> float | None:
  """Nanometres, from the places where GDAL's drivers put the centre wavelength of a band."""
  tags = {key.lower(): value for key, value in dataset.tags(index).items()}
  unit = tags.get('wavelength_unit', tags.get('wavelength_units', '')).lower()
  value = dataset.tags(index, ns='IMAGERY').get('CENTRAL_WAVELENGTH_UM')
  value, scale = (value, 1000) if value else (tags.get('wavelength'), 1000 if unit.startswith(('um', 'micro')) else 1)
  try:
    return float(value) * scale if value else None
  except ValueError:
    return None


def is_raster(path: str | os.PathLike[str], options: DataOptions) -> bool:
  """Whether a file has more to it than a photo of 8 bits: other bands, 16 bits or floats, names, or no data.

  A TIFF that is no more than a photo is decoded like other photos, unless the options ask for bands. So is every TIFF
  if rasterio is not installed. A file that cannot be opened is none.
  """
  text = str(path).lower()
  if text.endswith('.png'):
    with contextlib.suppress(OSError), open(path, 'rb') as file:
      return is_deep(file.read(25))
  if not text.endswith(SUFFIXES) or not os.path.isfile(path):
    return False
  if options.bands or options.nodata or not options.channels:
    return True
  try:
    with opened(path) as dataset:
      return not header(dataset).photo
  except InputError:
    return False


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
        f"its {count} bands have no names; name all, in their order: "
        "data.bands='B02,B03,B08', or --channels for flaxnets predict"
      )
    return ChannelSet(head.names)
  except InputError as error:
    raise BadImage(f'{name}: {error}') from None


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
    with opened(path, name) as dataset:
      head = header(dataset)
      lengths = tuple(_wavelength(dataset, index) for index in head.indexes)
    held = band_names(head, options, name or str(path))
    wanted = ChannelSet(held.names_in(options.channels)).names if options.channels else held.names
    taken = tuple(channel for channel in wanted if channel in held.names)
    if len(taken) < len(wanted) and not (some and taken):
      absent = next(channel for channel in wanted if channel not in taken)
      raise InputError(
        f"no channel {absent!r} in {name or path}; it has {', '.join(held.names)} (data.channels='' takes all)"
      )
    places = [held.names.index(channel) for channel in taken]
    own = tuple(lengths[place] for place in places) if any(lengths) else ()
    self.channels = ChannelSet(taken, options.wavelengths or own)
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
      indexes = self.indexes(dataset, name)
      pixels, valid = read_window(dataset, indexes, nodata=self.nodata)
    size = pixels.shape[0], pixels.shape[1]
    present, filled = complete(pixels, valid, self.channels.names, self.options.missing_pixels, name)
    if not present.any():
      raise BadImage(f'{name}: none of its pixels has data in {", ".join(self.channels.names)}')
    if not (present.all() or self.has_missing_channels):
      raise BadImage(
        f'{name}: no pixel of channel {self.channels.names[int((~present).argmax())]} has data, but the first file '
        'declares no value for that; give the value, as in data.nodata=0'
      )
    squash(pixels, out)
    return Reading(size, None if present.all() else present, filled)

  def indexes(self, dataset: Any, name: str = '') -> list[int]:
    """The numbers of the channels' bands in an open file.

    Raises:
      BadImage: if it has other bands, another number type, or more pixels than are decoded at once.
    """
    name, head = name or dataset.name, header(dataset)
    if head.dtype != self.dtype:
      raise BadImage(f'{name}: its pixels are {head.dtype}, but those of the first file are {self.dtype}')
    held = band_names(head, self.options, name)
    for channel in self.channels.names:
      if channel not in held.names:
        raise BadImage(f'{name}: it has no channel {channel!r}, only {", ".join(held.names)}')
    return [head.indexes[held.names.index(channel)] for channel in self.channels.names]


def read_window(
  dataset: Any, indexes: Sequence[int], window: Any = None, *, nodata: float | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
  """Some bands of a raster, or of a window of it.

  Args:
    dataset: from `opened`.
    indexes: numbers of the bands, from 1.
    window: a rasterio window; None for the whole raster.
    nodata: a value that means no data, in place of the file's masks; None for those.

  Returns:
    Pixels (h, w, m) of uint8, uint16 or float32, and which of them have data, (h, w, m) bool, None for all. Pixels
    without data may be anything.

  Raises:
    BadImage: for more than 178,956,970 pixels.
  """
  height, width = (dataset.height, dataset.width) if window is None else (window.height, window.width)
  if height * width > MAX_PIXELS:
    raise BadImage(f'{dataset.name}: {height} x {width} pixels; the most that is read at once is {MAX_PIXELS:,}')
  stored = dataset.read(list(indexes), window=window)
  valid = None
  if nodata is not None:
    valid = ~np.isnan(stored) if np.isnan(nodata) else stored != nodata
  elif any(flag.name != 'all_valid' for flags in dataset.mask_flag_enums for flag in flags):
    valid = dataset.read_masks(list(indexes), window=window) > 0
  with np.errstate(over='ignore'):  # float64 too large for float32: infinite, which counts as no data
    pixels = stored if stored.dtype in DTYPES else stored.astype(np.float32)
  if pixels.dtype.kind == 'f' and not (finite := np.isfinite(pixels)).all():
    valid = finite if valid is None else valid & finite
  if valid is not None:
    valid = None if valid.all() else np.ascontiguousarray(np.moveaxis(valid, 0, 2))
  return np.ascontiguousarray(np.moveaxis(pixels, 0, 2)), valid


def complete(
  pixels: np.ndarray, valid: np.ndarray | None, names: Sequence[str], how: str, where: str
) -> tuple[np.ndarray, int]:
  """Settles pixels without data, in place: zeros for an absent channel; the mean of the band for single pixels.

  Args:
    pixels: (h, w, m).
    valid: (h, w, m) bool, the pixels with data; None for all.
    names: of the m channels.
    how: 'mean', or 'error' if single pixels without data are an error.
    where: the image in messages.

  Returns:
    The channels that are present, (m,) bool, and how many pixels were filled.

  Raises:
    BadImage: naming the first channel with single pixels without data, for 'error'.
  """
  if valid is None:
    return np.ones(pixels.shape[2], bool), 0
  counts = valid.sum(axis=(0, 1))
  total, present, filled = valid[..., 0].size, counts > 0, 0
  for place in np.flatnonzero(present & (counts < total)).tolist():
    if how == 'error':
      raise BadImage(
        f'{where}: {total - counts[place]:,} of {total:,} pixels of channel {names[place]} have no data; '
        'data.missing_pixels=mean fills them with the mean of the others'
      )
    with_data = valid[..., place]
    mean = pixels[..., place][with_data].mean(dtype=np.float64)
    pixels[~with_data, place] = mean if pixels.dtype.kind == 'f' else round(mean)
    filled += int(total - counts[place])
  pixels[..., ~present] = 0
  return present, filled


def _number(text: str) -> float | None:
  try:
    return float(text) if text else None
  except ValueError:
    raise InputError(f"data.nodata is {text!r}; it must be a number, such as '0', or 'nan'") from None
