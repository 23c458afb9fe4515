"""One pass over a scene: a network classifies overlapping tiles, and their probabilities are averaged per pixel.

Memory is bounded: one row of tiles is read at a time, and rows of the map are written as soon as no later tile covers
them. The weight of a tile falls linearly from its centre to its edges, so that at a stride of half a tile a pixel's
probabilities are the bilinear interpolation between the centres of the tiles. Every tile lies in the scene; the last
ones of a row or column are moved inwards.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flaxnets.data import geotiff, raster_pixels
from flaxnets.data.decode import squash
from flaxnets.errors import InputError
from flaxnets.inference.failed_channels import FailedChannels
from flaxnets.inference.predictor import Fetch, Predictor, one_behind, softmax

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

_BYTES = 2**26  # of the probabilities that are mixed at a time
_SAMPLED = 16  # tiles that the scale of the scene is checked on

Progress = Callable[[int, int], Any]  # of the tiles that are done, and all


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


class _Tile(NamedTuple):
  """One tile as evaluation would see it as an image.

  Attributes:
    canvas: (H, W, m) pixels.
    present: (m,) bool, the channels with data.
    share: of its pixels that have data in any band, 0..1.
    filled: how many pixels of single bands without data were filled.
  """

  canvas: np.ndarray
  present: np.ndarray
  share: float
  filled: int


@dataclasses.dataclass(frozen=True)
class _TileRow:
  """A row of n tiles.

  Attributes:
    has_data: (pixels to the next row, W) bool, the pixels with data in any band; None for all.
    shares: (n,) float32, the share of pixels with data of each tile.
    found: (n, K) float32, the probabilities of each tile; zeros without data.
  """

  has_data: np.ndarray | None
  shares: np.ndarray
  found: np.ndarray

  def finish(self, begun: Sequence[tuple[Any, Fetch]], is_last: bool) -> _TileRow | None:
    """Waits for some tiles, given by their places and what fetches their logits; itself if they are the last."""
    for places, fetch in begun:
      self.found[places] = softmax(fetch())
    return self if is_last else None


class ScenePass:
  """One pass over a scene, a row of tiles at a time.

  Attributes:
    tiles: their number.
    empty, filled: how many of the tiles so far had no data, and how many had pixels that were filled.
    failed: the tiles so far with a channel of one value.
  """

  def __init__(
    self, net: Network, rasters: geotiff.Rasters, dataset: Any, scene: str, tile: int, stride: int, batch_size: int
  ):
    self.net, self.rasters, self.dataset, self.scene = net, rasters, dataset, scene
    self.indexes = rasters.indexes(dataset, scene)
    self.rows_axis, self.columns_axis = (Axis.of(length, tile, stride) for length in (dataset.height, dataset.width))
    self.side = self.rows_axis.tile, self.columns_axis.tile
    self.stride = stride
    self.tiles = len(self.rows_axis.starts) * len(self.columns_axis.starts)
    self.empty = self.filled = 0
    self.failed = FailedChannels(net.metadata, 'tile')
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
    waiting: collections.deque[_TileRow] = collections.deque()  # the last rows of tiles
    starts = self.rows_axis.starts.tolist()
    finished = (row for row in one_behind(self._begin_rows()) if row is not None)
    for number, row in enumerate(finished):
      waiting.append(row)
      self.empty += int((row.shares == 0).sum())
      first, last = starts[number], (starts + [self.rows_axis.length])[number + 1]
      covering, weights = self.rows_axis.weights(first, last)
      while len(waiting) > covering.stop - covering.start:
        waiting.popleft()
      yield self._mixed(waiting, weights, probabilities)
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
    return self.rasters.read_window(self.dataset, self.indexes, window, name=self.scene)

  def _begin_rows(self) -> Iterator[Callable[[], _TileRow | None]]:
    """Sends batches of tiles to the device; see `one_behind`. A row of tiles is returned with its last batch."""
    count, tops = len(self.columns_axis.starts), self.rows_axis.starts.tolist()
    ends = [*tops[1:], self.rows_axis.length]
    for (pixels, valid), top, end in zip(self._strips(), tops, ends, strict=True):
      has_data = None if valid is None else np.asarray(valid[: end - top].any(axis=2))
      row = _TileRow(has_data, np.zeros(count, np.float32), np.zeros((count, len(self.net.classes)), np.float32))
      for start in range(0, count, self.batch_size):
        places = range(start, min(start + self.batch_size, count))
        tiles = [self._tile(pixels, valid, place) for place in places]
        row.shares[start : places.stop] = [tile.share for tile in tiles]
        self._look(tiles, [(top, left) for left in self.columns_axis.starts[start : places.stop].tolist()])
        yield functools.partial(row.finish, list(self._begin(tiles, start)), is_last=places.stop == count)

  def _look(self, tiles: Sequence[_Tile], corners: Sequence[tuple[int, int]]) -> None:
    """Looks for tiles with a channel of one value; `corners` are their first rows and columns in the scene.

    Tiles with filled pixels are passed over: the few pixels with data in one may have the same value.
    """
    whole = [place for place, tile in enumerate(tiles) if tile.share and not tile.filled]
    if whole:
      canvases = np.stack([tiles[place].canvas for place in whole])
      present = np.stack([tiles[place].present for place in whole])
      names = [f'{self.scene}, row {corners[place][0]}, column {corners[place][1]}' for place in whole]
      self.failed.look(canvases, self.predictor.order, present, names.__getitem__)

  def _begin(self, tiles: Sequence[_Tile], start: int) -> Iterator[tuple[Any, Fetch]]:
    """The places in a row of those tiles that have data, `start` and later, and what fetches their logits."""
    for absent in (False, True):  # a mask of channels is another program, and slower: only for the tiles that need it
      places = [place for place, tile in enumerate(tiles) if tile.share and (tile.present.all() != absent)]
      if places:
        present = np.stack([tiles[place].present for place in places]) if absent else None
        canvases = np.stack([tiles[place].canvas for place in places])
        sizes = np.tile(self.side, (len(places), 1))
        yield np.asarray(places) + start, self.predictor.begin(canvases, sizes, self.batch_size, present, check=False)

  def _tile(self, pixels: np.ndarray, valid: np.ndarray | None, place: int) -> _Tile:
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
    return _Tile(image, present, share, filled)

  def _mixed(
    self, waiting: Sequence[_TileRow], weights: np.ndarray, probabilities: str
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of the map from the rows of tiles that cover them, a few columns at a time."""
    count, classes, has_data = len(weights), len(self.net.classes), waiting[-1].has_data
    width = self.columns_axis.length
    result = np.full((count, width), -1, np.int32)
    values = {'none': None, 'top': np.empty((1, count, width), np.float32)}.get(probabilities)
    if probabilities == 'all':
      values = np.empty((classes, count, width), np.float32)
    step = max(1, _BYTES // (4 * count * classes))
    for first in range(0, width, step):
      last = min(first + step, width)
      covering, across = self.columns_axis.weights(first, last)
      shares = np.stack([across @ row.shares[covering] for row in waiting])
      sums = np.stack([across @ (row.shares[covering, np.newaxis] * row.found[covering]) for row in waiting])
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
