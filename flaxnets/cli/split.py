"""Splits ROOT/train.txt into OUT/tune.txt, with the same number of images of every class, and OUT/train_tune.txt.

    flaxnets split /data/miniimagenet50_84px runs/splits

Choose hyperparameters on tune.txt and report results on the test split.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.cli import flags as cli_flags

ARGUMENTS = 'ROOT OUT'


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.integer('per_class', 40, 'images of each class in tune.txt', lower_bound=1)
  add.integer('seed', 0, 'seed of the random selection', lower_bound=0)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  from flaxnets.data import splits

  root, out = map(pathlib.Path, arguments)
  kept, held = splits.hold_out(root, out, flags.per_class, flags.seed)
  print(f'{out}/train_tune.txt: {kept:,} images; {out}/tune.txt: {held:,} images')
