"""Examples in an .npz file or a folder of .npy files, with any number of channels and any number type."""

from __future__ import annotations

import dataclasses
import functools
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.data.classes import check_labels_mean_the_same, chosen_classes, labels_by_name, numbered_classes
from flaxnets.data.source import ArraySource, BadImage, DataOptions, wanted_channels
from flaxnets.errors import InputError, one_line
from flaxnets.runtime import regular


def open_arrays(options: DataOptions, split: str, class_names: Sequence[str] | None = None) -> ArraySource:
  """Opens one split of arrays.

  Images are (N, C, H, W) or (N, H, W, C), depending on which axis has as many entries as there are channel names, or
  (N, H, W) for one channel. Labels are integers or class names; with an empty `label_key` there are none, and all
  examples are of one class. Absent channels are marked by an optional bool array
  (N, C), or by planes that are NaN throughout. `ArraySource` describes number types. An .npz is read into memory, .npy
  files are memory-mapped.

  Args:
    options: `root` is an .npz, a folder of .npy files, or a folder of .npz files of which `split` names one. The
      arrays of `channels_key`, `classes_key` and `present_key` may be missing. If the file names no channels,
      `channels` must name all of them. Except for the training split, a file may lack some of `channels`.
    split: replaces {split} in the keys. For an .npz file, its name without the suffix does.
    class_names: see `flaxnets.data.open.open_source`.

  Raises:
    InputError: for a file that cannot be read, lacks an array, or holds arrays that do not fit together.
    BadImage: for an example of an .npz that `ArraySource.read` refuses, unless `options.on_bad_image` is 'skip'.
  """
  root, channels = options.root, options.channels
  place = Path(root, split) if split.endswith('.npz') and Path(root).is_dir() else Path(root)
  image_key, label_key, present_key = (
    key_of(key, split.removesuffix('.npz')) for key in (options.image_key, options.label_key, options.present_key)
  )
  keys, get = _open(place)
  if image_key not in keys:
    _refuse_split(place, split, keys, options)
  name = f'{image_key} in {place}'
  held = get(options.channels_key) if options.channels_key in keys else None
  bands = _bands(str(place), options.channels_key, held, channels)
  taken = wanted_channels(bands, channels, str(place), some=class_names is not None)
  images = _channels_last(get(image_key), len(bands), name)
  labels = get(label_key) if options.label_key else np.zeros(len(images), np.int32)
  present = get(present_key) if present_key in keys else None
  names = chosen_classes(place if place.is_dir() else place.parent, options.classes, class_names)
  own = texts(get(options.classes_key)) if options.classes_key in keys else None
  if own == ():
    raise InputError(f'{options.classes_key} in {place} holds no class name; leave it out, or name all classes')
  if own is not None and len(set(own)) < len(own):
    twice = next(word for word in own if own.count(word) > 1)
    raise InputError(f'{options.classes_key} in {place}: class {twice!r} is named twice; names must be unique')
  if own is not None and labels.dtype.kind in 'iu':
    check_labels_mean_the_same(own, class_names, f'{options.classes_key} in {place}')
  names = names or own if options.label_key else tuple(class_names or ('unlabelled',))
  labels, names = numbered_labels(labels, names, f'{label_key} in {place}')
  source = ArraySource(
    name,
    images,
    labels,
    ChannelSet(tuple(bands.names[index] for index in taken), options.wavelengths),
    names,
    present,
    take=taken,
    reopen=functools.partial(open_arrays, dataclasses.replace(options, classes='', on_bad_image='skip'), split, names),
  )
  if options.on_bad_image != 'skip' and not isinstance(images, np.memmap):
    _check_pixels(source, images)
  return source


def _refuse_split(place: Path, split: str, keys: Sequence[str], options: DataOptions) -> None:
  """Raises InputError for a split without images, if other splits have some."""
  if held := [other for key in keys if (other := split_of(key, options.image_key))]:
    wanted = [repr(key_of(key, split)) for key in (options.image_key, options.label_key) if key]
    raise InputError(
      f'{place} has no split {split!r}, only {", ".join(held)}; hold some examples out as {" and ".join(wanted)}, or '
      'name other splits in data.train, data.validation and data.test'
    )


def _check_pixels(source: ArraySource, images: np.ndarray) -> None:
  """Raises BadImage for the first example whose floats cannot be read, so that training does not end at it later.

  Args:
    source: the source of the images.
    images: (N, H, W, C) in memory, of which one pass finds the examples that are worth reading.
  """
  if images.dtype.kind != 'f':
    return
  largest = np.finfo(np.float32).max
  low, high = images.min(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))  # NaN where a pixel is NaN
  out, bad = np.empty((*source.canvas, len(source.channels)), source.dtype), []
  for index in np.flatnonzero(~((low >= -largest) & (high <= largest))).tolist():
    try:
      source.read(index, out)
    except BadImage as error:
      bad.append(str(error))
  if bad:
    raise BadImage(
      f'{bad[0]} ({len(bad):,} of {len(source):,} examples cannot be read; data.on_bad_image=skip leaves them out)'
    )


