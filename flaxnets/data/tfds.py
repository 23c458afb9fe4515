"""Data sets that TensorFlow Datasets prepared as array_record files, read without TensorFlow."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Container, Sequence
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from flaxnets.channels import ChannelSet
from flaxnets.data.classes import check_labels_mean_the_same, chosen_classes
from flaxnets.data.decode import decode_planes, image_planes
from flaxnets.data.source import BadImage, DataOptions, Reading, Source, checked_labels
from flaxnets.data.tfds_tensors import TfdsTensors, tensor_channels, tensor_features
from flaxnets.errors import InputError, one_line
from flaxnets.runtime import atomic

_NAME = re.compile(r'(\w+)(?:/([^:/]+))?(?::([\d.]+))?')


class TfdsImages:
  """Images in array_record files; see `flaxnets.data.source.Source` for the attributes.

  Only the needed features of a record are decoded: TFDS decodes all features, which takes several times as long.

  Args:
    name: the source in messages.
    records: the serialized `tf.train.Example` of each image.
    image_key: the feature that holds the image.
    shape: (H, W, 3) of raw pixels, or None for encoded images.
    labels, ids, channels, classes, canvas: see `flaxnets.data.source.Source`.
  """

  def __init__(
    self,
    name: str,
    records: Sequence[bytes],
    image_key: str,
    shape: tuple[int, int, int] | None,
    labels: np.ndarray,
    ids: Sequence[str],
    channels: ChannelSet,
    classes: Sequence[str],
    canvas: tuple[int, int],
  ):
    self.name, self.labels, self.ids = name, labels, ids
    self.channels, self.classes = channels, tuple(classes)
    self.canvas, self.dtype, self.has_missing_channels = canvas, np.dtype(np.uint8), False
    self._records, self._image_key, self._shape = records, image_key, shape
    self._planes = image_planes(channels)

  def __len__(self) -> int:
    return len(self._records)

  def read(self, index: int, out: np.ndarray) -> Reading:
    where = f'{self.name}, example {self.ids[index]}'
    try:
      features = tf_example_pb2.Example.FromString(self._records[index]).features.feature
      data = features[self._image_key].bytes_list.value[0]
      if self._shape is None:
        return Reading(decode_planes(data, out, self._planes, name=where))
      self._planes_of(np.frombuffer(data, np.uint8).reshape(self._shape), out)
      size = tuple(features[key].int64_list.value[0] for key in ('height', 'width') if key in features)
      return Reading(size if len(size) == 2 else self.canvas)
    except BadImage:
      raise
    except Exception as error:  # array_record and protobuf have no common exception for corrupt files
      raise BadImage(f'{where}: a corrupt record ({one_line(error)[:300]})') from None

  def _planes_of(self, pixels: np.ndarray, out: np.ndarray) -> None:
    if self._planes:
      out[...] = pixels if self._planes == (0, 1, 2) else pixels[:, :, list(self._planes)]
    else:
      out[:, :, 0] = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def open_tfds(options: DataOptions, split: str, class_names: Sequence[str] | None = None) -> Source:
  """One split of a prepared data set whose examples have a label, and an image or tensors.

  The first call reads the labels of all records and, if the folder is writable, stores them there in
  `flaxnets_labels_<split>.npz`. Raw pixels (prepared with a canvas) and tensors keep their size and number type.

  Args:
    options, split, class_names: see `flaxnets.data.open.open_source`. If `options.name` has no version, the newest is
      opened; if it has no config, the only one.

  Raises:
    InputError: if the data set is not prepared, or not as array_record, or has no such split, image or label.
  """
  root, name = options.root, options.name
  place = _prepared(root, name)
  try:
    builder = tfds.builder_from_directory(place)
  except Exception as error:  # TFDS and protobuf have no common exception for corrupt files
    raise InputError(f'cannot read the data set in {place}: {one_line(error)[:300]}') from None
  where = f'{name}, {split} in {root}'
  if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
    raise InputError(
      f'{name} in {root} is prepared as {builder.info.file_format.value}, which has no random access; '
      f'prepare it in another folder: {_command(name, "DIR")}'
    )
  try:
    instructions = builder.info.splits[split].file_instructions
  except Exception as error:  # KeyError, ValueError, AssertionError: TFDS parses splits in several places
    raise InputError(
      f'no split {split!r} in {name}, which has {", ".join(builder.info.splits)} ({one_line(error).split(". ")[0]})'
    ) from None
  tensors = tensor_features(builder.info, options, name)
  image_key, label_key = _keys(builder.info, name, tensors)
  own = tuple(builder.info.features[label_key].names)
  check_labels_mean_the_same(own, class_names, where)
  names = chosen_classes(Path(root), options.classes, class_names) or own
  labels, ids = _labels(builder, label_key, instructions)
  labels = checked_labels(where, labels, len(ids), len(names))
  records = _records(builder, split)
  if tensors:
    channels, places = tensor_channels(builder.info, tensors, options, name, some=class_names is not None)
    return TfdsTensors(where, records, tensors, channels, places, labels, ids, names)
  image = builder.info.features[image_key]
  raw = not isinstance(image, tfds.features.Image)
  return TfdsImages(
    where,
    records,
    image_key,
    image.shape if raw else None,
    labels,
    ids,
    ChannelSet.of(options.channels or 'RGB', options.wavelengths),
    names,
    image.shape[:2] if raw else (options.canvas, options.canvas),
  )


def _records(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[bytes]:
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  return builder.as_data_source(split, deserialize_method=raw).data_source


def _prepared(root: str, name: str) -> Path:
  """The folder of the prepared version that a name stands for."""
  parts = _NAME.fullmatch(name)
  if not parts:
    raise InputError(f'cannot read the data set name {name!r}; write name[/config][:version]')
  base, config, version = parts.groups()
  place = Path(root, base, config or '')
  found = [
    path.parent
    for pattern in ('*', '*/*')
    for path in place.glob(f'{pattern}/dataset_info.json')
    if version is None or path.parent.name == version
  ]
  if not found:
    raise InputError(f'{name} is not prepared in {root}; prepare it: {_command(name, root)}')
  configs = sorted({path.parent for path in found})
  if len(configs) > 1:
    raise InputError(
      f'{name} has several configs in {root}; data.name says which: '
      + ', '.join(f'{base}/{path.name}' for path in configs)
    )
  return max(found, key=lambda path: tuple(int(number) for number in re.findall(r'\d+', path.name)))


def _command(name: str, root: str) -> str:
  if name.split('/')[0].split(':')[0] == 'imagenet_mini':
    return f'flaxnets prepare --root=IMAGES --data_dir={root}'
  return f'pip install tensorflow-cpu && tfds build {name} --data_dir={root} --file_format=array_record'


def _keys(info: tfds.core.DatasetInfo, name: str, tensors: Container[str] = ()) -> tuple[str, str]:
  """The features that hold the image, '' if tensors do, and the label."""
  features = dict(info.features)
  if tensors:
    classes = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if len(classes) != 1:
      raise InputError(f'{name} has {len(classes)} features that are classes, and one is needed')
    return '', classes[0]
  images = [
    key
    for key, feature in features.items()
    if feature.np_dtype == np.uint8
    and len(feature.shape) == 3
    and (isinstance(feature, tfds.features.Image) or feature.shape[2] == 3)
  ]
  labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
  chosen = info.supervised_keys or (images[:1] + labels[:1])
  if len(chosen) != 2 or chosen[0] not in images or chosen[1] not in labels:
    raise InputError(
      f'{name} does not have one 8-bit image and one class per example; its features are {", ".join(features)} '
      '(data.features names those that hold the pixels)'
    )
  return chosen[0], chosen[1]


def _labels(builder: tfds.core.DatasetBuilder, label_key: str, instructions) -> tuple[np.ndarray, list[str]]:
  """Labels and ids in the order of TFDS's file instructions."""
  starts = {}
  for split in builder.info.splits.values():
    start = 0
    for file in split.file_instructions:
      starts[os.path.basename(file.filename)] = split.name, start
      start += file.examples_in_shard
  labels, ids = [], []
  for file in instructions:
    split, start = starts[os.path.basename(file.filename)]
    all_labels, all_ids = label_table(builder, label_key, split)
    taken = slice(start + file.skip, start + file.skip + file.take)
    labels.append(all_labels[taken])
    ids += (
      [f'{split}[{place}]' for place in range(taken.start, taken.stop)]
      if all_ids is None
      else [entry.decode() for entry in all_ids[taken]]
    )
  return np.concatenate([np.zeros(0, np.int64), *labels]), ids


