"""Classifies images with a trained network: files, folders, globs in quotes, and arrays in .npy or .npz files.

flaxnets predict runs/mine photos/ 'more/*.jpg' --channels=RG --out=predictions.csv
flaxnets predict runs/bands scene.tif --out=map.tif --tile=64 --stride=32

With --out=map.tif the one FILE is a scene, such as a GeoTIFF, or a VRT that combines several files: it is classified
tile by tile. map.tif holds the class of each pixel, with a colour table and the names of the classes, and
map_probability.tif its probability, both on the scene's grid, with its coordinate reference system. Overlapping tiles
are averaged. Pixels without data stay without a class.

Image files are decoded as in evaluation; bands of GeoTIFFs are matched by their names. An array is (n, height, width,
channels), or (height, width, channels) for one image. In an .npz with several such arrays, --key names the one to use.
A file that cannot be read is named on stderr, the others are classified, and the exit code is 1. Images and tiles of a
scene in which a channel has one value throughout, such as the zeros of a failed camera, are classified and cause a
warning; --subset=RG leaves B out.

A row of CSV has the path, the index of the image in its array (0 for an image file), the likeliest class and its
probability, and then up to five of the likeliest classes, the first of which is the same again: path, index, class,
probability, top1, top1_probability, top2 and so on. A line of JSON has path, index, class, probability and the list
top5. Bytes of a path that are not UTF-8 are written as in \\udce9.

Memory does not grow with the number of files; an .npz is read at once.
"""

from __future__ import annotations

import contextlib
import csv
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

import numpy as np
from absl import flags as absl_flags

from flaxnets.analysis.text import counted
from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

ARGUMENTS = 'DIR FILE [FILE...]'
ENDINGS = ('.csv', '.jsonl')
MAPS = ('.tif', '.tiff')
TOP = 5

Write = Callable[[str, int, np.ndarray], None]  # of path, index and probabilities (K,)


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.string(
    'channels',
    '',
    "channels of the files, in order, such as 'RG' or 'B02,B03'; of photos, the channels to use. Left out: all of the "
    "network's, or those that the .npz or the GeoTIFF names",
  )
  add.string('subset', '', 'use only these channels of the files; all if left out')
  add.string(
    'out', '', 'a file to write, .csv or .jsonl (one JSON object a line), or .tif for a map; CSV to stdout if left out'
  )
  add.integer('tile', 0, "map: side of a tile, pixels of the scene; 0 for the network's input size", lower_bound=0)
  add.integer('stride', 0, 'map: pixels from tile to tile, up to --tile; 0 for half a tile', lower_bound=0)
  add.enum(
    'probabilities',
    'top',
    ['top', 'all', 'none'],
    "map: what MAP_probability.tif holds: the probability of each pixel's class, a band for each class, or no file",
  )
  add.string('key', '', 'name of the array to use in .npz files; left out: the only one with images')
  add.string('step', 'best', 'checkpoint to use: best, latest or a step')
  add.integer('batch_size', 64, 'images, or tiles of a scene, at a time', lower_bound=1)
  add.integer('threads', 0, 'decoding threads; 0 for one per core', lower_bound=0)
  add.boolean('latency', False, 'measure the median time of one image as well')


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  from flaxnets.runtime import devices  # JAX takes seconds to import

  devices.start([1])
  from flaxnets.inference import files
  from flaxnets.inference.restore import load

  is_map = flags.out.lower().endswith(MAPS)
  for name in ('threads', 'key', 'latency') if is_map else ('tile', 'stride', 'probabilities'):
    if flags[name].value != flags[name].default:
      raise InputError(f'--{name} has no effect on {"a map" if is_map else "anything but a map (--out=MAP.tif)"}')
  if is_map:
    return _map(load(arguments[0], flags.step), flags, arguments[1:])
  if flags.out and not flags.out.lower().endswith(ENDINGS):
    raise InputError(f'--out={flags.out} ends in none of {", ".join((*ENDINGS, MAPS[0]))}')
  net = load(arguments[0], flags.step)
  named = files.find(arguments[1:])
  run = files.FilePredictions(
    net,
    flags.channels,
    flags.subset,
    batch_size=flags.batch_size,
    threads=flags.threads,
    key=flags.key,
    on_bad=_report,
  )
  start, count = time.perf_counter(), 0
  with _opened(flags.out) as out, _progress(named) as bar:
    write = json_lines(out, net.classes) if flags.out.lower().endswith('.jsonl') else csv_rows(out, net.classes)
    for row in run(named):
      write(*row)
      bar.update()
      count += 1
  seconds = time.perf_counter() - start
  rate = count / seconds
  print(
    f'{counted(count, "image")} in {seconds:.2f} s with compilation, {rate:{",.0f" if rate >= 10 else ".2g"}} images/s'
    + (f'; not predicted: {run.bad:,} of {len(named):,} files' if run.bad else ''),
    file=sys.stderr,
  )
  if flags.latency:
    print(f'one image takes {1e3 * run.latency():.2f} ms (median of 50, decoded, batch of 1)', file=sys.stderr)
  return 1 if run.bad else 0


