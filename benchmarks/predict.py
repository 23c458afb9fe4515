"""`flaxnets predict` on image files, beside a PyTorch and torchvision script that does the same.

    python -m benchmarks.predict [--root=DIR] [--images=1000] [--json=FILE]

Both are commands, timed from their start to their end, each in a fresh process and in turn. Both decode the files,
classify them with a ResNet-18 (as many classes, the same input size, batches of the same size) and write a CSV file
with the five likeliest classes. 'command' is the whole time. 'images' is the rate after start-up, as each command
prints it; ours includes loading the compiled program from the cache, which a first round fills. The peer runs with and
without worker processes and in both memory layouts, and the ratio is to its best mode. See `torch_predict` for it.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import measure, photos
from benchmarks.measure import Row
from flaxnets.errors import InputError
from flaxnets.runtime import machine

HERE = Path(__file__).parents[1]
ENDINGS = ('.jpg', '.jpeg')
_PRINTED = re.compile(r'([\d,]+) images in ([\d.]+) s')

Seconds = tuple[float, float]  # of the whole command, and of the part that it prints


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Runs the commands in turn, prints and writes the rows, and returns them."""
  args = _parser().parse_args(argv)
  with tempfile.TemporaryDirectory(prefix='flaxnets-benchmark-') as folder:
    place = Path(folder)
    files = link_files(args, place)
    run = train_run(args, place)
    contenders = {'flaxnets': ours(args, run, files, place), **peers(args, files, place)}
    found: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for turn in range(args.repeats + 1):
      for name, command in contenders.items():
        seconds = command()
        if turn:  # the first round fills caches
          found[name].append(seconds)
  rows = rows_of(args, found)
  measure.finish(rows, args.json, (*measure.DISTRIBUTIONS, 'torchvision', 'simplejpeg', 'pillow'))
  return rows


def _parser() -> argparse.ArgumentParser:
  parser = measure.parser('predict', 'Prediction of image files from the command line.', repeats=5, seconds=None)
  parser.add_argument('--root', default='', help='folder of JPEGs, searched with its subfolders; else photos are drawn')
  parser.add_argument('--images', type=measure.positive, default=1000, help='how many of them')
  parser.add_argument('--size', type=measure.positive, default=84, help='height and width of drawn photos, pixels')
  parser.add_argument('--image_size', type=measure.positive, default=84, help="side of the network's input, pixels")
  parser.add_argument('--canvas', type=int, default=0, help='as config.data.canvas; 0 for 1.5 x image_size')
  parser.add_argument('--width', type=int, default=64, help='of our network; the peer has 64')
  parser.add_argument('--batch_size', type=measure.positive, default=64)
  return parser


