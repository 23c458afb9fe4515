"""The time that a subset of channels costs: to run (relative to its MACs), to compile, and to evaluate with all others.

python -m benchmarks.subsets [--model=resnet18] [--image_size=96] [--parts=speed,compile,growth,evaluation]

speed: latency of one image and throughput of a batch, for every subset of R, G and B (or for --subsets).
compile: compile time of the evaluator's functions for these subsets, in fresh processes, without and with the cache,
  and of the one function with a mask that can take their place.
growth: compile time, and the time of everything that `flaxnets eval` does, for 3 and for 13 channels.
evaluation: these subsets in one pass over image files, beside the sum of their forward passes alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.subset_compile import compilation, growth
from benchmarks.subset_evaluation import evaluation
from benchmarks.subset_speed import speed
from flaxnets import models
from flaxnets.errors import InputError

PARTS = {'speed': speed, 'compile': compilation, 'growth': growth, 'evaluation': evaluation}
# 'sample:7' is all subsets of 3 channels, and equally many of more channels, so only the channels differ. 'singles' are
# more with more channels.
GROWTH = ('sample:7', 'singles')


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Runs the parts that the flags select, prints and writes the rows, and returns them."""
  args = _parser().parse_args(argv)
  rows = [row for part in args.parts for row in PARTS[part](args)]
  measure.finish(rows, args.json)
  return rows


def _parser() -> argparse.ArgumentParser:
  parser = measure.parser('subsets', 'The time that subsets of channels cost.')
  parser.add_argument('--parts', type=measure.listed(allowed=tuple(PARTS)), default=list(PARTS), help=','.join(PARTS))
  parser.add_argument('--starts', type=int, default=3, help='fresh processes for each compile measurement')
  parser.add_argument(
    '--subsets', default='all', help='subsets of R, G and B, the first for comparison; growth ignores this'
  )
  parser.add_argument('--growth', type=measure.listed(), default=list(GROWTH), help='subsets, for growth')
  parser.add_argument('--channels', type=measure.listed(int), default=[3, 13], help='numbers of channels, for growth')
  parser.add_argument('--model', default='resnet18', help=', '.join(models.MODELS))
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--small_images', action='store_true')
  parser.add_argument('--image_size', type=int, default=96, help='pixels')
  parser.add_argument('--batch_size', type=int, default=64, help='for throughput and evaluation')
  parser.add_argument('--images', type=int, default=512, help='number of images to evaluate')
  parser.add_argument('--size', type=int, default=224, help='height and width of the JPEGs to evaluate, pixels')
  return parser


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.subsets: {error}')
