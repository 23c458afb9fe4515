"""A trained network on files, Pillow images and arrays of any size: decoded and squashed as evaluation does it."""

from __future__ import annotations

import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from absl import logging

from flaxnets.channels import ChannelSet
from flaxnets.data.decode import decode_planes, image_planes, read_image
from flaxnets.data.geotiff import SUFFIXES, Rasters, is_raster
from flaxnets.data.source import BadImage, DataOptions
from flaxnets.errors import InputError
from flaxnets.inference import pixels
from flaxnets.inference.failed_channels import Look

if TYPE_CHECKING:
  from PIL import Image

  from flaxnets.inference.network import Network

Result = TypeVar('Result')

NOT_FINITE = (
  'the outputs of the network are not finite; its weights or statistics may hold NaN or infinity: choose the '
  'checkpoint of another step (--step)'
)
BATCH = 256  # images at a time, at most

# An image's canvas (H, W, m), the height and width of its original in pixels, and the channels that it has, (m,) bool,
# None for all.
Canvas = tuple[np.ndarray, tuple[int, int], np.ndarray | None]
Fetch = Callable[[], np.ndarray]  # waits for a batch that the device works on, and returns one of its outputs
OUTPUTS = ('logits', 'features', 'attention')  # of `Network.compiled`, in its order


