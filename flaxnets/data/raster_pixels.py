"""Pixels of rasters and windows of them, read by rasterio or NumPy, and what becomes of pixels without data."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flaxnets.data import gdal_warnings, npy, tiff_pages
from flaxnets.data.decode import MAX_PIXELS
from flaxnets.data.source import DTYPES, BadImage
from flaxnets.errors import InputError
from flaxnets.runtime import regular

# GDAL tells formats by content. Some, such as VRT, refer to other files and to URLs: a file of a data set must be none,
# whatever its suffix.
DRIVERS = {
  **dict.fromkeys(('.tif', '.tiff'), 'GTiff'),
  **dict.fromkeys(('.jpg', '.jpeg', '.jpe', '.jfif'), 'JPEG'),
  **dict.fromkeys(('.ppm', '.pgm'), 'PNM'),
  **{'.png': 'PNG', '.webp': 'WEBP', '.bmp': 'BMP', '.gif': 'GIF', '.jp2': 'JP2OpenJPEG', '.avif': 'AVIF'},
}
SUFFIXES = (*DRIVERS, '.npy')  # of rasters in data sets

MAX_VALUES = 6 * MAX_PIXELS  # of all bands together: a sparse TIFF of some hundred bytes may claim any number

_GDAL = {
  # By default GDAL fills the rest of a truncated PNG of 8 bits with whatever the memory held, and that of a small PNM
  # with zeros, and reports no error.
  'GDAL_PNG_WHOLE_IMAGE_OPTIM': 'NO',
  'GDAL_ONE_BIG_READ': 'NO',
  'GDAL_DISABLE_READDIR_ON_OPEN': 'TRUE',  # a mask beside a file then has one of the names in `_check_mask`
}


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], name: str = '') -> Iterator[Any]:
  """A rasterio dataset, or the same of an .npy file.

  Args:
    path: whatever GDAL reads: a GeoTIFF, a VRT, a JPEG 2000; or an .npy. An image's suffix must be right. The pages of
      a multi-page TIFF become bands.
    name: the file in messages; '' for its path.

  Raises:
    InputError: if rasterio is not installed.
    BadImage: if the file cannot be opened, if its pages differ, or while it is read.
  """
  name = name or str(path)
  suffix = os.path.splitext(path)[1].lower()
  if suffix in npy.SUFFIXES:
    yield npy.NpyImage(path, name)
    return
  try:
    import rasterio
  except ImportError:
    raise InputError(f'{name}: rasterio reads such files; pip install rasterio') from None
  place = os.path.abspath(path)  # a file named 'http:x.tif' in the current folder is no address
  try:
    regular.check(place)
    place.encode()
    _check_mask(place, name)
  except OSError as error:
    raise BadImage(f'{name}: cannot be read ({error.strerror})') from None
  except UnicodeEncodeError:
    raise BadImage(f'{name}: cannot be read (its path is not UTF-8, as GDAL needs it; rename it)') from None
  gdal_warnings.say_once()
  try:
    with rasterio.Env(**_GDAL), rasterio.open(place, driver=DRIVERS.get(suffix)) as dataset:
      if dataset.driver == 'GTiff' and len(dataset.subdatasets) > 1:
        with rasterio.open(tiff_pages.stacked(dataset, name), driver='VRT') as pages:
          yield pages
      else:
        yield dataset
  except rasterio.errors.RasterioError as error:
    reason = ' '.join(str(error.__cause__ or error).split())
    raise BadImage(f'{name}: cannot be read ({reason.replace(f"{place}: ", "")})') from None


def _check_mask(place: str, name: str) -> None:
  """Raises BadImage for a file of masks beside a raster that is no TIFF: a VRT may refer to other files and to URLs."""
  for mask in (f'{place}.msk', f'{place}.MSK'):
    if os.path.exists(mask):
      regular.check(mask)
      with open(mask, 'rb') as file:
        if file.read(3) not in (b'II*', b'II+', b'MM\0'):
          raise BadImage(f'{name}: the mask {mask} beside it is not a TIFF')


def check_format(path: str | os.PathLike[str], name: str) -> None:
  """Raises BadImage for a file of a data set whose suffix is none of SUFFIXES, so that GDAL would choose its format."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix not in (*SUFFIXES, *npy.SUFFIXES):
    raise BadImage(f'{name}: rasters of data sets end in {", ".join(SUFFIXES)}, but this one in {suffix or "none"!r}')


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


def says_missing(dataset: Any, indexes: Sequence[int], alpha_is_data: bool = False) -> bool:
  """Whether a file says which pixels of some bands have no data; an alpha band says so, unless it holds data itself."""
  flags = {flag.name for index in indexes for flag in dataset.mask_flag_enums[index - 1]}
  return flags != {'all_valid'} and not (alpha_is_data and 'alpha' in flags)


def read_window(
  dataset: Any,
  indexes: Sequence[int],
  window: Any = None,
  *,
  nodata: float | None = None,
  alpha_is_data: bool = False,
  name: str,
) -> tuple[np.ndarray, np.ndarray | None]:
  """Some bands of a raster, or of a window of it.

  Args:
    dataset: from `opened`.
    indexes: numbers of the bands, from 1.
    window: a rasterio window; None for the whole raster.
    nodata: a value that means no data, in place of the file's masks; None for those.
    alpha_is_data: whether an alpha band is no mask.
    name: the file in messages.

  Returns:
    Pixels (h, w, m) of uint8, uint16 or float32, and which of them have data, (h, w, m) bool, None for all. Pixels
    without data may be anything.

  Raises:
    BadImage: for more than 178,956,970 pixels, or six times as many in all bands together.
  """
  height, width = (dataset.height, dataset.width) if window is None else (window.height, window.width)
  if height * width > MAX_PIXELS:
    raise BadImage(f'{name}: {height} x {width} pixels; the most that is read at once is {MAX_PIXELS:,}')
  if height * width * len(indexes) > MAX_VALUES:
    raise BadImage(
      f'{name}: {height} x {width} pixels of {len(indexes)} bands; the most that is read at once is {MAX_VALUES:,} '
      'values'
    )
  stored = dataset.read(list(indexes), window=window)
  valid = None
  if nodata is not None:
    valid = ~np.isnan(stored) if np.isnan(nodata) else stored != nodata
  elif says_missing(dataset, indexes, alpha_is_data):
    valid = dataset.read_masks(list(indexes), window=window) > 0
  with np.errstate(over='ignore'):  # float64 too large for float32: infinite, which counts as no data
    pixels = stored if stored.dtype in DTYPES else stored.astype(np.float32)
  if pixels.dtype.kind == 'f' and not (finite := np.isfinite(pixels)).all():
    valid = finite if valid is None else valid & finite
  if valid is not None:
    valid = None if valid.all() else np.ascontiguousarray(np.moveaxis(valid, 0, 2))
  return np.ascontiguousarray(np.moveaxis(pixels, 0, 2)), valid


def fill_missing_pixels(
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
