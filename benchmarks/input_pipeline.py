"""Images per second from files to batches on the devices, beside a PyTorch DataLoader; and training from files
against its step alone.

    python -m benchmarks.input_pipeline [--sizes=84,224,500x375] [--cores=1,2] [--root=DIR] [--json=FILE]

Every contender runs in a separate process that is limited to a number of cores, and the contenders take turns. Ours
delivers canvases, read by 'threads' or by 'workers'. With '+warp' it delivers the normalised crops that the network
sees. The peer (see `torch_pipeline`) delivers such crops, so '+warp' is the fair comparison without an accelerator that
does the warp.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks import measure, photos
from benchmarks.children import Child, in_turns, pace
from benchmarks.measure import Row, Timing
from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.data import batches, imagenet_mini
from flaxnets.errors import InputError
from flaxnets.runtime import devices, machine

MODES = ('threads', 'threads+warp', 'workers', 'workers+warp')
MEAN, STD = np.float32([124, 116, 104]), np.float32([58, 57, 57])
# Batches that may be buffered in the reader and on the device; they must not count as made while the clock ran.
AHEAD = 2 + 2 + 1


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Runs the parts that the flags select, prints and writes the rows, and returns them."""
  args = _parser().parse_args(argv)
  cores = args.cores or [count for count in (1, 2) if count <= machine.cores()]
  if max(cores) > machine.cores():
    raise InputError(f'--cores={max(cores)}, but this process may use {machine.cores()} cores')
  rows = []
  with tempfile.TemporaryDirectory(prefix='flaxnets-benchmark-') as place:
    if 'files' in args.parts:
      rows += read_files(args, cores, Path(place))
    if 'training' in args.parts:
      rows += train_end_to_end(args, Path(place, 'training'))
  measure.finish(rows, args.json, (*measure.DISTRIBUTIONS, 'grain', 'simplejpeg', 'opencv-python-headless', 'pillow'))
  return rows


def _parser() -> argparse.ArgumentParser:
  parser = measure.parser(
    'input_pipeline', 'Speed of the input pipeline, from image files to the devices.', seconds=1.0
  )
  parser.add_argument('--parts', type=measure.listed(allowed=('files', 'training')), default=['files', 'training'])
  parser.add_argument(
    '--sizes',
    type=measure.listed(),
    default=['84', '224', '500x375'],
    help='width x height of the synthetic JPEGs, pixels',
  )
  parser.add_argument('--root', default='', help='folder of real images with a train.txt; replaces --sizes')
  parser.add_argument('--images', type=int, default=256, help='number of JPEGs of each size')
  parser.add_argument('--cores', type=measure.listed(int), default=None, help='default: 1,2')
  parser.add_argument('--modes', type=measure.listed(allowed=MODES), default=list(MODES[:3]), help=','.join(MODES))
  parser.add_argument(
    '--readers', type=int, default=0, help='our reader threads or worker processes; 0 for one per core'
  )
  parser.add_argument('--no_array_record', dest='array_record', action='store_false', help='skip the array_record case')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--image_size', type=int, default=96, help="side of the network's input, pixels")
  parser.add_argument('--canvas', type=int, default=128, help='side of the canvas, pixels')
  parser.add_argument('--model', default='resnet18', help='the network to train')
  parser.add_argument('--width', type=int, default=64, help='its width')
  parser.add_argument('--train_size', default='500x375', help='width x height of the JPEGs to train on, pixels')
  parser.add_argument('--epoch', type=int, default=60, help='steps during which memory is recorded')
  return parser


def _config(args: argparse.Namespace, root: str, source: str = 'lists') -> ml_collections.ConfigDict:
  """The default recipe on the given images, without channel sampling, which the peer does not do."""
  config = configs.default()
  config.image_size, config.data.canvas = args.image_size, args.canvas
  config.data.source, config.data.root, config.data.name = source, root, f'imagenet_mini/canvas{args.canvas}'
  config.data.train = config.data.validation = 'train.txt'
  config.data.statistics_examples = 64
  config.model.name, config.model.width = args.model, args.width
  config.presence.mode = 'none'
  config.train.batch_size = config.evaluate.batch_size = args.batch_size
  config.evaluate.subsets = 'full'
  return config


