"""Divides a folder with one folder of images per class into training, validation and test.

    flaxnets lists /data/mine
    flaxnets train --workdir=runs/mine --config.data.root=/data/mine

Writes train.txt, val.txt and test.txt, with a line `path label` per image, and classes.txt into the folder. The images
stay where they are. Images that resemble each other, such as frames of one video or fields of one plate, belong in one
split: with names such as wood/plate7_003.tif, --group='plate\\d+' keeps those of a plate together.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError

ARGUMENTS = 'ROOT'


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.list('shares', ['70', '15', '15'], 'shares of training, validation and test')
  add.string(
    'group',
    '',
    'regular expression for the paths below ROOT; images with the same match, or the same first group in parentheses, '
    'stay in one split',
  )
  add.integer('seed', 0, 'seed of the random division', lower_bound=0)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  from flaxnets.data.divide import write_lists

  try:
    shares = [float(share) for share in flags.shares]
  except ValueError:
    raise InputError(f'--shares={",".join(flags.shares)} are no numbers; write them as in 70,15,15') from None
  counts = write_lists(arguments[0], shares, flags.group, flags.seed)
  for split, by_class in counts.items():
    smallest = min(by_class, key=by_class.__getitem__)
    classes = f'{len(by_class):,} classes, {by_class[smallest]:,} or more of each'
    print(f'{arguments[0]}/{split}.txt: {by_class.total():,} images of {classes}')
