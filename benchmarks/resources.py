"""Memory, open files and threads over a long training, many checkpoints, evaluations and predictions.

    python -m benchmarks.resources [--steps=10000] [--saves=500] [--evaluations=200] [--predictions=10000] [--json=FILE]

Everything runs in this process, on a tiny network and the images that flaxnets draws. The training validates and saves
twenty times. Each part is sampled eight times, the last time at its end. A leak is a difference between the middle and
the end: the first half fills caches. The rows are MiB of resident memory at the end, with all samples; `files` and
`threads` are counts at the same moments.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

import flaxnets
from benchmarks import measure
from benchmarks.input_pipeline import resident_memory
from benchmarks.measure import Row
from flaxnets import config as configs
from flaxnets.runtime import devices
from flaxnets.training import loop, setup
from flaxnets.training.metric_logger import MetricLogger

SAMPLES = 8


class Samples:
  """What the process holds at moments of a part."""

  def __init__(self, total: int):
    self._every = max(total // SAMPLES, 1)
    self.memory: list[float] = []
    self.files: list[int] = []
    self.threads: list[int] = []

  def after(self, count: int) -> None:
    """Takes a sample if a share of the part is complete."""
    if count % self._every == 0:
      self.memory.append(round(resident_memory(), 1))
      self.files.append(len(os.listdir('/proc/self/fd')))
      self.threads.append(threading.active_count())

  def row(self, name: str, total: int) -> Row:
    growth = self.memory[-1] / self.memory[len(self.memory) // 2] - 1
    details = {
      'count': total, 'memory': self.memory, 'files': self.files, 'threads': self.threads,
      'growth_of_second_half': round(growth, 4),
    }  # fmt: skip
    return Row(f'resources/{name}', self.memory[-1], 'MiB', details=details)


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Runs the parts, prints and writes the rows, and returns them."""
  parser = measure.parser('resources', (__doc__ or '').splitlines()[0], repeats=None, seconds=None)
  parser.add_argument('--steps', type=measure.positive, default=10_000, help='of the training')
  parser.add_argument('--saves', type=measure.positive, default=500, help='checkpoints of one state')
  parser.add_argument('--evaluations', type=measure.positive, default=200, help='of 64 images')
  parser.add_argument('--predictions', type=measure.positive, default=10_000, help='of one image')
  args = parser.parse_args(argv)
  devices.start([32])
  with tempfile.TemporaryDirectory(prefix='flaxnets-benchmark-') as folder:
    rows = [_training(args.steps, Path(folder)), _saves(args.saves, Path(folder, 'saves'))]
    net = flaxnets.load(folder)
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(64) % len(net.classes)
    rows.append(_repeated('evaluations', args.evaluations, lambda: flaxnets.evaluate(net, images, labels, 'RG')))
    rows.append(_repeated('predictions', args.predictions, lambda: net.predict(images[:1, :, :, :2], channels='RG')))
  measure.finish(rows, args.json)
  return rows


def _training(steps: int, workdir: Path) -> Row:
  samples, done = Samples(steps), 0
  dispatched = MetricLogger.dispatched

  def counted(*args: Any, **options: Any) -> Any:
    nonlocal done
    done += 1
    samples.after(done)
    return dispatched(*args, **options)

  MetricLogger.dispatched = counted  # type: ignore[method-assign]
  try:
    loop.run(_config(steps), workdir)
  finally:
    MetricLogger.dispatched = dispatched  # type: ignore[method-assign]
  return samples.row('training steps', steps)


def _saves(total: int, workdir: Path) -> Row:
  with contextlib.closing(setup.prepare(_config(1), str(workdir))) as ready:
    meta, steps = {'metadata': ready.metadata.to_json(), **ready.data.digests}, itertools.count()
    return _repeated('checkpoints', total, lambda: ready.checkpoints.save(next(steps), ready.state, meta))


def _repeated(name: str, total: int, do: Callable[[], Any]) -> Row:
  samples = Samples(total)
  for count in range(1, total + 1):
    do()
    samples.after(count)
  return samples.row(name, total)


def _config(steps: int) -> ml_collections.ConfigDict:
  config = configs.named('demo')
  config.image_size = 16
  config.model.name, config.model.width = 'resattention', 8
  config.data.train, config.data.validation, config.data.test = 'train[:96]', 'validation[:40]', 'test[:52]'
  config.train.batch_size = config.evaluate.batch_size = 32
  config.train.epochs = steps / 3  # of three steps
  config.train.log_every = 100
  config.evaluate.every = config.train.checkpoint_every = max(steps // 20, 1)
  config.evaluate.subsets = 'RGB;R'
  return config


if __name__ == '__main__':
  try:
    main()
  except flaxnets.InputError as error:
    sys.exit(f'benchmarks.resources: {error}')
