"""Prepares ImageNet-mini's layout, or any images in that layout, as a TFDS data set in array_record files.

Then train with data.source=tfds and data.root=DIR. Without a canvas the original bytes are kept. With a canvas, every
image is resized to canvas x canvas raw RGB pixels, so that training need not decode; its original height and width are
stored too. TensorFlow is not needed.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import io
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer
from tqdm import tqdm

from flaxnets.data import opencv
from flaxnets.data.decode import decode
from flaxnets.data.image_files import PhotoFiles
from flaxnets.data.lists import read_list
from flaxnets.data.source import BadImage, DataOptions
from flaxnets.data.tfds import label_table
from flaxnets.errors import InputError
from flaxnets.runtime import machine


class _Uncompressed(writer.ExampleWriter):
  """Writes array_record without zstd, which saves little on pixels and JPEGs and triples the reading time."""

  def write(self, path, examples):
    records = array_record_module.ArrayRecordWriter(os.fspath(path), 'group_size:1,uncompressed')
    for _, example in examples:
      records.write(example)
    records.close()


class ImagenetMini(tfds.core.GeneratorBasedBuilder):
  """Splits of image files as a TFDS data set, in the order of the lists.

  Features: image (encoded, or uint8 (canvas, canvas, 3)), label, height and width in pixels (upright), path.

  Args:
    sources: the image files of each split, all with the same classes.
    canvas: side in pixels of the raw images; 0 keeps the encoded bytes.
    on_bad_image: 'error', or 'skip' to leave unreadable files out and print their names to stderr.
    options: arguments of `tfds.core.DatasetBuilder`, such as data_dir.

  Attributes:
    skipped: number of files that were left out.
  """

  VERSION = tfds.core.Version('1.0.0')
  code_path = None  # TFDS would look beside the code for checksums of downloads, and there are no downloads

  def __init__(self, *, sources: dict[str, PhotoFiles], canvas: int = 0, on_bad_image: str = 'error', **options):
    self._sources, self._canvas, self._on_bad_image = sources, canvas, on_bad_image
    self.skipped = 0
    name = f'canvas{canvas}' if canvas else 'encoded'
    super().__init__(config=tfds.core.BuilderConfig(name=name), file_format='array_record', **options)

  def _info(self) -> tfds.core.DatasetInfo:
    side = self._canvas
    image = (
      tfds.features.Tensor(shape=(side, side, 3), dtype=np.uint8, encoding='bytes')
      if side
      else (tfds.features.Image(shape=(None, None, 3)))
    )
    classes = next(iter(self._sources.values())).classes
    return tfds.core.DatasetInfo(
      builder=self,
      description='Images from split files of `path label` lines.',
      features=tfds.features.FeaturesDict(
        {
          'image': image,
          'label': tfds.features.ClassLabel(names=classes),
          'height': np.int32,
          'width': np.int32,
          'path': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
      disable_shuffling=True,
    )

  def _example_writer(self):
    return _Uncompressed(self.info.file_format)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in self._sources}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
    source = self._sources[split]
    written = 0
    # This thread writes, and a pool of threads decodes up to 256 images ahead of it.
    with (
      opencv.single_threaded(),
      concurrent.futures.ThreadPoolExecutor(machine.cores()) as pool,
      tqdm(total=len(source), desc=split, unit=' images') as progress,
    ):
      for start in range(0, len(source), 256):
        places = range(start, min(start + 256, len(source)))
        examples = pool.map(self._example, itertools.repeat(source), places)
        for place, example in zip(places, examples, strict=True):
          progress.update()
          if isinstance(example, BadImage):
            self.skipped += 1
            progress.write(f'skipped {example}', file=sys.stderr)
          else:
            written += 1
            yield place, example
    if not written:
      raise InputError(f'{source.name} names no readable image')

  def _example(self, source: PhotoFiles, place: int) -> dict | BadImage:
    # Bytes that are kept encoded are decoded too, to find corrupt files now and not in training.
    pixels = np.empty((self._canvas or 8, self._canvas or 8, 3), np.uint8)
    try:
      data = source.encoded(place)
      height, width = decode(data, pixels, name=source.where(place))
    except BadImage as error:
      if self._on_bad_image == 'skip':
        return error
      raise
    return {
      'image': pixels if self._canvas else data,
      'label': int(source.labels[place]),
      'height': height,
      'width': width,
      'path': source.ids[place],
    }


def prepare(
  root: str,
  data_dir: str,
  *,
  canvas: int = 0,
  splits: Sequence[str] = (),
  classes: str = '',
  on_bad_image: str = 'error',
) -> ImagenetMini:
  """Writes DIR/imagenet_mini/<encoded or canvasN>/1.0.0. A failure leaves nothing behind.

  Args:
    root: folder with the split files, which their paths are relative to.
    data_dir: folder of TFDS data sets.
    canvas: side in pixels of the raw images, or 0 for the encoded bytes.
    splits: split files; if empty, every .txt in root except classes.txt. train.txt becomes the split 'train'.
    classes: file of class names, see `flaxnets.data.source.DataOptions`. Without it, the classes of train.txt (or of
      the first file) are those of all splits.
    on_bad_image: 'error' or 'skip' for unreadable files.

  Returns:
    The builder of the data set.

  Raises:
    InputError: for a mistake in the lists, an unreadable file, two classes of one name, or a data set that exists
      already.
  """
  files = list(splits) or sorted(path.name for path in Path(root).glob('[!.]*.txt') if path.name != 'classes.txt')
  if not files:
    raise InputError(f'no split files (*.txt) in {root}; --splits=FILE,FILE names them')
  sources: dict[str, PhotoFiles] = {}
  names = None
  for file in sorted(files, key=lambda file: Path(file).stem != 'train'):
    split = Path(file).stem
    if not re.fullmatch(r'\w+', split) or split == 'all' or split in sources:
      raise InputError(
        f"{file} cannot become a split {split!r}: a name has letters, digits and _, comes once, and is not 'all'"
      )
    options = DataOptions('lists', root, classes=classes, canvas=canvas or 8, on_bad_image=on_bad_image)
    sources[split] = PhotoFiles(read_list(options, file, names), options)
    names = sources[split].classes
  if twice := [name for name, times in collections.Counter(names).items() if times > 1]:
    raise InputError(
      f'two classes are named {twice[0]!r}, but TFDS takes distinct names only; change one in the class file, for '
      "example to 'n02012849 crane'"
    )
  builder = ImagenetMini(sources=sources, canvas=canvas, on_bad_image=on_bad_image, data_dir=data_dir)
  if builder.data_path.exists():
    raise InputError(f'{builder.data_path} is already there; delete it to prepare it again')
  tfds.disable_progress_bar()
  # TFDS needs a folder for downloads, and prints about them, although there are none.
  with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(
      download_dir=downloads, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  for split in sources:
    label_table(builder, 'label', split)
  return builder