class Predictor:
  """A network on some of its channels, with its variables on the device: it reads images and runs batches of them.

  Args:
    net: the network.
    channels: as for `Network.logits`.

  Attributes:
    order: the network's indices of the channels, in the order in which they stand in the canvases.
  """

  def __init__(self, net: Network, channels: str | Sequence[str] | None = None):
    self.net = net
    self.order: tuple[int, ...] = net.channels.full if channels is None else net.channels.order(channels)
    self._subset = tuple(sorted(self.order))
    self._variables = net.on_device(self._subset)

  def read(self, path: str | os.PathLike[str]) -> Canvas:
    """Reads an image file, a photo or a raster (see `raster_options`); threads may do so side by side.

    Raises:
      BadImage: if it cannot be read.
    """
    if reads_raster(self.net, path, raster_options(self.net, self._names)):
      return self.read_raster(path, self._rasters(path))
    return self.decode(read_image(path, str(path)), str(path))

  @property
  def _names(self) -> list[str]:
    return [self.net.channels.names[index] for index in self.order]

  def _rasters(self, path: str | os.PathLike[str], name: str = '') -> Rasters:
    """The reader of a raster's channels: those of `order` are found by name, or are all that it holds, in this order.

    The latter is for a file that has another number of bands than data.bands names, as a camera without its near
    infrared writes it.
    """
    try:
      return Rasters(path, raster_options(self.net, self._names), name=name)
    except BadImage as error:
      try:
        return Rasters(path, raster_options(self.net, self._names, ','.join(self._names) + ','), name=name)
      except BadImage:
        raise error from None

  def read_raster(self, path: str | os.PathLike[str], rasters: Rasters, name: str = '') -> Canvas:
    """The same for a raster, the reader of its channels, which are those of `order`, and its name; '' for its path."""
    canvas = np.empty((*(self.net.canvas or rasters.size), len(self.order)), rasters.dtype)
    name = name or str(path)
    reading = rasters.read(path, canvas, name)
    if reading.filled:
      logging.warning('%s: %d pixels without data were filled with the mean of their band', name, reading.filled)
    return canvas, reading.size, reading.present

  def decode(self, data: bytes, name: str) -> Canvas:
    """An encoded image's canvas and its original height and width, pixels.

    The canvas (H, W, m) is the one that evaluation hands over for a network that was trained on image files, and else
    of the image's own size.
    """
    planes = planes_of(self.net.channels, self.order)
    depth = max(len(planes), 1)
    if self.net.canvas:
      height, width = self.net.canvas
    else:  # a single pixel tells the size without much work
      height, width = decode_planes(data, np.empty((1, 1, depth), np.uint8), planes, name=name)
    canvas = np.empty((height, width, depth), np.uint8)
    return canvas, decode_planes(data, canvas, planes, name=name), None

  def from_pillow(self, image: Image.Image) -> Canvas:
    """The same for a Pillow image, by the rules for files: its bands may have names, and 16 bits are kept or become 8.

    Palettes and transparency are those of `decode` where it is a photo.
    """
    from PIL import ImageOps

    upright, name = ImageOps.exif_transpose(image), f'a Pillow image of mode {image.mode!r}'
    deep = upright.mode.startswith(('I', 'F')) and self.net.metadata.dtype != 'uint8'  # 16 or 32 bits
    if self.net.config.data.bands or deep:
      with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'image.tif')
        _save_as_tiff(upright, path, name)
        return self.read_raster(path, self._rasters(path, name), name)
    if 'transparency' in upright.info and upright.mode in ('1', 'L', 'P', 'RGB'):
      upright = upright.convert('RGBA')  # TIFF has no field for a transparent colour
    buffer = io.BytesIO()
    _save_as_tiff(upright, buffer, name)
    return self.decode(buffer.getvalue(), name)

  def begin(
    self,
    canvases: np.ndarray,
    sizes: np.ndarray,
    rows: int = 0,
    present: np.ndarray | None = None,
    *,
    check: bool = True,
    output: str = 'logits',
  ) -> Fetch:
    """Sends a batch to the device, which works on it from then on; see `one_behind`.

    Args:
      canvases: (n, H, W, m), the channels in the order of `order`.
      sizes: (n, 2) original heights and widths, pixels.
      rows: what n is padded to, so that a last, smaller batch compiles nothing; a power of two where 0.
      present: (n, m) bool, the channels that each image has, in the order of `order`; None for all.
      check: whether to refuse pixels on another scale, see `Network.check_scale`.
      output: which of OUTPUTS to fetch.

    Returns:
      A function that waits for the output, (n, ...) float32, and raises InputError if logits are not finite.
    """
    count = len(canvases)
    if self._subset != self.order:
      canvases = canvases[..., np.argsort(self.order)]
      present = None if present is None else present[:, np.argsort(self.order)]
    if check:
      self.net.check_scale(canvases, self._subset, present)
    padding = (0, max(rows or 1 << max(count - 1, 0).bit_length(), count) - count)
    canvases = np.pad(canvases, [padding] + [(0, 0)] * 3)
    sizes = np.pad(np.asarray(sizes), [padding, (0, 0)], constant_values=1)
    if present is not None:
      present = np.pad(present, [padding, (0, 0)], constant_values=True)
    outputs = self.net.compiled(self._variables, *jax.device_put((canvases, sizes, present)), self._subset)
    logits, wanted = outputs[0], outputs[OUTPUTS.index(output)]

    def fetch() -> np.ndarray:
      # Of logits that are not finite the likeliest class would be the first, whatever the image.
      if not np.isfinite(jax.device_get(logits)[:count]).all():
        raise InputError(NOT_FINITE)
      return jax.device_get(wanted)[:count]

    return fetch

  def run(self, canvases: np.ndarray, sizes: np.ndarray, **options: Any) -> np.ndarray:
    """The output of a batch; see `begin` for the arguments."""
    return self.begin(canvases, sizes, **options)()

  def latency(self, *, repeats: int = 50, warm_up: int = 5) -> float:
    """Median seconds from one decoded image on the host to its logits on the host, compiled and warmed up before.

    The image is of the canvas's size, or of the network's input where there is none, and shows the channels' means.
    """
    size = self.net.canvas or (self.net.config.image_size,) * 2
    mean = self.net.fill[list(self.order)]
    canvas = np.broadcast_to(mean, (*size, len(mean))).astype(self.net.metadata.dtype)
    seconds = []
    for _ in range(warm_up + repeats):
      start = time.perf_counter()
      self.run(canvas[np.newaxis], np.asarray([size]), check=False)  # means near 0 are no wrong scale
      seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm_up:])


def raster_options(net: Network, channels: Sequence[str], held: str = '') -> DataOptions:
  """How rasters are read for a network: as its training files were, as far as its config says.

  Args:
    net: the network.
    channels: names of those to read.
    held: names of all bands in a file, in order, in place of those in the config and in the file, read as
      `ChannelSet.names_in` of the network's does; '' for those.
  """
  data = net.config.data
  return DataOptions(
    'folders',
    channels=','.join(channels) + ',',
    bands=','.join(net.channels.names_in(held)) + ',' if held else data.bands,
    nodata=data.nodata,
    missing_pixels=data.missing_pixels,
  )


def reads_raster(net: Network, path: str | os.PathLike[str], options: DataOptions) -> bool:
  """Whether a file is read as a raster, by the rule of training.

  A PNG of 16 bits among photos of 8 bits became one of 8 there, and so it does for a network that knows 8 bits.
  """
  raster = is_raster(path, options, eight_bits=net.metadata.dtype == 'uint8')
  unreadable_tiff = raster is None and os.path.isfile(path) and str(path).lower().endswith(SUFFIXES)
  return bool(raster) or unreadable_tiff  # the reader of rasters says why it cannot be read


