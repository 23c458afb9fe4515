"""Classifies images with a trained network: files, folders, globs in quotes, and arrays in .npy or .npz files.

flaxnets predict runs/mine photos/ 'more/*.jpg' --channels=RG --out=predictions.csv

Image files are decoded as in evaluation. An array is (n, height, width, channels), or (height, width, channels) for one
image; of an .npz, the only such array or the one that --key names. A file that cannot be read is named on stderr, the
others are classified, and the exit code is 1. Memory does not grow with the number of files; an .npz is read at once.
"""

from __future__ import annotations

import contextlib
import csv
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

import numpy as np
from absl import flags as absl_flags

from flaxnets.errors import InputError

ARGUMENTS = 'DIR FILE [FILE...]'
ENDINGS = ('.csv', '.jsonl')
TOP = 5

Write = Callable[[str, int, np.ndarray], None]  # of path, index and probabilities (K,)


def define(flags: absl_flags.FlagValues) -> None:
  values = {'flag_values': flags}
  absl_flags.DEFINE_string(
    'channels',
    '',
    "what the files hold, in order: 'RG' or 'B02,B03'. Of image files these are taken; left out, all of the network's, "
    'and of an .npz those that it names',
    **values,
  )
  absl_flags.DEFINE_string('subset', '', 'use only these of them', **values)
  absl_flags.DEFINE_string(
    'out', '', 'a file to write, .csv or .jsonl (one JSON object a line); CSV to stdout if left out', **values
  )
  absl_flags.DEFINE_string('key', '', 'the array in .npz files', **values)
  absl_flags.DEFINE_string('step', 'best', 'best, latest or a number', **values)
  absl_flags.DEFINE_integer('batch_size', 64, 'images at a time', lower_bound=1, **values)
  absl_flags.DEFINE_integer('threads', 0, 'that decode; 0 for one a core', lower_bound=0, **values)
  absl_flags.DEFINE_bool('latency', False, 'measure the median time of one image as well', **values)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  from flaxnets.runtime import devices  # JAX takes seconds to import

  devices.start([1])
  from flaxnets.inference import files
  from flaxnets.inference.restore import load

  if flags.out and not flags.out.endswith(ENDINGS):
    raise InputError(f'--out={flags.out} ends in none of {", ".join(ENDINGS)}')
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
    write = json_lines(out, net.classes) if flags.out.endswith('.jsonl') else csv_rows(out, net.classes)
    for row in run(named):
      write(*row)
      bar.update()
      count += 1
  seconds = time.perf_counter() - start
  print(
    f'{count:,} images in {seconds:.2f} s, {count / seconds:,.0f} images/s with compiling'
    + (f'; not predicted: {run.bad:,} of {len(named):,} files' if run.bad else ''),
    file=sys.stderr,
  )
  if flags.latency:
    print(f'one image takes {1e3 * run.latency():.2f} ms (median of 50, decoded, batch of 1)', file=sys.stderr)
  return 1 if run.bad else 0


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
  try:
    with atomic.replacing(pathlib.Path(out)) as beside, open(beside, 'w', newline='', encoding='utf-8') as file:
      yield file
  except OSError as error:
    raise InputError(f'--out={out} cannot be written: {error.strerror}') from None
