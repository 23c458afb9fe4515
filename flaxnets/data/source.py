"""The protocol of a source of examples, and a source that reads examples from an array."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))  # those that a canvas may have


@dataclasses.dataclass(frozen=True)
class DataOptions:
  """A data set and how to read it, without the split.

  Attributes:
    kind: one of `flaxnets.data.open.OPENERS`.
    root: folder that all paths are relative to; arrays: an .npz, or a folder of .npy or .npz files; tfds: data_dir.
    name: tfds: name[/config][:version].
    channels: 'RGB' or 'B02,B03', see `ChannelSet.of`. Arrays, rasters and tensors of tfds: the channels to read, in
      order; '' for all. Other image files: see `decode.image_planes`.
    bands: names of all bands of a raster or planes of a tfds tensor, in their order; '' for the names that the file or
      the data set gives. With names, every image file is read as a raster, and alpha is data if it has a name.
    features: tfds: names of the features that hold the pixels, with commas; '' for the only ones.
    nodata: rasters: a value that means no data, such as '0', in place of what the files declare; '' for theirs.
    missing_pixels: rasters: 'error', or 'mean': single pixels without data get the mean of their band in the image.
    wavelengths: centre wavelengths in nanometres, one per channel, or empty.
    classes: a file of class names relative to `root` (see `classes.class_file`); '' for the class names of the source.
    image_key, label_key, channels_key, classes_key, present_key: names of the arrays in the file; {split} stands for
      the split.
    canvas: side in pixels of the square that images are resized to. Arrays and prepared canvases keep their size.
    on_bad_image: 'error': files in a list that do not exist, and a first raster that cannot be opened, are an error
      when the source is opened; 'skip': when they are read.
  """

  kind: str
  root: str = ''
  name: str = ''
  channels: str = 'RGB'
  bands: str = ''
  features: str = ''
  nodata: str = ''
  missing_pixels: str = 'error'
  wavelengths: tuple[float | None, ...] = ()
  classes: str = ''
  image_key: str = 'X_{split}'
  label_key: str = 'y_{split}'
  channels_key: str = 'bands'
  classes_key: str = 'classes'
  present_key: str = 'present_{split}'
  canvas: int = 144
  on_bad_image: str = 'error'

  @classmethod
  def from_fields(cls, data: Mapping[str, Any], **given: Any) -> DataOptions:
    """The options that the `data` fields of a config are, which have the same names.

    Args:
      data: the fields, of a config or as JSON; those that an older config lacks have their defaults.
      given: options that replace theirs.
    """
    names = [field.name for field in dataclasses.fields(cls) if field.name != 'kind' and field.name in data]
    return cls(data['source'], **{name: data[name] for name in names} | given)


def wanted_channels(held: ChannelSet, channels: str, where: str, some: bool) -> tuple[int, ...]:
  """The indices in `held` of the channels to read, in their order.

  Args:
    held: the channels that a file or a data set has.
    channels: names as in `DataOptions`; '' for all.
    where: the file or the data set in messages.
    some: whether it may lack some of the channels, but not all.

  Raises:
    InputError: naming a channel that it lacks.
  """
  wanted = ChannelSet(held.names_in(channels)).names if channels else held.names
  absent = [name for name in wanted if name not in held.names]
  if absent and not (some and len(absent) < len(wanted)):
    raise InputError(
      f"no channel {absent[0]!r} in {where}; it has {', '.join(held.names)} (data.channels='' takes all)"
    )
  return tuple(held.names.index(name) for name in wanted if name in held.names)


class BadImage(InputError):
  """One example cannot be read; the message names its file (and its line in the list) and the reason."""


class Reading(NamedTuple):
  """What `Source.read` returns beside the pixels.

  Attributes:
    size: height and width of the original, pixels, after the rotation that its metadata ask for.
    present: (C,) bool, the channels that the example has; None for all.
    filled: pixels without data that got the mean of their band.
  """

  size: tuple[int, int]
  present: np.ndarray | None = None
  filled: int = 0


@runtime_checkable
class Source(Protocol):
  """Examples by index. Threads share a source, and worker processes get a pickled copy.

  Attributes:
    name: the source in messages.
    channels: the planes of a canvas, in order.
    classes: class names, in the order of the labels.
    labels: (N,) int32 in 0 .. len(classes) - 1.
    ids: N unique names for people and result files: paths for files, numbers for arrays.
    canvas: height and width of every canvas, pixels.
    dtype: number type of every canvas: uint8, uint16 or float32.
    has_missing_channels: whether some examples may lack some of the channels.
  """

  name: str
  channels: ChannelSet
  classes: tuple[str, ...]
  labels: np.ndarray
  ids: Sequence[str]
  canvas: tuple[int, int]
  dtype: np.dtype
  has_missing_channels: bool

  def __len__(self) -> int: ...

  def read(self, index: int, out: np.ndarray) -> Reading:
    """Writes example `index` into `out`, (H, W, C) of `dtype`: the complete original, resized to H x W.

    Raises:
      BadImage: if the example is unreadable; the content of `out` is then undefined.
    """
    ...


class ArraySource:
  """Examples in one array; see `Source` for the attributes.

  uint8, uint16 and float32 are kept. Every other number type, such as int16, int64 or float64, becomes float32 when it
  is read. A plane that is NaN throughout is an absent channel and is read as zeros.

  Args:
    name: the source in messages.
    images: (N, H, W, C), any strides. May be memory-mapped: images are only touched when they are read.
    labels: (N,) integers in 0 .. len(classes) - 1.
    channels: names of the C planes, or of those in `take`.
    classes: class names.
    present: (N, C) bool, the planes that each example has; None for all.
    ids: N unique names; None for the numbers 0 .. N - 1.
    take: indices into the C planes of `images` and `present`, one for each of `channels`; None for all.
    reopen: opens this source again in a worker process; None to send the array there.

  Raises:
    InputError: if the shapes do not fit each other, there are no examples, or a label is out of range.
  """

  def __init__(
    self,
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    channels: ChannelSet,
    classes: Sequence[str],
    present: np.ndarray | None = None,
    ids: Sequence[str] | None = None,
    *,
    take: Sequence[int] | None = None,
    reopen: Callable[[], ArraySource] | None = None,
  ):
    if images.ndim != 4:
      raise InputError(f'{name}: images must be (N, H, W, C), but the array is {images.shape}')
    if images.dtype.kind not in 'biuf':
      raise InputError(f'{name}: images must be numbers, but the array holds {images.dtype}')
    if 0 in images.shape[1:]:
      raise InputError(
        f'{name}: images of {images.shape[1:]} have no pixels; height, width and channels must be 1 or more'
      )
    planes = images.shape[3]
    if take is None and len(channels) != planes:
      raise InputError(f'{name}: {len(channels)} channels are named for {planes} planes')
    if present is not None and (present.shape != (len(images), planes) or present.dtype != bool):
      raise InputError(
        f'{name}: presence must be a bool array {(len(images), planes)}, one value for each '
        f'example and channel, but it is {present.dtype} {present.shape}'
      )
    self.name, self.channels, self.classes = name, channels, tuple(classes)
    self.labels = checked_labels(name, labels, len(images), len(self.classes))
    self.ids = [str(index) for index in range(len(images))] if ids is None else ids
    self.canvas = images.shape[1:3]
    native = images.dtype.newbyteorder('=')
    self.dtype = native if native in DTYPES else np.dtype(np.float32)
    # An absent plane is NaN throughout, so one pixel of each is enough to find it.
    self.has_missing_channels = (present is not None and not present.all()) or (
      images.dtype.kind == 'f' and bool(np.isnan(images[:, 0, 0]).any())
    )
    self._images, self._present, self._reopen = images, present, reopen
    self._take = None if take is None or list(take) == list(range(planes)) else list(take)

  def __len__(self) -> int:
    return len(self._images)

  def __reduce_ex__(self, protocol):
    return super().__reduce_ex__(protocol) if self._reopen is None else (self._reopen, ())

  def read(self, index: int, out: np.ndarray) -> Reading:
    image = self._images[index]
    image = image if self._take is None else image[:, :, self._take]
    with np.errstate(over='ignore'):  # a float64 too large for float32 becomes infinite, which is an error below
      out[...] = image
    present = self._present_in(index)
    if self.dtype == np.float32 and not np.isfinite(out).all():
      missing = np.isnan(out).all(axis=(0, 1))
      out[:, :, missing] = 0
      present &= ~missing
      bad = ~np.isfinite(out).all(axis=(0, 1)) & present
      if bad.any():
        where = f'{self.name}: example {self.ids[index]}'
        place = int(bad.argmax())
        channel = self.channels.names[place]
        if np.isinf(out[:, :, place]).any() and np.isfinite(image[:, :, place]).all():
          raise BadImage(f'{where} has pixels beyond +-3.4e38 in channel {channel}, too large for float32; scale them')
        raise BadImage(
          f'{where} has NaN or infinite pixels in channel {channel}; an absent channel must be NaN in all pixels, '
          'others in none'
        )
    if not present.any():
      raise BadImage(
        f'{self.name}: example {self.ids[index]} has none of the channels {", ".join(self.channels.names)}'
      )
    out[:, :, ~present] = 0
    return Reading(self.canvas, None if present.all() else present)

  def presence(self) -> np.ndarray:
    """(N, C) bool, the channels that each example has. Looks at one pixel of each plane at most."""
    taken = slice(None) if self._take is None else self._take
    shape = len(self), len(self.channels)
    present = np.ones(shape, bool) if self._present is None else np.asarray(self._present)[:, taken]
    if self._images.dtype.kind == 'f':  # an absent plane is NaN throughout
      present = present & ~np.isnan(self._images[:, 0, 0][:, taken])
    return present

  def _present_in(self, index: int) -> np.ndarray:
    if self._present is None:
      return np.ones(len(self.channels), bool)
    row = np.asarray(self._present[index])
    return row.copy() if self._take is None else row[self._take]


def checked_labels(name: str, labels: np.ndarray, examples: int, classes: int) -> np.ndarray:
  """The labels as (N,) int32, after checking that each example has one, in 0 .. classes - 1.

  Raises:
    InputError: naming `name` and the first example with a wrong label.
  """
  labels = np.asarray(labels)
  if labels.ndim == 2 and len(labels) == examples and labels.shape[1] > 1:
    raise InputError(
      f'{name}: labels have shape {labels.shape}, perhaps one-hot; save labels.argmax(1), one class per example'
    )
  if labels.shape != (examples,):
    raise InputError(
      f'{name}: the labels have the shape {labels.shape}, but there are {examples} examples; they must be ({examples},)'
    )
  if not examples:
    raise InputError(f'{name}: it has no examples')
  if labels.dtype.kind not in 'iu':
    raise InputError(f'{name}: labels must be integers, but they are {labels.dtype}')
  wrong = (labels < 0) | (labels >= classes)
  if wrong.any():
    first = int(wrong.argmax())
    raise InputError(
      f'{name}: example {first} has label {labels[first]}, but {classes} classes have labels 0 to {classes - 1}'
    )
  return labels.astype(np.int32)
