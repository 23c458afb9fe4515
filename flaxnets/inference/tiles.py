"""A class map of a scene of any size: overlapping tiles are classified, and their probabilities are averaged per pixel.

Memory is bounded: one row of tiles is read at a time, and rows of the map are written as soon as no later tile covers
them. The weight of a tile falls linearly from its centre to its edges, so that at a stride of half a tile a pixel's
probabilities are the bilinear interpolation between the centres of the tiles. Every tile lies in the scene; the last
ones of a row or column are moved inwards.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from flaxnets.data import geotiff, raster_pixels
from flaxnets.data.decode import squash
from flaxnets.errors import InputError
from flaxnets.inference.map_files import PROBABILITIES, MapFiles
from flaxnets.inference.predictor import Predictor, raster_options, softmax

_BYTES = 2**26  # of the probabilities that are mixed at a time
_SAMPLED = 16  # tiles that the scale of the scene is checked on

Progress = Callable[[int, int], Any]  # of the tiles that are done, and all


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


@dataclasses.dataclass(frozen=True)
class Axis:
  """Tiles along one axis of a scene.

  Attributes:
    length: of the scene, pixels.
    tile: side of a tile, pixels.
    starts: the first pixel of each tile, ascending.
  """

  length: int
  tile: int
  starts: np.ndarray

  @classmethod
  def of(cls, length: int, tile: int, stride: int) -> Axis:
    tile = min(tile, length)
    starts = np.arange(0, length - tile + 1, stride)
    return cls(length, tile, starts if starts[-1] == length - tile else np.append(starts, length - tile))

  def weights(self, first: int, last: int) -> tuple[slice, np.ndarray]:
    """The tiles that cover pixels first .. last - 1, and their weights on each of these, (pixels, tiles) float32."""
    covering = slice(
      int(np.searchsorted(self.starts, first - self.tile, side='right')), int(np.searchsorted(self.starts, last))
    )
    inside = np.arange(first, last)[:, np.newaxis] - self.starts[covering] + 0.5
    return covering, np.clip(np.minimum(inside, self.tile - inside) / (self.tile / 2), 0, None).astype(np.float32)


def predict_map(
  net: Any,
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

  Args:
    net: a `flaxnets.Network`.
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
    run = _Run(net, rasters, dataset, str(scene), tile, stride, batch_size)
    run.check_scale()
    with MapFiles(net, dataset, pathlib.Path(out), probabilities, run.description()) as files:
      for classes, values in run.rows(probabilities, progress):
        files.append(classes, values)
      if run.empty == run.tiles:
        raise InputError(f'{scene}: no pixel has data in {", ".join(rasters.channels.names)}')
  return MapSummary(
    files.paths, rasters.channels.names, (run.rows_axis.length, run.columns_axis.length), run.tiles, run.empty,
    run.filled, dict(zip(net.classes, files.counts.tolist(), strict=True)),
  )  # fmt: skip


def _rasters(net: Any, scene: str | os.PathLike[str], channels: str, subset: str) -> geotiff.Rasters:
  """The reader of those bands of a scene that are to be used, in the order of the network's channels."""
  rasters = geotiff.Rasters(scene, raster_options(net, net.channels.names, channels), some=True)
  held = rasters.channels  # in the order of the network's
  return rasters.only([held.names[index] for index in held.subset(subset)]) if subset else rasters


