"""Files of images that tests make, and how they read a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from flaxnets.data.open import open_source
from flaxnets.data.source import DataOptions

NAMES = ('B02', 'B03', 'B04', 'B08', 'B11')
TRANSFORM = (10, 0, 600_000, 0, -10, 5_400_000)  # of `write_geotiff`, the first six numbers of rasterio's


def read(source, index=0):
  """What `Source.read` returns for an example, and the canvas."""
  out = np.full((*source.canvas, len(source.channels)), 7, source.dtype)
  return source.read(index, out), out


def read_all(source):
  """The same for all examples."""
  readings, canvases = zip(*(read(source, index) for index in range(len(source))), strict=True)
  return list(readings), np.stack(canvases)


def open_folder(root, split='train', class_names=None, **options):
  """A source of folders of images, with all the channels that they have, on a canvas of 20 x 20 pixels."""
  options = {'channels': '', 'canvas': 20} | options
  return open_source(DataOptions('folders', str(root), **options), split, class_names)


def noise(seed=0, size=(20, 20), count=5, dtype=np.uint16):
  """Pixels (h, w, count), none of them 0."""
  return np.random.default_rng(seed).integers(1, 200, (*size, count)).astype(dtype)


def write_geotiff(path: Path, pixels, names=NAMES, nodata=None, tags=None, **profile) -> Path:
  """A GeoTIFF of pixels (h, w, m); `tags` are those of bands, by their numbers from 1."""
  import rasterio

  path.parent.mkdir(parents=True, exist_ok=True)
  height, width, count = pixels.shape
  shape = {'height': height, 'width': width, 'count': count, 'dtype': pixels.dtype, 'nodata': nodata}
  place = {'crs': 'EPSG:32631', 'transform': rasterio.Affine(*TRANSFORM)}
  with rasterio.open(path, 'w', driver='GTiff', **place, **shape, **profile) as file:
    file.write(np.moveaxis(pixels, 2, 0))
    for index, name in enumerate(names or (), 1):
      file.set_band_description(index, name)
    for index, values in (tags or {}).items():
      file.update_tags(index, **values)
  return path


def write_pages(path: Path, pixels, description: bytes = b'') -> Path:
  """A TIFF with a page for each channel of (h, w, m), each with the description."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pages = [Image.fromarray(page) for page in np.moveaxis(pixels, 2, 0)]
  pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo={270: description} if description else {})
  return path


def write_photo(path: Path, pixels, **options) -> None:
  """An image file of pixels (h, w) or (h, w, m) that Pillow writes, in the format that its suffix names."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **options)
