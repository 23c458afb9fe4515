"""Converts images listed in files of `path label` lines to a TFDS data set in array_record files, without TensorFlow.

    flaxnets prepare --root=/data/imagenet-mini --data_dir=/data/tfds --canvas=144

Train on it with --config.data.source=tfds --config.data.root=/data/tfds. With --canvas=S, every image is stored as
S x S raw RGB pixels, so that training need not decode images.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags as absl_flags
from absl import logging

from flaxnets.cli import flags as cli_flags

ARGUMENTS = ''


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.string('root', None, 'folder of the split files and the images')
  add.string('data_dir', None, 'folder of TFDS data sets to write to')
  add.integer('canvas', 0, 'side of the stored raw images, pixels; 0 to store the encoded files', lower_bound=0)
  add.list(
    'splits', '', 'split files, separated by commas; without this flag every .txt file in root except classes.txt'
  )
  add.string('classes', '', 'file of class names; without this flag classes.txt, if it exists')
  add.enum('on_bad_image', 'error', ['error', 'skip'], 'action on an unreadable image')


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  del arguments
  from flaxnets.data import imagenet_mini

  logging.set_verbosity(logging.ERROR)  # TFDS warns about a config that it does not know
  builder = imagenet_mini.prepare(
    flags.root,
    flags.data_dir,
    canvas=flags.canvas,
    splits=flags.splits,
    classes=flags.classes,
    on_bad_image=flags.on_bad_image,
  )
  counts = ', '.join(f'{split.num_examples:,} {split.name}' for split in builder.info.splits.values())
  print(f'{builder.data_path}: {counts}' + (f' ({builder.skipped:,} skipped)' if builder.skipped else ''))