def split_of(name: str, pattern: str) -> str | None:
  """The split whose array has this name, by a pattern such as 'X_{split}'; None where the pattern gives no such name.

  A pattern without {split} is one name for all splits, which are then ''.
  """
  before, marked, after = pattern.partition('{split}')
  split = name[len(before) : len(name) - len(after)] if marked else ''
  return split if name == key_of(pattern, split) else None


def key_of(pattern: str, split: str) -> str:
  """The name of an array: the pattern with the split in place of {split}."""
  try:
    return pattern.format(split=split)
  except (LookupError, AttributeError, TypeError, ValueError):
    raise InputError(
      f"cannot read the array name {pattern!r}; only {{split}} is replaced, as in 'X_{{split}}'"
    ) from None


def _open(place: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
  """The names of the arrays in a file or folder, and a function that loads one of them."""
  if place.is_dir():
    keys = sorted(path.stem for path in place.glob('*.npy'))
    load = lambda key: opened(place / f'{key}.npy', mmap_mode='r')  # noqa: E731
  else:
    if place.is_file() and not zipfile.is_zipfile(place):
      raise InputError(
        f'{place} is not an .npz file, or a corrupt one; data.root must be an .npz or a folder of .npy files'
      )
    file = _loaded(place, lambda: opened(place))
    keys, load = list(file.files), file.__getitem__

  def get(key: str) -> np.ndarray:
    if key not in keys:
      raise InputError(f'no array {key!r} in {place}; it holds {", ".join(keys) or "none"}')
    return _loaded(f'{key} in {place}', lambda: load(key))

  return keys, get


def opened(path: str | os.PathLike[str], mmap_mode: Literal['r'] | None = None):
  """`np.load`, but only of NumPy's formats: other files would be taken for pickles, and a pipe waited for."""
  regular.check(path)
  suffix = '.npy' if os.fspath(path).lower().endswith('.npy') else '.npz'
  with open(path, 'rb') as file:
    if not file.read(6).startswith(b'\x93NUMPY' if suffix == '.npy' else b'PK'):
      raise ValueError(f'it is not an {suffix} file, or a corrupt one')
  return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)


def _loaded(what: object, load: Callable[[], Any]) -> Any:
  try:
    return load()
  except MemoryError as error:  # also where a corrupt header claims more than there is
    raise InputError(f'cannot read {what}: it does not fit into memory ({error})') from None
  except Exception as error:  # NumPy, zipfile and zlib have no common exception for corrupt files
    raise InputError(f'cannot read {what}: {why_unreadable(error)}') from None


def why_unreadable(error: Exception) -> str:
  """Why an array could not be read, in one line, from whatever was raised."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = one_line(error)
  if 'pickle' in text and not isinstance(error, InputError):
    return 'it holds pickled Python objects, which may run code when read; save plain numbers or strings'
  return text


def _bands(place: str, channels_key: str, held: np.ndarray | None, channels: str) -> ChannelSet:
  """The channels of a file, named in the file or else by the config."""
  if held is not None:
    return ChannelSet(texts(held))
  if not channels:
    raise InputError(
      f'no channel names: {place} has no array {channels_key!r} and data.channels is empty; '
      "name all channels in their order, as in data.channels='B02,B03', or save the names in that array"
    )
  return ChannelSet.of(channels)


def _channels_last(images: np.ndarray, channels: int, name: str) -> np.ndarray:
  """A view of the images with the axes (N, H, W, C)."""
  if images.ndim == 3 and channels == 1:
    return images[..., np.newaxis]
  if images.ndim != 4:
    raise InputError(f'{name} is {images.shape}, but images are (N, C, H, W) or (N, H, W, C)')
  first, last = images.shape[1] == channels, images.shape[3] == channels
  if first and last:
    raise InputError(
      f'{name} is {images.shape}: with {channels} channels that may be (N, C, H, W) or '
      '(N, H, W, C); save images of another height and width'
    )
  if not first and not last:
    raise InputError(
      f'{name} is {images.shape}, and neither axis 1 nor axis 3 has the {channels} channels that are named'
    )
  return np.moveaxis(images, 1, 3) if first else images


def numbered_labels(
  labels: np.ndarray, names: tuple[str, ...] | None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Labels as integers, from integers or class names, and the names of the classes."""
  if labels.dtype.kind in 'iu':
    if names is None:
      names = numbered_classes(int(labels.max(initial=0)), where)
    return labels, names
  if labels.dtype.kind not in 'US':
    raise InputError(f'{where}: labels must be integers or class names, but they are {labels.dtype}')
  words = texts(labels)
  names = tuple(sorted(set(words))) if names is None else names
  by_name = labels_by_name(names)
  for place, word in enumerate(words):
    if word not in by_name:
      raise InputError(
        f'{where}: the label of example {place} is {word!r}, which is not one of the {len(names)} classes'
      )
  return np.array([by_name[word] for word in words], np.int32).reshape(labels.shape), names


def texts(array: np.ndarray) -> tuple[str, ...]:
  """Names that an array holds, as text or as bytes; InputError for bytes that are not UTF-8."""
  try:
    return tuple(entry.decode() if isinstance(entry, bytes) else str(entry) for entry in array.ravel())
  except UnicodeDecodeError as error:
    raise InputError(f'names in arrays must be text or UTF-8 bytes, but one is {error.object!r}') from None
