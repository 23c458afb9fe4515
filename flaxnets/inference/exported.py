"""A network that `flaxnets export` wrote as StableHLO, loaded again: no run, config or model code is needed."""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError, first_line
from flaxnets.inference import pixels, scale
from flaxnets.inference.export import FORMATS, sidecar
from flaxnets.inference.predictor import BATCH, softmax
from flaxnets.runtime import records, regular


class ExportedNetwork:
  """A network for one set of channels and one size of images, from raw pixels to logits.

  Attributes:
    metadata: the description from FILE.json: input, preprocessing, classes, versions, digests.
    channels: the channels of the input, in their order.
    classes: class names in the order of the logits.
  """

  def __init__(self, exported: Any, metadata: dict[str, Any]):
    self.metadata = metadata
    self.channels = ChannelSet(tuple(metadata['channels']))
    self.classes: tuple[str, ...] = tuple(metadata['classes'])
    self._exported = exported

  def predict(self, images: np.ndarray, channels: str | Sequence[str] | None = None) -> np.ndarray:
    """The likeliest class of each image, (n,) int; see `logits`."""
    return self.logits(images, channels).argmax(axis=-1)

  def probabilities(self, images: np.ndarray, channels: str | Sequence[str] | None = None) -> np.ndarray:
    """The softmax of the logits, (n, K) float32; see `logits`."""
    return softmax(self.logits(images, channels))

  def logits(self, images: np.ndarray, channels: str | Sequence[str] | None = None) -> np.ndarray:
    """The (n, K) float32 logits.

    Args:
      images: (n, height, width, m) raw pixels of the exported height and width, in any number type. A file for integers
        takes floats that are whole numbers within its range.
      channels: names of the m channels in the order in which they stand in the images; None for the exported order.

    Raises:
      InputError: for other channels, another shape, pixels on another scale than the training data's, that are not
        finite, or that the file's number type cannot hold.
    """
    order = self.channels.full if channels is None else self.channels.order(channels)
    if len(order) != len(self.channels):
      wanted = self.channels.label(self.channels.full)
      raise InputError(f'this file was exported for the channels {wanted}, not {self.channels.label(order)}')
    images = self._checked(images)
    if order != self.channels.full:
      images = images[..., np.argsort(order)]
    images = self._cast(images)
    parts = [np.zeros((0, len(self.classes)), np.float32)]
    for start in range(0, len(images), BATCH):
      part = images[start : start + BATCH]
      rows = 1 << (len(part) - 1).bit_length()  # few compilations, whatever the number of images
      padded = np.pad(part, [(0, rows - len(part))] + [(0, 0)] * 3)
      parts.append(np.asarray(self._call(padded))[: len(part)])
    return np.concatenate(parts)

  @functools.cached_property
  def _call(self):
    return jax.jit(self._exported.call)

  def _checked(self, images: Any) -> np.ndarray:
    """The images as an array of finite numbers; InputError for others, and for another shape."""
    images = np.asarray(images)
    expected = self.metadata['input']['shape']
    if images.ndim != 4 or images.shape[1:] != tuple(expected[1:]):
      shape = ', '.join(map(str, ('n', *expected[1:])))
      raise InputError(
        f'images are ({shape}) for the channels {self.channels.label(self.channels.full)}, but these are {images.shape}'
      )
    images = pixels.numbers(images, self.channels, self.channels.full)
    if images.dtype.kind == 'f' and not np.isfinite(images).all():
      raise InputError('images have NaN or infinite pixels; an absent channel needs an export without it')
    return images

  def _cast(self, images: np.ndarray) -> np.ndarray:
    """The images in the file's number type; InputError for another scale, or values that it cannot hold."""
    known, statistics = self.metadata['input'], self.metadata['preprocessing']
    low, high, mean, std = map(np.asarray, (known['low'], known['high'], statistics['mean'], statistics['std']))
    scale.check_range(images, dtype=known['dtype'], low=low, high=high, mean=mean, std=std)
    wanted = np.dtype(known['dtype'])
    with np.errstate(invalid='ignore'):  # found below
      cast = images.astype(wanted)
    if wanted.kind in 'iu' and not np.can_cast(images.dtype, wanted) and not (cast == images).all():
      range_of = np.iinfo(wanted)
      raise InputError(
        f'this file takes {wanted}, which cannot hold all of these {images.dtype} pixels; give '
        f"images.round().clip({range_of.min}, {range_of.max}).astype('{wanted}')"
      )
    return cast


def load_exported(file: str | os.PathLike[str]) -> ExportedNetwork:
  """Loads a network that `flaxnets export --format=stablehlo` wrote, with FILE.json beside it.

  Raises:
    InputError: for a file that is not there, is corrupt or of another format, or that this version of jaxlib no longer
      reads.
  """
  path = pathlib.Path(file)
  try:
    data, metadata = regular.read(path), records.read(sidecar(path))
  except OSError as error:
    raise InputError(f'{error.filename} cannot be read: {error.strerror}') from None
  except ValueError as error:
    reason = str(error) if isinstance(error, records.ChangedRecord) else 'not a JSON object'
    raise InputError(f'{sidecar(path)} is corrupt: {reason}; export again') from None
  kind = metadata.get('format')
  if kind != 'flaxnets-stablehlo':
    known = kind in {f'flaxnets-{name}' for name in FORMATS}
    raise InputError(f'{path} is {kind if known else "no export of flaxnets"}; load_exported reads flaxnets-stablehlo')
  if metadata['format_version'] != 1:
    raise InputError(f'{path} has format version {metadata["format_version"]}; this version of flaxnets reads 1')
  if hashlib.sha256(data).hexdigest() != metadata['sha256']:
    raise InputError(f'{path} is corrupt, or {sidecar(path).name} belongs to another file: export again')
  from jax import export as jax_export

  try:
    return ExportedNetwork(jax_export.deserialize(bytearray(data)), metadata)
  except Exception as error:  # an expired module is a ValueError, a broken one anything
    written = metadata['versions'].get('jaxlib', 'another version')
    raise InputError(
      f'{path}, written by jaxlib {written}, cannot be loaded: {first_line(error)}; export again'
    ) from error
