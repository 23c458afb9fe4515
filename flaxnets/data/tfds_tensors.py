"""Tensors of TFDS data sets as images: features with any number of planes and any number type, stacked as channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from flaxnets.channels import ChannelSet
from flaxnets.data import bands
from flaxnets.data.source import DTYPES, BadImage, DataOptions, Reading, wanted_channels
from flaxnets.errors import InputError, one_line


class TfdsTensors:
  """Tensors in array_record files; see `flaxnets.data.source.Source` for the attributes.

  Args:
    name: the source in messages.
    records: the serialized `tf.train.Example` of each image.
    features: the tensors (H, W, planes) of an image by name; their planes follow each other.
    channels: the channels to read.
    take: the place of each among all planes.
    labels, ids, classes: see `flaxnets.data.source.Source`.
  """

  def __init__(
    self,
    name: str,
    records: Sequence[bytes],
    features: Mapping[str, tfds.features.Tensor],
    channels: ChannelSet,
    take: Sequence[int],
    labels: np.ndarray,
    ids: Sequence[str],
    classes: Sequence[str],
  ):
    self.name, self.labels, self.ids = name, labels, ids
    self.channels, self.classes = channels, tuple(classes)
    shapes = [feature.shape for feature in features.values()]
    stored = np.result_type(*(feature.np_dtype for feature in features.values()))
    self.canvas, self.has_missing_channels = tuple(shapes[0][:2]), False
    self.dtype = stored if stored in DTYPES else np.dtype(np.float32)
    planes = sum(shape[2] for shape in shapes)
    self._records, self._features = records, dict(features)
    self._take = None if list(take) == list(range(planes)) else list(take)

  def __len__(self) -> int:
    return len(self._records)

  def read(self, index: int, out: np.ndarray) -> Reading:
    where = f'{self.name}, example {self.ids[index]}'
    try:
      stored = tf_example_pb2.Example.FromString(self._records[index]).features.feature
      pixels = np.concatenate([_tensor(stored[name], feature) for name, feature in self._features.items()], axis=2)
    except Exception as error:  # array_record, protobuf and zlib have no common exception for corrupt files
      raise BadImage(f'{where}: a corrupt record ({one_line(error)[:300]})') from None
    with np.errstate(over='ignore'):
      out[...] = pixels if self._take is None else pixels[:, :, self._take]
    if self.dtype == np.float32 and not np.isfinite(out).all():
      channel = self.channels.names[int((~np.isfinite(out)).any(axis=(0, 1)).argmax())]
      raise BadImage(f'{where} has NaN or infinite pixels in channel {channel}')
    return Reading(self.canvas)


def _tensor(stored: Any, feature: tfds.features.Tensor) -> np.ndarray:
  """One tensor of a record (H, W, planes), decoded by TFDS's NumPy code, which needs no TensorFlow."""
  kind = stored.WhichOneof('kind')
  if kind == 'bytes_list':
    return feature.decode_example_np(stored.bytes_list.value[0])
  return feature.decode_example_np(np.array(getattr(stored, kind).value, feature.np_dtype))


def tensor_features(info: tfds.core.DatasetInfo, options: DataOptions, name: str) -> dict[str, tfds.features.Tensor]:
  """The features whose planes are the channels of a data set; {} if it holds ordinary images.

  They are those that `options.features` names, or those of `flaxnets.data.bands`, or the only tensor (H, W, planes).

  Raises:
    InputError: for a feature that does not exist, is no tensor of that form, or is of another size than the first.
  """
  tensors = {
    key: feature
    for key, feature in dict(info.features).items()
    if type(feature) is tfds.features.Tensor and len(feature.shape) == 3 and feature.np_dtype.kind in 'iuf'
  }
  if not options.features:
    if known := bands.known_features(_full_name(info)):
      return {key: tensors[key] for key in known if key in tensors}
    prepared = {
      key: feature for key, feature in tensors.items() if feature.shape[2] == 3 and feature.np_dtype == np.uint8
    }
    return tensors if len(tensors) == 1 and not prepared else {}
  chosen = {}
  for key in (key.strip() for key in options.features.split(',')):
    if key not in tensors:
      raise InputError(
        f'{name} has no tensor (height, width, channels) {key!r}; its features are {", ".join(dict(info.features))}'
      )
    chosen[key] = tensors[key]
  return chosen


def tensor_channels(
  info: tfds.core.DatasetInfo, features: Mapping[str, tfds.features.Tensor], options: DataOptions, name: str, some: bool
) -> tuple[ChannelSet, tuple[int, ...]]:
  """The channels to read from some features, and the place of each among all planes.

  Args:
    some: whether the data set may lack some of `options.channels`, but not all.

  Raises:
    InputError: for planes without names, or a channel that the features do not have.
  """
  shapes = {key: feature.shape for key, feature in features.items()}
  if None in [side for shape in shapes.values() for side in shape] or len({shape[:2] for shape in shapes.values()}) > 1:
    raise InputError(f'{name}: the features {", ".join(f"{key} {shape}" for key, shape in shapes.items())} must be '
                     'of one known size')  # fmt: skip
  held = _named(bands.known_features(_full_name(info)), shapes, options, name)
  places = wanted_channels(held, options.channels, name, some)
  own = tuple(held.wavelengths[place] for place in places) if held.wavelengths else ()
  return ChannelSet(tuple(held.names[place] for place in places), options.wavelengths or own), places


def _named(
  known: Mapping[str, tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]], options: DataOptions, name: str
) -> ChannelSet:
  planes = sum(shape[2] for shape in shapes.values())
  named: ChannelSet | None
  if options.bands:
    named = ChannelSet.of(options.bands)
  elif all(len(known.get(key, ())) == shape[2] for key, shape in shapes.items()):
    named = bands.with_wavelengths(sum((known[key] for key in shapes), ()))
  else:
    named = ChannelSet.of(options.channels) if options.channels else None
  if named is None or len(named) != planes:
    given = f'{len(named)} names' if named else 'no names'
    raise InputError(f"{name}: {given} for {planes} planes; name all, in their order, as in data.bands='B02,B03,B08'")
  return named


def _full_name(info: tfds.core.DatasetInfo) -> str:
  """'eurosat/all', without the version."""
  return '/'.join(info.full_name.split('/')[:-1])
