"""Predictions for many files in constant memory: images decoded ahead by threads, and arrays a batch at a time."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import glob
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxnets.augment.warp import subsamples_for
from flaxnets.channels import ChannelSet
from flaxnets.data import arrays, npy
from flaxnets.data.geotiff import Rasters
from flaxnets.data.image_files import SUFFIXES
from flaxnets.data.source import BadImage
from flaxnets.errors import InputError
from flaxnets.inference import array_files
from flaxnets.inference.failed_channels import FailedChannels
from flaxnets.inference.predictor import (
  Canvas,
  Fetch,
  Predictor,
  one_behind,
  raster_options,
  reads_raster,
  softmax,
  stacked,
)
from flaxnets.runtime import machine

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

Decoded = tuple[str, tuple[str, ...], Canvas]  # path, names of the channels that are used, and the image
Row = tuple[str, int, np.ndarray]  # path, index in an array file (0 for an image), probabilities (K,)


def find(names: Sequence[str]) -> list[str]:
  """The files that paths, folders and globs name, in their order; a folder's sorted, hidden ones left out.

  A path that does not exist stays in the list, to be reported as unreadable.

  Raises:
    InputError: where a folder or a glob holds no image or array.
  """
  found = []
  for name in names:
    if os.path.isdir(name):
      inside = sorted(_below(name))
    elif not os.path.exists(name) and glob.has_magic(name):
      inside = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
    else:
      inside = [name]
    if not inside:
      raise InputError(
        f'{name} holds no images or arrays; files end in {", ".join(dict.fromkeys((*SUFFIXES, *array_files.SUFFIXES)))}'
      )
    found += inside
  return found


def _below(folder: str) -> Iterator[str]:
  for place, inner, files in os.walk(folder):
    inner[:] = [name for name in inner if not name.startswith('.')]
    for name in files:
      if name.lower().endswith((*SUFFIXES, *array_files.SUFFIXES)) and not name.startswith('.'):
        yield os.path.join(place, name)


class FilePredictions:
  """Predicts files; calling it with paths yields a Row for each image, in order.

  After the last row, a warning names the first image with a plane of one value; see `FailedChannels`.

  Args:
    net: the network.
    channels: names of the planes that files hold, in order; '' for those that an .npz or a raster names, else the
      network's.
    subset: those of them to use; '' or 'full' for all, or all that the network knows of those that a file names.
    batch_size: images at a time.
    threads: that decode; 0 for one a core.
    key: the array in .npz files; '' for the only one with images.
    on_bad: called with one line for each file that cannot be predicted.

  Attributes:
    bad: how many those were.

  Raises:
    InputError: for channels that the network does not have.
  """

  def __init__(
    self,
    net: Network,
    channels: str = '',
    subset: str = '',
    *,
    batch_size: int = 64,
    threads: int = 0,
    key: str = '',
    on_bad: Callable[[str], None] = lambda message: None,
  ):
    self._net, self._channels, self._key, self._on_bad = net, channels, key, on_bad
    all_named = subset.strip() == 'full' and 'full' not in net.channels.names
    self._subset = net.channels.names_in(subset) if subset and not all_named else ()
    self._batch_size, self._threads = batch_size, threads or machine.cores()
    self._held = ChannelSet(net.channels.names_in(channels)) if channels else None
    self._used = self._usable(self._held or net.channels, all_known=self._held is not None)
    self._predictors: dict[tuple[str, ...], Predictor] = {}
    self._opening = threading.Lock()  # threads that decode share the predictors
    self._rows = 1  # of the largest batch so far, as it was padded
    self._failed = FailedChannels(net.metadata)
    self.bad = 0

  def __call__(self, paths: Iterable[str]) -> Iterator[Row]:
    for is_array, group in itertools.groupby(paths, self._is_array):
      if is_array:
        for path in group:
          yield from self._of_array(path)
      else:
        yield from self._of_images(group)
    self._failed.warn('--subset={others}')

  def _is_array(self, path: str) -> bool:
    """Whether a file is no image file, as an .npy of one image is for a network that was trained on image files."""
    return path.lower().endswith(array_files.SUFFIXES) and not (self._net.canvas and npy.holds_image(path))

  def latency(self) -> float:
    """Median seconds for one decoded image, see `Predictor.latency`."""
    return Predictor(self._net, self._used).latency()

  def _usable(self, held: ChannelSet, *, all_known: bool) -> list[str]:
    """The names to use of the channels that a file holds."""
    if self._subset:
      used = [held.names[index] for index in held.order(self._subset)]
    elif all_known:
      used = list(held.names)
    else:
      used = [name for name in held.names if name in self._net.channels.names]
      if not used:
        raise InputError(
          f'it has the channels {", ".join(held.names)}, and none of {", ".join(self._net.channels.names)}'
        )
    self._net.channels.order(used)
    return used

  def _of_images(self, paths: Iterable[str]) -> Iterator[Row]:
    for rows in one_behind(self._begin_images(paths)):
      yield from rows

  def _begin_images(self, paths: Iterable[str]) -> Iterator[Callable[[], list[Row]]]:
    for used, batch in _batches(self._decoded(paths), self._batch_size):
      # One photo is not padded to a full batch; the last batch of many is, so that it compiles nothing.
      self._rows = max(self._rows, min(self._batch_size, 1 << (len(batch) - 1).bit_length()))
      canvases, sizes, present = stacked([canvas for _, _, canvas in batch])
      predictor, names = self._predictor(used), [name for name, _, _ in batch]
      self._failed.look(canvases, predictor.order, present, names.__getitem__)
      fetch = predictor.begin(canvases, sizes, self._rows, present, check=False)
      yield functools.partial(_finished, names, fetch)

  def _predictor(self, used: tuple[str, ...]) -> Predictor:
    with self._opening:
      if used not in self._predictors:
        self._predictors[used] = Predictor(self._net, used)
      return self._predictors[used]

  def _read(self, path: str) -> Decoded:
    """A photo, or a raster with those of its bands that are to be used.

    Raises:
      BadImage: if it cannot be read, lacks the channels, is too large, or has pixels on another scale than the training
        data's.
    """
    names, config = self._net.channels.names, self._net.config
    try:
      # What a file is does not depend on --channels: they may name planes of a photo as well as bands.
      if not reads_raster(self._net, path, raster_options(self._net, names)):
        used = tuple(self._used)
        canvas = self._predictor(used).read(path)
      else:
        rasters = Rasters(path, raster_options(self._net, names, self._channels), some=True)
        used = tuple(self._usable(rasters.channels, all_known=False))
        canvas = self._predictor(used).read_raster(path, rasters.only(used))
      pixels, _, present = canvas
      # Each file alone: in a batch, others would hide it, or be lost with it.
      mask = None if present is None else present[np.newaxis]
      self._net.check_scale(pixels[np.newaxis], self._predictor(used).order, mask)
      subsamples_for(pixels.shape[:2], config.image_size, resize=config.augment.evaluation_resize)
    except BadImage:
      raise
    except InputError as error:
      raise BadImage(f'{path}: {error}') from None
    return path, used, canvas

  def _decoded(self, paths: Iterable[str]) -> Iterator[Decoded]:
    """Decoded images in order; threads are up to two batches ahead."""
    paths = iter(paths)
    with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
      waiting: collections.deque[tuple[str, concurrent.futures.Future]] = collections.deque()
      while True:
        for path in itertools.islice(paths, 2 * self._batch_size - len(waiting)):
          waiting.append((path, pool.submit(self._read, path)))
        if not waiting:
          return
        path, future = waiting.popleft()
        try:
          yield future.result()
        except BadImage as error:
          self._count_bad(str(error))

  def _of_array(self, path: str) -> Iterator[Row]:
    try:
      array, held, present = array_files.open_images(path, self._key, self._net.config.data)
    except Exception as error:  # NumPy, zipfile and zlib have no common exception for corrupt files
      self._count_bad(f'{path}: {arrays.why_unreadable(error)}')
      return
    try:
      if self._held is not None or held is None:
        held = self._held or self._net.channels
      used = self._usable(held, all_known=self._held is not None)
      images = array_files.checked(array, present, held)
      planes = [held.index(name) for name in used]
      begun = self._begin_array(path, images, planes, used, present)
      rows = (row for logits in one_behind(begun) for row in softmax(logits))
      for index, row in enumerate(rows):
        yield path, index, row
    except (InputError, OSError) as error:
      self._count_bad(f'{path}: {arrays.why_unreadable(error)}')

  def _begin_array(
    self, path: str, images: np.ndarray, planes: list[int], used: list[str], present: np.ndarray | None
  ) -> Iterator[Fetch]:
    """Reads some planes of an array, of names `used`, a batch at a time."""

    def look(part: np.ndarray, order: Sequence[int], mask: np.ndarray | None) -> None:
      self._failed.look(part, order, mask, lambda index: f'{path}, image {start + index}')

    rows = self._batch_size if len(images) > self._batch_size else 0  # the last batch compiles nothing
    for start in range(0, len(images), self._batch_size):
      part = np.asarray(images[start : start + self._batch_size])
      part = part if planes == list(range(images.shape[3])) else part[..., planes]
      mask = None if present is None else present[start : start + self._batch_size, planes]
      yield from self._net.begin(part, used, mask, look=look, first=start, rows=rows)

  def _count_bad(self, message: str) -> None:
    self.bad += 1
    self._on_bad(message)


def _batches(decoded: Iterable[Decoded], size: int) -> Iterator[tuple[tuple[str, ...], list[Decoded]]]:
  """Neighbours of the same channels, shape and number type, up to `size` of them."""
  for (used, _, _), group in itertools.groupby(decoded, lambda item: (item[1], item[2][0].shape, item[2][0].dtype)):
    while batch := list(itertools.islice(group, size)):
      yield used, batch


def _finished(names: Sequence[str], fetch: Fetch) -> list[Row]:
  """The rows of a batch of images, when the device has finished with it."""
  try:
    logits = fetch()
  except InputError as error:
    raise InputError(f'{names[0]}{" and so on" if len(names) > 1 else ""}: {error}') from None
  return [(name, 0, row) for name, row in zip(names, softmax(logits), strict=True)]
