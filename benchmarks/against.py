"""Speed of this checkout against another one, in pairs: training step, evaluation, input and start-up.

    python -m benchmarks.against OTHER_CHECKOUT [--repeats=5] [--json=FILE]

Both checkouts run the same commands with this Python, in turn (A B, B A, ...), each in a process with a fresh JAX and
the compile cache of its own checkout, which a first round fills. A row is this checkout's time over the other's: the
median of the ratios pair by pair, with the least and the greatest. Below 1 this checkout is faster.

    train     one training step: median over the steps of a run, from the images/s in metrics.jsonl
    evaluate  the command that evaluates 7 subsets, start to end
    input     reading JPEGs into training batches, one pass over `--images` of them
    help      `python train_main.py --help`
    import    `python -c "import flaxnets"`
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parents[1]
PARTS = ('train', 'evaluate', 'input', 'help', 'import')
STEPS, BATCH = 45, 64
# ResNet-18 at 96 pixels on images drawn by the program: the step of table 1.
TRAINING = [
  '--config.image_size=96',
  '--config.model.width=64',
  f'--config.data.train=train[:{STEPS * BATCH}]',
  '--config.data.validation=validation[:256]',
  '--config.data.test=test[:1024]',
  '--config.train.epochs=1',
  f'--config.train.batch_size={BATCH}',
  '--config.train.log_every=5',
  '--config.evaluate.subsets=RGB',
]
# Runs in either checkout: where the opener of a list of files was before it moved.
READ = """
import sys, time
root, images = sys.argv[1], int(sys.argv[2])
try:
  from flaxnets.data.open import open_source
  from flaxnets.data.source import DataOptions
  source = open_source(DataOptions('lists', root, canvas=144), 'train.txt')
except ImportError:
  from flaxnets.data.sources import open_source
  source = open_source('lists', 'train.txt', root=root, canvas=144)
from flaxnets.data.batches import train_batches
stream = train_batches(source, batch_size=64, seed=0)
next(stream)
began = time.perf_counter()
for _ in range(images // 64):
  next(stream)
print(time.perf_counter() - began)
"""


def run(checkout: pathlib.Path, *arguments: str) -> str:
  """Runs Python in a checkout; returns what it prints."""
  environment = {**os.environ, 'PYTHONPATH': str(checkout), 'XDG_CACHE_HOME': str(checkout / '.cache')}
  done = subprocess.run([sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True)
  if done.returncode and '--help' not in arguments:  # absl exits with 1 after its help
    sys.exit(f'{checkout}: {" ".join(arguments[:2])} failed: {done.stderr.strip().splitlines()[-1]}')
  return done.stdout


def wall(checkout: pathlib.Path, *arguments: str) -> float:
  began = time.perf_counter()
  run(checkout, *arguments)
  return time.perf_counter() - began


def train(checkout: pathlib.Path, place: pathlib.Path) -> float:
  """Seconds per training step."""
  with tempfile.TemporaryDirectory(dir=place) as workdir:
    run(checkout, 'train_main.py', '--config=configs/demo.py', f'--workdir={workdir}', *TRAINING)
    lines = map(json.loads, pathlib.Path(workdir, 'metrics.jsonl').read_text().splitlines())
    rates = [line['images_per_second'] for line in lines if line['split'] == 'train']
  return BATCH / statistics.median(rates[1:])  # the first holds compilation in one of the checkouts


def evaluate(checkout: pathlib.Path, place: pathlib.Path) -> float:
  """Seconds of the evaluation command, for a run that this checkout trained."""
  workdir = place / 'runs' / checkout.relative_to(checkout.anchor)
  if not workdir.exists():
    run(checkout, 'train_main.py', '--config=configs/demo.py', f'--workdir={workdir}', *TRAINING)
  return wall(checkout, 'eval_main.py', f'--workdir={workdir}', '--subsets=all')


def read(checkout: pathlib.Path, place: pathlib.Path, images: int) -> float:
  """Seconds to read images into training batches."""
  root = place / 'photos'
  if not root.exists():
    draw(root, images)
  return float(run(checkout, '-c', READ, str(root), str(images)))


def draw(root: pathlib.Path, images: int) -> None:
  """Smooth JPEGs of 320 x 240 pixels and their list."""
  root.mkdir()
  rng = np.random.default_rng(0)
  for number in range(images):
    small = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
    small.resize((320, 240), Image.Resampling.BICUBIC).save(root / f'{number}.jpg', quality=90)
  (root / 'train.txt').write_text(''.join(f'{number}.jpg {number % 10}\n' for number in range(images)))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Times the parts in pairs, prints and writes the rows, and returns them by part."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.against', description=(__doc__ or '').splitlines()[0])
  parser.add_argument('other', type=pathlib.Path, help='the other checkout')
  parser.add_argument('--repeats', type=int, default=5, help='counted pairs')
  parser.add_argument('--images', type=int, default=2048, help='JPEGs to read')
  parser.add_argument('--parts', default=','.join(PARTS), help=f'which of {", ".join(PARTS)}')
  parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='also write the rows to this file')
  args = parser.parse_args(argv)
  if unknown := set(args.parts.split(',')) - set(PARTS):
    parser.error(f'--parts: there is no {", ".join(sorted(unknown))}; there are {", ".join(PARTS)}')
  ours, other = HERE, args.other.resolve()
  rows = {}
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    parts: dict[str, Callable[[pathlib.Path], float]] = {
      'train': lambda checkout: train(checkout, place),
      'evaluate': lambda checkout: evaluate(checkout, place),
      'input': lambda checkout: read(checkout, place, args.images),
      'help': lambda checkout: wall(checkout, 'train_main.py', '--help'),
      'import': lambda checkout: wall(checkout, '-c', 'import flaxnets'),
    }
    for name in args.parts.split(','):
      pairs = []
      for repeat in range(args.repeats + 1):
        order = (ours, other) if repeat % 2 else (other, ours)
        seconds = {checkout: parts[name](checkout) for checkout in order}
        if repeat:  # the first round fills caches
          pairs.append((seconds[ours], seconds[other]))
      ratios = sorted(a / b for a, b in pairs)
      rows[name] = {
        'ratio': statistics.median(ratios), 'least': ratios[0], 'greatest': ratios[-1],
        'seconds': statistics.median(a for a, _ in pairs), 'other_seconds': statistics.median(b for _, b in pairs),
      }  # fmt: skip
      print('{:9} {ratio:.3f} ({least:.3f} to {greatest:.3f})  {seconds:.3f} s, other {other_seconds:.3f} s'.format(
        name, **rows[name]), flush=True)  # fmt: skip
  if args.json:
    from benchmarks import measure

    commit = subprocess.run(['git', '-C', other, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
    measure.write(args.json, {**measure.record(), 'other': commit, 'rows': rows})
  return rows


if __name__ == '__main__':
  main()
