"""GeoTIFFs in data sets, and scenes to make a map of."""

import functools
import importlib.util
import os

import numpy as np

from tests.bad_inputs.case import Case
from tests.bad_inputs.lists import FOLDERS
from tests.bad_inputs.runs import trained
from tests.data.made import noise, write_geotiff

NAMES = ('B02', 'B03', 'B08')
TRAIN = f'{FOLDERS} --config.data.channels=B02,B03,B08 --config.data.canvas=16 --config.data.threads=1'

write = functools.partial(write_geotiff, names=NAMES)


def pixels(dtype=np.uint16, count=3):
  return noise(size=(16, 16), count=count, dtype=dtype)


def _set(change=lambda path: None, dtype=np.uint16, **options):
  """Two classes of one file each; `change` spoils the second file."""

  def make(folder):
    for name in 'ab':
      write(folder / 'train' / name / '1.tif', pixels(dtype), **(options if name == 'b' else {}))
    change(folder / 'train' / 'b' / '1.tif')

  return make


def _other(array, **options):
  return _set(lambda path: write(path, array, **options))


def _cut(path):
  path.write_bytes(path.read_bytes()[:500])


def _pipe(path):
  path.unlink()
  os.mkfifo(path)


def _virtual(path):
  path.write_text(
    '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
    '<SourceFilename>/etc/hostname</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
  )


def _holes(path):
  array = pixels()
  array[3, 4, 1] = 0
  write(path, array, nodata=0)


def _infinite(path):
  array = pixels(np.float32)
  array[3, 4, 1] = np.inf
  write(path, array)


def _scene(change=None, **options):
  def make(folder):
    trained(folder)
    write(folder / 'scene.tif', pixels(np.uint8), **options)
    if change:
      change(folder / 'scene.tif')

  return make


MAP = 'predict DIR/run DIR/scene.tif --out=DIR/map.tif'
CASES = [
  Case('GeoTIFF of text', TRAIN, 'b/1.tif: cannot be read', _set(lambda path: path.write_text('hello'))),
  Case('GeoTIFF that is empty', TRAIN, 'b/1.tif: cannot be read', _set(lambda path: path.write_bytes(b''))),
  Case('GeoTIFF that is cut', TRAIN, 'b/1.tif: cannot be read', _set(_cut)),
  Case('GeoTIFF that is a pipe', TRAIN, 'b/1.tif: cannot be read .it is not a regular file', _set(_pipe)),
  Case('virtual raster named tif', TRAIN, 'b/1.tif: cannot be read', _set(_virtual)),
  Case(
    'GeoTIFF of complex numbers',
    TRAIN,
    'b/1.tif.* all must be one integer or float type',
    _other(pixels(np.complex64)),
  ),
  Case('GeoTIFF without a band', TRAIN, 'b/1.tif.*B08', _other(pixels(count=2), names=NAMES[:2])),
  Case('GeoTIFF of other bands', TRAIN, 'b/1.tif.*B02', _other(pixels(), names=('B1', 'B2', 'B3'))),
  Case('GeoTIFF with a band twice', TRAIN, "b/1.tif.*'B02' is repeated", _other(pixels(), names=('B02', 'B02', 'B08'))),
  Case('GeoTIFF of another number type', TRAIN, 'b/1.tif.*float32.*uint16', _other(pixels(np.float32))),
  Case(
    'GeoTIFF with pixels without data',
    TRAIN,
    'b/1.tif.*1 of 256 pixels of channel B03 have no data; data.missing_pixels=mean',
    _set(_holes),
  ),
  Case('GeoTIFF with infinite pixels', TRAIN, 'b/1.tif.*B03.*(infinite|no data)', _set(_infinite, np.float32)),
  Case(
    'bands that are too few for the files',
    f'{TRAIN} --config.data.bands=B02,B03',
    r'2 names \(B02, B03\) for 3 bands',
    _set(),
  ),
  Case('no such band', TRAIN.replace('B08', 'B99'), 'B99', _set()),
  Case('scene that is missing', MAP, 'scene.tif: cannot be read .No such file', trained),
  Case('scene of text', MAP, 'scene.tif: cannot be read', _scene(lambda path: path.write_text('hello'))),
  Case('scene of other bands', MAP, 'scene.tif.*B02', _scene()),
  Case(
    'scene that would be overwritten',
    MAP.replace('map.tif', 'scene.tif'),
    'scene.tif is the scene itself; write',
    _scene(names=tuple('RGB')),
  ),
  Case(
    'map of two scenes',
    MAP.replace('scene.tif', 'scene.tif DIR/b.tif'),
    'a map is of one scene, but 2',
    _scene(names=tuple('RGB')),
  ),
  Case(
    'stride above the tile',
    f'{MAP} --tile=8 --stride=9',
    'tile is 8 and stride is 9; tile must be above 0',
    _scene(names=tuple('RGB')),
  ),
  Case('negative tile', f'{MAP} --tile=-1', '--tile=-1', _scene(names=tuple('RGB')), code=2),
]

if importlib.util.find_spec('rasterio') is None:
  CASES = []