def label_table(builder: tfds.core.DatasetBuilder, label_key: str, split: str) -> tuple[np.ndarray, np.ndarray | None]:
  """Labels of a complete split, and the `path` or `filename` of each example as bytes, or None if examples have none.

  The first call reads every record and stores the table beside the data.
  """
  file = Path(builder.data_path, f'flaxnets_labels_{split}.npz')
  try:
    with np.load(file, allow_pickle=False) as table:
      labels, paths = table['labels'], table.get('paths')
    whole = labels.shape == (builder.info.splits[split].num_examples,) and labels.dtype.kind == 'i'
    if whole and (paths is None or (paths.shape == labels.shape and paths.dtype.kind == 'S')):
      return labels, paths
  except Exception:  # missing or corrupt: it is made again
    pass
  records = _records(builder, split)
  labels, paths = np.zeros(len(records), np.int64), []
  try:
    for index in tqdm(range(len(records)), f'labels of {split}', disable=len(records) < 10_000, leave=False):
      features = tf_example_pb2.Example.FromString(records[index]).features.feature
      labels[index] = features[label_key].int64_list.value[0]
      if key := next((key for key in ('path', 'filename') if key in features), None):
        paths.append(features[key].bytes_list.value[0])
  except Exception as error:  # array_record and protobuf have no common exception for corrupt files
    raise InputError(f'cannot read the labels of {split} in {builder.data_path}: {one_line(error)[:300]}') from None
  paths = np.array(paths) if len(paths) == len(labels) else None
  _keep(file, {'labels': labels} if paths is None else {'labels': labels, 'paths': paths})
  return labels, paths


def _keep(file: Path, table: dict[str, np.ndarray]) -> None:
  # If the folder is not writable, the next run reads the records again.
  with contextlib.suppress(OSError), atomic.replacing(file) as beside:
    np.savez_compressed(beside, **table)  # type: ignore[arg-type]  # NumPy's stub: any name may be allow_pickle