def _map(net: Network, flags: absl_flags.FlagValues, scenes: Sequence[str]) -> int:
  """Writes a map of the one scene and says on stderr what it holds."""
  from tqdm import tqdm

  if len(scenes) != 1:
    raise InputError(
      f'a map is of one scene, but {len(scenes)} files are given; write --out={flags.out} for each alone'
    )
  start = time.perf_counter()
  with tqdm(unit=' tiles', dynamic_ncols=True, disable=None) as bar:

    def progress(done: int, total: int) -> None:
      bar.total = total
      bar.update(done - bar.n)

    summary = net.predict_map(
      scenes[0],
      flags.out,
      channels=flags.channels,
      subset=flags.subset,
      tile=flags.tile,
      stride=flags.stride,
      probabilities=flags.probabilities,
      batch_size=flags.batch_size,
      progress=progress,
    )
  height, width = summary.size
  notes = [f'{summary.empty:,} of them without data'] if summary.empty else []
  notes += (
    [f'{summary.filled:,} with some pixels without data, filled with the mean of the band'] if summary.filled else []
  )
  print(
    f'{height:,} x {width:,} pixels, {summary.tiles:,} tiles{"".join(f", {note}" for note in notes)}, in '
    f'{time.perf_counter() - start:.1f} s; channels {",".join(summary.channels)}',
    file=sys.stderr,
  )
  total = max(sum(summary.pixels.values()), 1)
  for name, count in sorted(summary.pixels.items(), key=lambda item: -item[1]):
    if count:
      print(f'{count / total:7.1%}  {name}', file=sys.stderr)
  print(f'wrote {" and ".join(summary.files)}', file=sys.stderr)
  return 0


def csv_rows(file: TextIO, classes: Sequence[str]) -> Write:
  """Writes the header; returns what writes a row: the likeliest class, and up to five with their probabilities."""
  ranks = range(1, min(TOP, len(classes)) + 1)
  table = csv.writer(file, lineterminator='\n')
  top = [column for rank in ranks for column in (f'top{rank}', f'top{rank}_probability')]
  table.writerow(['path', 'index', 'class', 'probability', *top])

  def write(path: str, index: int, probabilities: np.ndarray) -> None:
    likeliest = [(classes[place], f'{probabilities[place]:.6g}') for place in _likeliest(probabilities)]
    table.writerow([path, index, *likeliest[0], *(value for pair in likeliest for value in pair)])

  return write


def json_lines(file: TextIO, classes: Sequence[str]) -> Write:
  """Returns what writes a row as one JSON object."""

  def write(path: str, index: int, probabilities: np.ndarray) -> None:
    top = [
      {'class': classes[place], 'probability': float(f'{probabilities[place]:.6g}')}
      for place in _likeliest(probabilities)
    ]
    file.write(json.dumps({'path': path, 'index': index, **top[0], 'top5': top}, ensure_ascii=False) + '\n')

  return write


def _likeliest(probabilities: np.ndarray) -> np.ndarray:
  """The places of up to five classes, likeliest first; of equals the first, as in `net.predict`."""
  return np.argsort(-probabilities, kind='stable')[:TOP]


def _report(message: str) -> None:
  from tqdm import tqdm

  tqdm.write(f'flaxnets predict: {message}', file=sys.stderr)


def _progress(named: Sequence[str]):
  """A bar on stderr, where that is a terminal. How many images an array holds shows when it is opened."""
  from tqdm import tqdm

  total = None if any(name.lower().endswith(('.npy', '.npz')) for name in named) else len(named)
  return tqdm(total=total, unit=' images', dynamic_ncols=True, disable=None)


@contextlib.contextmanager
def _opened(out: str) -> Iterator[TextIO]:
  """The file to write, which appears when it is complete; stdout for ''."""
  from flaxnets.runtime import atomic

  if not out:
    yield sys.stdout
    return
  with (
    atomic.writing(f'--out={out}'),
    atomic.replacing(pathlib.Path(out)) as beside,
    # Names of files need not be UTF-8.
    open(beside, 'w', newline='', encoding='utf-8', errors='backslashreplace') as file,
  ):
    yield file
