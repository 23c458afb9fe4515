"""A class map of a scene of any size: overlapping tiles are classified, and their probabilities are averaged per pixel.

See `flaxnets.inference.scene_pass` for how tiles lie and count.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING

from flaxnets.data import geotiff, raster_pixels
from flaxnets.errors import InputError
from flaxnets.inference.map_files import PROBABILITIES, MapFiles
from flaxnets.inference.predictor import raster_options
from flaxnets.inference.scene_pass import Progress, ScenePass

if TYPE_CHECKING:
  from flaxnets.inference.network import Network


@dataclasses.dataclass(frozen=True)
class MapSummary:
  """What `predict_map` did.

  Attributes:
    files: the files that were written: the class map, and the probabilities if they were asked for.
    channels: names of the channels that were used.
    size: height and width of the scene, pixels.
    tiles: tiles that lie in the scene.
    empty: tiles without data, which were not classified.
    filled: tiles in which single pixels without data got the mean of their band in the tile.
    pixels: pixels of each class in the map, by name.
  """

  files: tuple[str, ...]
  channels: tuple[str, ...]
  size: tuple[int, int]
  tiles: int
  empty: int
  filled: int
  pixels: dict[str, int]


def predict_map(
  net: Network,
  scene: str | os.PathLike[str],
  out: str | os.PathLike[str],
  *,
  channels: str = '',
  subset: str = '',
  tile: int = 0,
  stride: int = 0,
  probabilities: str = 'top',
  batch_size: int = 64,
  progress: Progress = lambda done, total: None,
) -> MapSummary:
  """Classifies a scene tile by tile and writes a class map; see `flaxnets.inference.map_files` for the files.

  A band without data in a tile is an absent channel there. Single pixels without data get the mean of their band in
  the tile. A tile counts in proportion to its pixels with data. Pixels without data in any band have no class.
  Afterwards, a warning names the first tile with a band of one value, such as the zeros of a failed sensor.

  Args:
    net: the network.
    scene: a raster that GDAL reads, on the scale of the training data.
    out: the class map to write, .tif.
    channels: names of all bands in the scene, in order; '' for the names that it has, or those in the network's config.
    subset: the channels to use; '' for all that both know.
    tile: side of a tile, pixels of the scene, as large as the training images were; 0 for the network's input size.
    stride: pixels from tile to tile, at most `tile`; 0 for half a tile.
    probabilities: 'top' also writes the probability of each pixel's class, 'all' those of all classes, 'none' nothing.
    batch_size: tiles at a time.
    progress: called with the numbers of tiles done and of all after each row of tiles.

  Raises:
    InputError: for a scene that cannot be read, has no channel that the network knows, no data, or pixels on another
      scale; for a tile or stride that is not possible; for a file that cannot be written.
  """
  tile = tile or net.config.image_size
  stride = stride or max(tile // 2, 1)
  if tile < 1 or not 0 < stride <= tile:
    raise InputError(f'tile is {tile} and stride is {stride}; tile must be above 0, and stride from 1 to tile')
  if probabilities not in PROBABILITIES:
    raise InputError(f'probabilities is {probabilities!r}; choose one of {", ".join(PROBABILITIES)}')
  rasters = _rasters(net, scene, channels, subset)
  with raster_pixels.opened(scene) as dataset, raster_pixels.cache_for(dataset):
    scan = ScenePass(net, rasters, dataset, str(scene), tile, stride, batch_size)
    scan.check_scale()
    sources = [scene, *getattr(dataset, 'files', ())]  # an .npy has no such list
    with MapFiles(net, dataset, sources, pathlib.Path(out), probabilities, scan.description()) as files:
      for classes, values in scan.rows(probabilities, progress):
        files.append(classes, values)
      if scan.empty == scan.tiles:
        raise InputError(f'{scene}: no pixel has data in {", ".join(rasters.channels.names)}')
  scan.failed.warn('subset={others} (--subset={others})')
  return MapSummary(
    files.paths, rasters.channels.names, (scan.rows_axis.length, scan.columns_axis.length), scan.tiles, scan.empty,
    scan.filled, dict(zip(net.classes, files.counts.tolist(), strict=True)),
  )  # fmt: skip


def _rasters(net: Network, scene: str | os.PathLike[str], channels: str, subset: str) -> geotiff.Rasters:
  """The reader of those bands of a scene that are to be used, in the order of the network's channels."""
  rasters = geotiff.Rasters(scene, raster_options(net, net.channels.names, channels), some=True)
  held = rasters.channels  # in the order of the network's
  return rasters.only([held.names[index] for index in held.subset(subset)]) if subset else rasters