def read_files(args: argparse.Namespace, cores: Sequence[int], place: Path) -> list[Row]:
  """Rows for every image case, number of cores and reading mode."""
  cases = (
    {args.root: (args.root, 'lists')}
    if args.root
    else {f'{size}px': (str(photos.write_sized(place / size, args.images, size)), 'lists') for size in args.sizes}
  )
  if args.array_record:
    files = str(photos.write_sized(place / 'small', args.images, str(args.canvas)))
    imagenet_mini.prepare(files, str(place / 'prepared'), canvas=args.canvas)
    cases['array_record'] = str(place / 'prepared'), 'tfds'
  rows = []
  with contextlib.ExitStack() as stack:
    ours = {count: stack.enter_context(Child(serve_ours, args, cores=count)) for count in cores}
    theirs = {}
    if importlib.util.find_spec('torch'):
      theirs = {count: stack.enter_context(Child(serve_peer, args, cores=count)) for count in cores}
    else:
      print('PyTorch is not installed: the peer is missing, and rows have no ratio to it')
    for case, (root, source) in cases.items():
      contenders: dict[tuple[int, str], Callable[[], float]] = {}
      for count in cores:
        for mode in args.modes:
          contenders[count, mode] = functools.partial(ours[count].ask, root, source, mode, args.seconds)
        # On a single core a worker competes with its parent process, so the peer also runs without workers.
        for workers in ({count, 0} if count == 1 else {count}) if theirs and source == 'lists' else ():
          contenders[count, _peer(workers)] = functools.partial(theirs[count].ask, root, workers, args.seconds)
      timings = in_turns(contenders, args.repeats)
      details = {
        'batch_size': args.batch_size,
        'image_size': args.image_size,
        'canvas': args.canvas,
        'file_bytes': photos.mean_bytes(root) if source == 'lists' else args.canvas**2 * 3,
      }
      rows += _rows(case, timings, args, details)
  return rows


def _peer(workers: int) -> str:
  return f'DataLoader of {workers} workers' if workers else 'DataLoader without workers'


def _rows(
  case: str, timings: Mapping[tuple[int, str], Timing], args: argparse.Namespace, details: Mapping[str, Any]
) -> list[Row]:
  rows = []
  for (cores, mode), timing in timings.items():
    peers = {name: other for (count, name), other in timings.items() if count == cores and name not in MODES}
    best = min(peers, key=lambda name: peers[name].median, default=None)
    rows.append(
      Row(
        f'input/{case}/{cores}core{"s" * (cores > 1)}/{mode}',
        timing.rate(args.batch_size),
        'images/s',
        peers[best].median / timing.median if best and mode in MODES else None,
        best if mode in MODES else None,
        {**details, **timing.spread(args.batch_size), 'cores': cores, 'per_core': timing.rate(args.batch_size) / cores},
      )
    )
  return rows


def serve_peer(args: argparse.Namespace) -> Callable[[str, int, float], float]:
  """For a child process; see `torch_pipeline.serve`. Only that process loads PyTorch."""
  from benchmarks import torch_pipeline

  return torch_pipeline.serve(args.batch_size, args.image_size, configs.default().augment.to_dict())


