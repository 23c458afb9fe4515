"""Converts images in lists of `path label` lines into a TFDS data set in array_record files (no TensorFlow needed).

    flaxnets prepare --root=/data/imagenet-mini --data_dir=/data/tfds --canvas=144

Then train with --config.data.source=tfds --config.data.root=/data/tfds. With a canvas every image is stored as
canvas x canvas raw RGB pixels, so that training decodes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags as absl_flags
from absl import logging

ARGUMENTS = ''


def define(flags: absl_flags.FlagValues) -> None:
  values = {'flag_values': flags}
  absl_flags.DEFINE_string('root', None, 'folder with the split files and the images', **values)
  absl_flags.DEFINE_string('data_dir', None, 'folder of TFDS data sets, written to', **values)
  absl_flags.DEFINE_integer('canvas', 0, 'side of raw pixels; 0 keeps the encoded bytes', lower_bound=0, **values)
  absl_flags.DEFINE_list('splits', '', 'FILE,FILE; every .txt in root but classes.txt if left out', **values)
  absl_flags.DEFINE_string('classes', '', 'file of class names; classes.txt, if it exists, if left out', **values)
  absl_flags.DEFINE_enum('on_bad_image', 'error', ['error', 'skip'], 'what an unreadable file does', **values)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  del arguments
  from flaxnets.data import imagenet_mini

  logging.set_verbosity(logging.ERROR)  # TFDS warns of a config that it does not know
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