class _Run:
  """One pass over a scene, a row of tiles at a time."""

  def __init__(
    self, net: Any, rasters: geotiff.Rasters, dataset: Any, scene: str, tile: int, stride: int, batch_size: int
  ):
    self.net, self.rasters, self.dataset, self.scene = net, rasters, dataset, scene
    self.indexes = rasters.indexes(dataset, scene)
    self.rows_axis, self.columns_axis = (Axis.of(length, tile, stride) for length in (dataset.height, dataset.width))
    self.side = self.rows_axis.tile, self.columns_axis.tile
    self.stride = stride
    self.tiles = len(self.rows_axis.starts) * len(self.columns_axis.starts)
    self.empty = self.filled = 0
    self.predictor = Predictor(net, rasters.channels.names)
    self.batch_size = min(batch_size, 1 << (len(self.columns_axis.starts) - 1).bit_length())

  def description(self) -> dict[str, str]:
    """What the files say about how they were made."""
    return {
      'scene': os.path.basename(self.scene),
      'channels': ','.join(self.rasters.channels.names),
      'tile': 'x'.join(map(str, self.side)),
      'stride': str(self.stride),
    }

  def rows(self, probabilities: str, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Finished rows of the map from the top: classes (n, W), -1 for none, and probabilities (bands, n, W) or None."""
    waiting: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque()  # of the last rows of tiles
    starts = self.rows_axis.starts.tolist()
    for number, (pixels, valid) in enumerate(self._strips()):
      waiting.append(self._classified(pixels, valid))
      first, last = starts[number], (starts + [self.rows_axis.length])[number + 1]
      has_data = None if valid is None else np.asarray(valid[: last - first].any(axis=2))
      covering, weights = self.rows_axis.weights(first, last)
      while len(waiting) > covering.stop - covering.start:
        waiting.popleft()
      yield self._mixed(list(waiting), weights, has_data, probabilities)
      progress((number + 1) * len(self.columns_axis.starts), self.tiles)

  def _strips(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Pixels (tile, W, m) of each row of tiles, and which have data; a thread reads one strip ahead."""
    from rasterio.windows import Window

    def read(start: int) -> tuple[np.ndarray, np.ndarray | None]:
      return self._read(Window(0, start, self.columns_axis.length, self.side[0]))

    starts = self.rows_axis.starts.tolist()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      coming = pool.submit(read, starts[0])
      for following in [*starts[1:], None]:
        strip = coming.result()
        if following is not None:
          coming = pool.submit(read, following)
        yield strip

  def _read(self, window: Any) -> tuple[np.ndarray, np.ndarray | None]:
    return raster_pixels.read_window(self.dataset, self.indexes, window, nodata=self.rasters.nodata, name=self.scene)

  def _classified(self, pixels: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The share of pixels with data of each tile in a row, (n,), and its probabilities (n, K), zeros without data."""
    count = len(self.columns_axis.starts)
    shares, found = np.zeros(count, np.float32), np.zeros((count, len(self.net.classes)), np.float32)
    for start in range(0, count, self.batch_size):
      places = range(start, min(start + self.batch_size, count))
      parts = [self._tile(pixels, valid, place) for place in places]
      shares[start : places.stop] = [share for _, _, share in parts]
      for absent in (False, True):  # a mask of channels is another program, and slower: only for the tiles that need it
        chosen = [i for i, (_, present, share) in enumerate(parts) if share and (present.all() != absent)]
        if chosen:
          present = np.stack([parts[i][1] for i in chosen]) if absent else None
          canvases = np.stack([parts[i][0] for i in chosen])
          sizes = np.tile(self.side, (len(chosen), 1))
          logits = self.predictor.run(canvases, sizes, self.batch_size, present, check=False)[0]
          found[np.asarray(chosen) + start] = softmax(logits)
    self.empty += int((shares == 0).sum())
    return shares, found

  def _tile(self, pixels: np.ndarray, valid: np.ndarray | None, place: int) -> tuple[np.ndarray, np.ndarray, float]:
    """One tile of a strip as evaluation would see it as an image: canvas, present channels, share with data."""
    start = int(self.columns_axis.starts[place])
    columns = slice(start, start + self.side[1])
    image = pixels[:, columns]
    known = None if valid is None or valid[:, columns].all() else valid[:, columns]
    share = 1.0 if known is None else float(known.any(axis=2).mean())
    image = np.ascontiguousarray(image) if known is None else image.copy()
    present, filled = raster_pixels.fill_missing_pixels(image, known, self.rasters.channels.names, 'mean', '')
    self.filled += filled > 0
    if self.net.canvas and self.net.canvas != self.side:
      canvas = np.empty((*self.net.canvas, image.shape[2]), image.dtype)
      squash(image, canvas)
      image = canvas
    return image, present, share

  def _mixed(
    self,
    waiting: list[tuple[np.ndarray, np.ndarray]],
    weights: np.ndarray,
    has_data: np.ndarray | None,
    probabilities: str,
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of the map from the rows of tiles that cover them, a few columns at a time."""
    count, classes = len(weights), len(self.net.classes)
    width = self.columns_axis.length
    result = np.full((count, width), -1, np.int32)
    values = {'none': None, 'top': np.empty((1, count, width), np.float32)}.get(probabilities)
    if probabilities == 'all':
      values = np.empty((classes, count, width), np.float32)
    step = max(1, _BYTES // (4 * count * classes))
    for first in range(0, width, step):
      last = min(first + step, width)
      covering, across = self.columns_axis.weights(first, last)
      shares = np.stack([across @ share[covering] for share, _ in waiting])
      sums = np.stack([across @ (share[covering, np.newaxis] * found[covering]) for share, found in waiting])
      total = np.tensordot(weights, sums, 1)  # (rows, columns, classes)
      amount = weights @ shares
      known = amount > 0 if has_data is None else has_data[:, first:last] & (amount > 0)
      result[:, first:last] = np.where(known, total.argmax(axis=2), -1)
      if values is not None:
        kept = total.max(axis=2)[np.newaxis] if probabilities == 'top' else np.moveaxis(total, 2, 0)
        with np.errstate(invalid='ignore', divide='ignore'):
          values[:, :, first:last] = np.where(known, kept / amount, np.nan)
    return result, values

  def check_scale(self) -> None:
    """Raises InputError if tiles from all over the scene are on another scale than the training data."""
    from rasterio.windows import Window

    side = round(_SAMPLED**0.5)
    rows, columns = (
      np.unique(axis.starts[np.linspace(0, len(axis.starts) - 1, side).round().astype(int)])
      for axis in (self.rows_axis, self.columns_axis)
    )
    images, present = [], []
    for row in rows.tolist():
      for column in columns.tolist():
        window = Window(column, row, self.side[1], self.side[0])
        pixels, valid = self._read(window)
        has, _ = raster_pixels.fill_missing_pixels(pixels, valid, self.rasters.channels.names, 'mean', '')
        if has.any():
          images.append(pixels)
          present.append(has)
    if images:
      try:
        self.net.check_scale(np.stack(images), self.predictor.order, np.stack(present))
      except InputError as error:
        raise InputError(f'{self.scene}: {error}') from None