def serve_ours(args: argparse.Namespace) -> Callable[[str, str, str, float], float]:
  """For a child process: a function of (root, source, mode, seconds) that returns seconds per batch."""
  devices.start([args.batch_size])
  mesh = devices.data_mesh()
  readers = args.readers or machine.cores()
  config = _config(args, '')
  devices.check_batch(args.batch_size, mesh, '--batch_size')

  @functools.partial(jax.jit, in_shardings=(devices.replicated(mesh), devices.sharded(mesh)))
  def view(step: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    statistics = {'mean': MEAN, 'std': STD}
    seen = experiment.training_view_of(config, (0, 1, 2), batch['image'].shape[1:3], statistics)(step, batch)[0]
    return (seen - MEAN) / STD

  @functools.cache
  def opened(root: str, kind: str):
    return experiment.open_source(_config(args, root, kind), 'train')

  def run(root: str, kind: str, mode: str, seconds: float) -> float:
    how, _, warped = mode.partition('+')
    stream = batches.train_batches(
      opened(root, kind),
      batch_size=args.batch_size,
      seed=0,
      threads=readers if how == 'threads' else 0,
      workers=readers if how == 'workers' else 0,
    )
    with contextlib.closing(stream):
      feed: Iterator[Any] = devices.to_devices(_taken(stream), mesh)
      if warped:
        feed = (view(np.int32(step), batch) for step, batch in enumerate(feed))
      return pace(feed, jax.block_until_ready, warm=readers + AHEAD, seconds=seconds)

  return run


def _taken(stream: Iterator[batches.Batch]) -> Iterator[batches.Batch]:
  """The fields of each batch that training uses."""
  return ({key: batch[key] for key in ('image', 'size', 'label', 'present', 'skipped')} for batch in stream)


def train_end_to_end(args: argparse.Namespace, place: Path) -> list[Row]:
  """Rows for the step on a resident batch, for training from files, and for host memory during training."""
  root = args.root or str(photos.write_sized(place / 'photos', args.images, args.train_size))
  with Child(serve_training, args, root, str(place / 'run')) as child:
    timings = in_turns(
      {name: functools.partial(child.ask, name, args.seconds) for name in ('step', 'files')}, args.repeats
    )
    memory = child.ask('memory', args.epoch)
  name, details = f'{args.model}/train', {'batch_size': args.batch_size, 'image_size': args.image_size}
  step, files = timings['step'], timings['files']
  rows = [
    Row(f'{name}/step alone', step.rate(args.batch_size), 'images/s', details=details | step.spread(args.batch_size)),
    Row(
      f'{name}/from files',
      files.rate(args.batch_size),
      'images/s',
      step.median / files.median,
      'the step alone',
      details | files.spread(args.batch_size) | {'file_bytes': photos.mean_bytes(root)},
    ),
  ]
  # One sample may or may not include the short-lived memory of a step: each row is the median of a tenth of them.
  tenth = max(len(memory) // 10, 1)
  middle = (len(memory) - tenth) // 2
  for when, start in (('start', 0), ('middle', middle), ('end', len(memory) - tenth)):
    held = statistics.median(memory[start : start + tenth])
    rows.append(
      Row(
        f'{name}/host memory/{when}',
        held,
        'MiB',
        details={'steps': args.epoch, 'most': max(memory), 'every_step': memory},
      )
    )
  return rows


def serve_training(args: argparse.Namespace, root: str, workdir: str) -> Callable[[str, float], Any]:
  """For a child process: a training loop without logging, validation or checkpoints; see `answer`."""
  from flaxnets.training.setup import prepare

  devices.start([args.batch_size])
  run = prepare(_config(args, root), workdir)
  state, (step,) = run.state, run.steps_after(0)  # one, as all images have one size
  readers = args.readers or machine.cores()

  def batches_on_devices() -> Iterator[dict[str, jax.Array]]:
    start = int(state.step)
    with contextlib.closing(
      batches.train_batches(run.data.train, batch_size=args.batch_size, seed=0, start=start, threads=readers)
    ) as stream:
      yield from devices.to_devices(_taken(stream), run.mesh)

  def steps(on: Iterator[Mapping[str, jax.Array]]) -> Iterator[Mapping[str, jax.Array]]:
    nonlocal state
    for batch in on:
      state, metrics = step(state, batch)
      yield metrics

  with contextlib.closing(batches_on_devices()) as feed:
    resident = next(feed)

  def answer(what: str, amount: float) -> Any:
    """Seconds per step for 'step' (one batch) and 'files', over `amount` seconds; for 'memory', MiB after each step."""
    if what == 'step':
      return pace(steps(iter(lambda: resident, None)), jax.block_until_ready, warm=1, seconds=amount)
    with contextlib.closing(batches_on_devices()) as feed:
      if what == 'files':
        return pace(steps(feed), jax.block_until_ready, warm=readers + AHEAD, seconds=amount)
      memory = []
      for _, metrics in zip(range(int(amount)), steps(feed), strict=False):
        jax.block_until_ready(metrics)
        memory.append(resident_memory())
      return memory

  return answer


def resident_memory() -> float:
  """Resident memory of this process in MiB."""
  return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.input_pipeline: {error}')
