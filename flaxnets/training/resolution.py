"""Progressive resolution: training images that grow during a run, so that most steps cost less."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from flaxnets.config import MAX_SIDE
from flaxnets.errors import InputError


def check(sides: Sequence[int], patience: int) -> None:
  """Raises InputError for sides that are not whole numbers of pixels from 1 to MAX_SIDE, and for several with patience.

  With train.patience a run could stop before its images have grown.
  """
  if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides):
    raise InputError(
      f'train.image_sizes is {tuple(sides)}; it must be sides in pixels from 1 to {MAX_SIDE:,}, such as (32, 40, 48)'
    )
  if patience and len(set(sides)) > 1:
    raise InputError(
      f'train.patience={patience} could stop a run before its images have grown to the last of train.image_sizes '
      f'{tuple(sides)}; set one of the two'
    )


def steps_per_side(sides: Sequence[int], steps: int) -> list[tuple[int, int]]:
  """How a run is divided among the sides of its training images.

  Args:
    sides: in their order, pixels. Each serves an equal share of the steps; one that is repeated serves several.
    steps: of the run.

  Returns:
    (side, number of steps) in order. The numbers add up to `steps`, and none is 0.

  >>> steps_per_side((32, 40, 48), 100)
  [(32, 33), (40, 33), (48, 34)]
  """
  ends = [(number + 1) * steps // len(sides) for number in range(len(sides))]
  lengths = [end - begin for begin, end in itertools.pairwise([0, *ends])]
  return [(side, length) for side, length in zip(sides, lengths, strict=True) if length]


def sides_after(sides: Sequence[int], steps: int, done: int) -> list[int]:
  """The sides, in pixels and in order, of the steps that follow `done` of `steps`; see `steps_per_side`.

  >>> [sides_after((32, 48), 4, done) for done in range(4)]
  [[32, 48], [32, 48], [48], [48]]
  """
  parts = steps_per_side(sides, steps)
  ends = itertools.accumulate(length for _, length in parts)
  return [side for (side, _), end in zip(parts, ends, strict=True) if done < end]