def _save_as_tiff(image: Image.Image, file: str | io.BytesIO, name: str) -> None:
  try:
    image.save(file, format='TIFF', compression='raw')  # not that of the file it came from, which may lose some
  except OSError as error:
    raise InputError(f'{name} cannot be read: {error}') from None


def planes_of(channels: ChannelSet, order: Sequence[int]) -> tuple[int, ...]:
  """Which planes of an RGB image some of a network's channels are; empty for luminance. See `decode.image_planes`.

  Raises:
    InputError: where image files cannot hold these channels.
  """
  try:
    planes = image_planes(channels)
  except InputError:  # a network of more channels: these may be R, G and B
    return image_planes(ChannelSet(tuple(channels.names[index] for index in order)))
  return tuple(planes[index] for index in order) if planes else ()


def begin_each(
  net: Network, images: Any, channels: str | Sequence[str] | None, output: str, *, look: Look
) -> Iterator[Fetch]:
  """`Network.begin` for a path, a Pillow image, or a sequence of arrays (h, w, m), paths and Pillow images."""
  predictor, first = Predictor(net, channels), 0
  for is_array, group in _groups(predictor, _items(images)):
    stack, sizes, present = stacked(group)
    if is_array:
      yield from net.begin(stack, channels, output=output, look=look, first=first)
    else:
      look(stack, predictor.order, present)
      yield predictor.begin(stack, sizes, present=present, output=output)
    first += len(group)


def _items(images: Any) -> list[Any]:
  """The images that a path, a Pillow image or an iterable gives; InputError for anything else."""
  from PIL import Image

  if isinstance(images, str | os.PathLike | Image.Image):
    return [images]
  if isinstance(images, bytes | Mapping) or not isinstance(images, Iterable):
    hint = ' (cv2.imread returns None for a file that it cannot read)' if images is None else ''
    raise InputError(
      f'images are a {type(images).__name__}{hint}; an array (n, height, width, channels), a path, a Pillow image or a '
      'list of images was expected'
    )
  return list(images)


def one_behind(begun: Iterable[Callable[[], Result]]) -> Iterator[Result]:
  """The results of work on a device, in order. Each is waited for when the next work has begun.

  So the host prepares a batch while the device computes the one before.

  Args:
    begun: functions that wait for work on the device and return its result. Taking the next one begins the next work.
      If that raises an error, the result of the work before is yielded first.
  """
  coming = iter(begun)
  waiting: Callable[[], Result] | None = None
  while True:
    try:
      following = next(coming, None)
    except Exception:
      if waiting is not None:
        yield waiting()
      raise
    if waiting is not None:
      yield waiting()
    if following is None:
      return
    waiting = following


def stacked(canvases: Sequence[Canvas]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Canvases of one shape as arrays: pixels (n, H, W, m), sizes (n, 2), and present channels (n, m) or None for all."""
  pixels = np.stack([canvas for canvas, _, _ in canvases])
  rows = [np.ones(pixels.shape[3], bool) if present is None else present for _, _, present in canvases]
  complete = all(present is None for _, _, present in canvases)
  return pixels, np.asarray([size for _, size, _ in canvases]), None if complete else np.stack(rows)


def _groups(predictor: Predictor, items: Sequence[Any]) -> Iterator[tuple[bool, list[Canvas]]]:
  """Neighbours of one kind and shape, up to BATCH: whether they are arrays, and each one's canvas."""

  def opened() -> Iterator[tuple[bool, Canvas]]:
    for number, item in enumerate(items):
      if isinstance(item, str | os.PathLike):
        yield False, predictor.read(item)
      elif hasattr(item, 'getbands'):
        yield False, predictor.from_pillow(item)
      elif np.ndim(item) == 3:
        array = pixels.array_of(item)
        yield True, (array, array.shape[:2], None)
      else:
        raise InputError(
          f'image {number} is a {type(item).__name__} of shape {np.shape(item)}; '
          'a path, a Pillow image or an array (height, width, channels) was expected'
        )

  for (is_array, _, _), group in itertools.groupby(
    opened(), lambda item: (item[0], item[1][0].shape, item[1][0].dtype)
  ):
    while part := list(itertools.islice(group, BATCH)):
      yield is_array, [canvas for _, canvas in part]


def softmax(logits: np.ndarray) -> np.ndarray:
  """Probabilities (n, K) float32 of logits (n, K)."""
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
  return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