def link_files(args: argparse.Namespace, place: Path) -> Path:
  """A folder with `--images` JPEGs: links to the first ones below --root, evenly spread, or drawn photos.

  Raises:
    InputError: for a folder with fewer JPEGs.
  """
  if not args.root:
    return photos.write(place / 'photos', args.images, args.size, args.size)
  found = sorted(path for path in Path(args.root).rglob('*') if path.suffix.lower() in ENDINGS)
  if len(found) < args.images:
    raise InputError(f'--root={args.root} has {len(found):,} JPEGs, fewer than --images={args.images}')
  (place / 'photos').mkdir()
  for number in range(args.images):
    path = found[number * len(found) // args.images].resolve()
    (place / 'photos' / f'{number}{path.suffix}').symlink_to(path)
  return place / 'photos'


def train_run(args: argparse.Namespace, place: Path) -> Path:
  """A run of one training step on drawn photos; what its weights are does not matter here."""
  drawn = photos.write(place / 'training', 2 * photos.CLASSES, args.size, args.size)
  options = {
    'image_size': args.image_size,
    'model.width': args.width,
    'data.root': drawn,
    'data.validation': 'train.txt',
    'data.test': 'train.txt',
    'data.canvas': args.canvas,
    'presence.mode': 'none',
    'evaluate.subsets': 'full',
    'train.batch_size': 2 * photos.CLASSES,
    'train.epochs': 1,
  }
  flags = [f'--config.{name}={value}' for name, value in options.items()]
  _run(place, 'flaxnets', 'train', '--config=default', f'--workdir={place / "run"}', *flags)
  return place / 'run'


def ours(args: argparse.Namespace, run: Path, files: Path, place: Path) -> Callable[[], Seconds]:
  out = place / 'flaxnets.csv'
  words = ('flaxnets', 'predict', str(run), str(files), f'--out={out}', f'--batch_size={args.batch_size}')
  return lambda: _timed(args, place, out, *words)


def peers(args: argparse.Namespace, files: Path, place: Path) -> dict[str, Callable[[], Seconds]]:
  """The modes of the peer; none without PyTorch and torchvision."""
  missing = [name for name in ('torch', 'torchvision') if importlib.util.find_spec(name) is None]
  if missing:
    print(f'{" and ".join(missing)} cannot be imported: the peer is missing, and rows have no ratio to it')
    return {}
  shared = (f'--image_size={args.image_size}', f'--classes={photos.CLASSES}', f'--batch_size={args.batch_size}')
  found = {}
  for workers in (0, machine.cores()):
    for layout in ('', 'channels_last'):
      name = f'torch, {workers} workers' + (f', {layout}' if layout else '')
      out = place / f'{name}.csv'
      words = ['benchmarks.torch_predict', str(files), f'--out={out}', f'--workers={workers}', *shared]
      words += [f'--{layout}'] if layout else []
      found[name] = lambda words=words, out=out: _timed(args, place, out, *words)
  return found


def rows_of(args: argparse.Namespace, found: Mapping[str, Sequence[Seconds]]) -> list[Row]:
  """Two rows for each contender: seconds of the command, and images per second after its start-up."""
  rows = []
  for place, (what, unit) in enumerate((('command', 's'), ('images', 'images/s'))):
    medians = {name: statistics.median(seconds[place] for seconds in turns) for name, turns in found.items()}
    best = min((name for name in medians if name != 'flaxnets'), key=medians.__getitem__, default=None)
    for name, turns in found.items():
      each = [seconds[place] for seconds in turns]
      values = each if unit == 's' else [args.images / seconds for seconds in each]
      ratio = medians[best] / medians[name] if best and name == 'flaxnets' else None
      details = {'low': min(values), 'high': max(values), 'turns': len(values), 'images': args.images}
      details |= {'image_size': args.image_size, 'batch_size': args.batch_size, 'canvas': args.canvas}
      rows.append(
        Row(f'predict/{what}/{name}', statistics.median(values), unit, ratio, best if ratio else None, details)
      )
  return rows


def _timed(args: argparse.Namespace, place: Path, out: Path, *words: str) -> Seconds:
  """Runs a command; checks that it predicted every image."""
  start = time.perf_counter()
  printed = _run(place, *words)
  whole = time.perf_counter() - start
  match = _PRINTED.search(printed)
  with open(out, newline='') as file:
    rows = sum(1 for _ in csv.reader(file)) - 1
  if match is None or rows != args.images:
    raise InputError(f'{words[0]}: {rows} of {args.images} images were predicted')
  return whole, float(match[2])


def _run(place: Path, *words: str) -> str:
  """Runs `python -m WORDS` with a cache of compiled programs of its own; returns its stderr.

  Raises:
    InputError: if it fails, with the last line of its stderr.
  """
  environment = {**os.environ, 'PYTHONPATH': str(HERE), 'XDG_CACHE_HOME': str(place / 'cache')}
  done = subprocess.run([sys.executable, '-m', *words], cwd=place, env=environment, capture_output=True, text=True)
  if done.returncode:
    raise InputError(f'{" ".join(words[:2])} failed: {(done.stderr.strip().splitlines() or [""])[-1]}')
  return done.stderr


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.predict: {error}')
