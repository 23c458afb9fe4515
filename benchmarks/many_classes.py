"""Memory, time and file sizes of judging many classes on many subsets: `flaxnets eval`, then `flaxnets report`.

python -m benchmarks.many_classes [--classes=1000] [--channels=7] [--images=5000]

The images are noise and the network is tiny and untrained, so that what is left is what grows with classes x subsets:
predictions, confusion matrices, intervals and files. Every command runs in its own process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from flaxnets.errors import InputError

# Runs flaxnets and prints its peak memory, KiB. Linux counts the memory of the process that starts a program as the
# program's own, so a small one has to start it.
_MEASURED = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, '-m', 'flaxnets', *sys.argv[1:]], capture_output=True, text=True)
if done.returncode:
  sys.exit(done.stdout + done.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Trains one step, evaluates every subset, writes the report; prints, writes and returns the rows."""
  args = _parser().parse_args(argv)
  case = f'{args.classes} classes x {2**args.channels - 1} subsets'
  rows = []
  with tempfile.TemporaryDirectory(prefix='flaxnets-benchmark-') as place:
    write_noise(Path(place, 'noise.npz'), args)
    run, page = Path(place, 'run'), Path(place, 'report.html')
    _peak('train', *_training(args, place), f'--workdir={run}')
    for command, files in (
      (('eval', f'--workdir={run}', '--subsets=all', '--split=test'), 'run/eval/*'),
      (('report', str(run), f'--out={page}'), page.name),
    ):
      seconds, peak = _peak(*command)
      sizes = {path.name: path.stat().st_size for path in Path(place).glob(files)}
      details = {'images': args.images, 'seconds': seconds, 'files': sizes}
      rows += [
        Row(f'many_classes/{case}/{command[0]}/{what}', value, unit, None, '', details)
        for what, value, unit in (
          ('peak memory', peak / 2**20, 'MiB'),
          ('time', seconds, 's'),
          ('files', sum(sizes.values()) / 2**20, 'MiB'),
        )
      ]
  measure.finish(rows, args.json)
  return rows


def _parser() -> argparse.ArgumentParser:
  parser = measure.parser(
    'many_classes', 'Memory, time and file sizes of many classes on many subsets.', repeats=None, seconds=None
  )
  parser.add_argument('--classes', type=measure.positive, default=1000)
  parser.add_argument('--channels', type=measure.positive, default=7)
  parser.add_argument('--images', type=measure.positive, default=5000, help='test images, at least one per class')
  return parser


def write_noise(path: Path, args: argparse.Namespace) -> None:
  """An .npz file of 16 x 16 noise: a training image of each class, 64 at least, and the test images."""
  if args.images < args.classes:
    raise InputError(f'--images is {args.images}; every one of {args.classes} classes needs at least one')
  random = np.random.default_rng(0)
  counts = {'train': max(64, args.classes), 'test': args.images}
  np.savez(
    path,
    bands=[f'N{number}' for number in range(args.channels)],
    classes=[f'class{number}' for number in range(args.classes)],
    **{
      f'X_{split}': random.integers(0, 256, (count, 16, 16, args.channels), np.uint8) for split, count in counts.items()
    },
    **{f'y_{split}': np.arange(count) % args.classes for split, count in counts.items()},
  )


def _training(args: argparse.Namespace, place: str) -> list[str]:
  values = {
    'data.source': 'arrays',
    'data.root': f'{place}/noise.npz',
    'data.train': 'train',
    'data.validation': 'test',
    'evaluate.every': 10**9,
    'evaluate.subsets': 'full',
    'data.test': 'test',
    'data.channels': '',
    'image_size': 16,
    'model.width': 8,
    'model.small_images': True,
    'train.epochs': 64 / max(64, args.classes),
  }
  return ['--config=default', *(f'--config.{key}={value}' for key, value in values.items())]


def _peak(*command: str) -> tuple[float, int]:
  """Seconds and peak resident bytes of `python -m flaxnets COMMAND`.

  Raises:
    InputError: with the end of its output, if it fails.
  """
  start = time.perf_counter()
  shell = ['sh', '-c', 'exec "$@"', 'sh', sys.executable, '-c', _MEASURED, *command]
  done = subprocess.run(shell, capture_output=True, text=True)
  if done.returncode:
    raise InputError(f'flaxnets {command[0]} failed: {done.stderr[-500:]}')
  return time.perf_counter() - start, int(done.stdout) * 1024


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.many_classes: {error}')
