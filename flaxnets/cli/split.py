"""Splits ROOT/train.txt into OUT/train_tune.txt and OUT/tune.txt, which has equally many images of every class.

    flaxnets split /data/miniimagenet50_84px runs/splits

What is chosen (a learning rate, a recipe) is chosen on tune.txt; the test split is for what was chosen.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

ARGUMENTS = 'ROOT OUT'


def define(flags: absl_flags.FlagValues) -> None:
  absl_flags.DEFINE_integer('per_class', 40, 'images of each class in tune.txt', lower_bound=1, flag_values=flags)
  absl_flags.DEFINE_integer('seed', 0, 'seed of the choice', flag_values=flags)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  from flaxnets.data import splits

  root, out = map(pathlib.Path, arguments)
  kept, held = splits.hold_out(root, out, flags.per_class, flags.seed)
  print(f'{out}/train_tune.txt: {kept:,} images; {out}/tune.txt: {held:,} images')
