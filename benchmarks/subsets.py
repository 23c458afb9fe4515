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
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import linen as nn

from benchmarks import measure, photos
from benchmarks.children import Child
from benchmarks.measure import Row, Timing
from flaxnets import config as configs
from flaxnets import experiment, models
from flaxnets.channels import ChannelSet, Subset
from flaxnets.data import batches
from flaxnets.data.open import open_source
from flaxnets.data.source import ArraySource, DataOptions
from flaxnets.errors import InputError
from flaxnets.evaluation.evaluator import Evaluator
from flaxnets.models import cost
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime import devices

PARTS = ('speed', 'compile', 'growth', 'evaluation')
CLASSES = tuple(f'class{number}' for number in range(photos.CLASSES))
# 'sample:7' is all subsets of 3 channels, and equally many of more channels, so only the channels differ. 'singles' are
# more with more channels.
GROWTH = ('sample:7', 'singles')
CACHE = {'without': '', 'filling': 'cache', 'with': 'cache'}  # how the cache is used: its folder


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Runs the parts that the flags select, prints and writes the rows, and returns them."""
  args = _parser().parse_args(argv)
  rows = []
  with tempfile.TemporaryDirectory(prefix='flaxnets-benchmark-') as place:
    for part in args.parts:
      rows += {'speed': speed, 'compile': compilation, 'growth': growth, 'evaluation': evaluation}[part](
        args, Path(place, part)
      )
  measure.finish(rows, args.json)
  return rows


def _parser() -> argparse.ArgumentParser:
  parser = measure.parser('subsets', 'The time that subsets of channels cost.')
  parser.add_argument('--parts', type=measure.listed(allowed=PARTS), default=list(PARTS), help=','.join(PARTS))
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


def speed(args: argparse.Namespace, place: Path) -> list[Row]:
  channels = channel_set(3)
  with Child(serve, args) as child:
    timings: dict[tuple[Subset, int], Timing] = child.ask('speed')
  model = network(args, channels)
  counted = {subset: cost.macs(model, subset, args.image_size) for subset, _ in timings}
  rows, first = [], next(iter(counted))
  for (subset, size), timing in timings.items():
    name = f'subsets/{args.model}/{channels.label(subset)}'
    details = counted[subset] | {
      'batch_size': size,
      'image_size': args.image_size,
      'macs_ratio': counted[first]['macs'] / counted[subset]['macs'],
    }
    value = (1000 * timing.median, 'ms') if size == 1 else (timing.rate(size), 'images/s')
    spread = (
      {key: 1000 / rate for key, rate in timing.spread().items() if key != 'turns'}
      if size == 1
      else (timing.spread(size))
    )
    rows.append(
      Row(
        f'{name}/{"latency" if size == 1 else "throughput"}',
        *value,
        timings[first, size].median / timing.median,
        channels.label(first),
        details | spread,
      )
    )
  for subset, counts in counted.items():
    rows.append(
      Row(
        f'subsets/{args.model}/{channels.label(subset)}/MACs',
        counts['macs'] / 1e6,
        'million',
        counted[first]['macs'] / counts['macs'],
        channels.label(first),
        counts,
      )
    )
  return rows


def compilation(args: argparse.Namespace, place: Path) -> list[Row]:
  found: dict[str, list[dict[str, float]]] = {way: [] for way in (*CACHE, 'shared, without')}
  for start in range(args.starts):
    for way, folder in CACHE.items():
      found[way].append(_fresh(args, place / str(start) / folder if folder else None, 'compile', 3, args.subsets))
    found['shared, without'].append(_fresh(args, None, 'compile', 3, args.subsets, True))
  rows = []
  for way in found:
    seconds = _medians(found[way])
    without = statistics.median(each['compile'] for each in found['without'])
    rows.append(
      Row(
        f'subsets/{args.model}/compile {args.subsets}/{way} cache',
        seconds['compile'],
        's',
        without / seconds['compile'],
        'without cache',
        seconds | {'each': found[way]},
      )
    )
  return rows


def growth(args: argparse.Namespace, place: Path) -> list[Row]:
  rows = []
  found: dict[tuple[str, int], list[dict[str, float]]] = {
    (text, channels): [] for text in args.growth for channels in args.channels
  }
  for _ in range(args.starts):
    for (text, channels), each in found.items():
      each.append(_fresh(args, None, 'report', channels, text))
  for (text, channels), each in found.items():
    seconds, least = _medians(each), _medians(found[text, args.channels[0]])
    for what in ('compile', 'report'):
      rows.append(
        Row(
          f'subsets/{args.model}/{what} {text} of {channels}',
          seconds[what],
          's',
          least[what] / seconds[what],
          f'of {args.channels[0]}',
          seconds | {'each': each, 'subsets': len(channel_set(channels).subsets(text))},
        )
      )
  return rows


def _medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
  return {key: statistics.median(each[key] for each in found) for key in found[0]}


def _fresh(args: argparse.Namespace, cache: Path | None, *question: Any) -> Any:
  """The answer of a fresh process, which has compiled nothing yet."""
  environment = (
    {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    if cache is None
    else {'JAX_ENABLE_COMPILATION_CACHE': 'true', 'JAX_COMPILATION_CACHE_DIR': str(cache)}
  )
  with Child(serve, args, environment=environment) as child:
    return child.ask(*question)


def evaluation(args: argparse.Namespace, place: Path) -> list[Row]:
  photos.write(place, args.images, args.size, args.size)
  with Child(serve, args) as child:
    timings: dict[str, Timing] = child.ask('evaluation', str(place))
  forward = timings['forward passes alone']
  details = {'images': args.images, 'batch_size': args.batch_size, 'image_size': args.image_size}
  return [
    Row(
      f'subsets/{args.model}/evaluate {args.subsets}/{name}',
      args.images / timing.median,
      'images/s',
      forward.median / timing.median,
      'forward passes alone',
      details | timing.spread(args.images),
    )
    for name, timing in timings.items()
  ]


def channel_set(count: int) -> ChannelSet:
  return ChannelSet.of('RGB') if count == 3 else ChannelSet(tuple(f'B{number:02d}' for number in range(1, count + 1)))


def config_of(args: argparse.Namespace) -> ml_collections.ConfigDict:
  config = configs.default()
  config.image_size, config.evaluate.batch_size = args.image_size, args.batch_size
  config.model.name, config.model.width, config.model.small_images = args.model, args.width, args.small_images
  return config


def network(args: argparse.Namespace, channels: ChannelSet) -> nn.Module:
  return experiment.build_network(config_of(args), channels, len(CLASSES))


def serve(args: argparse.Namespace) -> Callable[..., Any]:
  """For a child process: a function of the name of a part and its arguments."""
  devices.start([args.batch_size])
  return lambda what, *rest: {'speed': _speed, 'compile': _compile, 'report': _report, 'evaluation': _evaluation}[what](
    args, *rest
  )


def _variables(model: nn.Module, image_size: int) -> dict[str, Any]:
  """Initial weights, and statistics of highly correlated channels."""
  count = model.num_channels
  images = np.zeros((1, image_size, image_size, count), np.float32)
  correlation = np.full((count, count), 0.8, np.float32) + 0.2 * np.eye(count, dtype=np.float32)
  return put_statistics(
    jax.jit(model.init)(jax.random.key(0), images),
    {'mean': np.full(count, 120, np.float32), 'std': np.full(count, 55, np.float32), 'correlation': correlation},
  )


def _forward_passes(
  model: nn.Module, subsets: Sequence[Subset], images: jax.Array, variables: Any
) -> dict[Subset, Callable[[], jax.Array]]:
  """The network on each subset of the images, as compiled functions; their inputs are sliced beforehand."""

  def apply(variables, images, subset):
    return model.apply(variables, images, subset=subset)

  compiled = jax.jit(apply, static_argnames='subset')
  cut = {subset: jax.block_until_ready(images[..., np.array(subset)]) for subset in subsets}
  return {subset: functools.partial(compiled, variables, cut[subset], subset=subset) for subset in subsets}


def _speed(args: argparse.Namespace) -> dict[tuple[Subset, int], Timing]:
  channels, mesh = channel_set(3), devices.data_mesh()
  model = network(args, channels)
  contenders: dict[tuple[Subset, int], Callable[[int], Any]] = {}
  for size, on in ((1, devices.data_mesh(jax.devices()[:1])), (args.batch_size, mesh)):
    variables = jax.device_put(_variables(model, args.image_size), devices.replicated(on))
    shape = (size, args.image_size, args.image_size, len(channels))
    images = jax.device_put(np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32), devices.sharded(on))
    for subset, forward in _forward_passes(model, channels.subsets(args.subsets), images, variables).items():
      contenders[subset, size] = functools.partial(_repeat, forward)
  return measure.interleaved(contenders, args.repeats, seconds=args.seconds)


def _repeat(run: Callable[[], Any], times: int) -> None:
  for _ in range(times):
    jax.block_until_ready(run())


def _evaluator(args: argparse.Namespace, model: nn.Module, subsets: Sequence[Subset], shared: bool) -> Evaluator:
  return Evaluator(
    model,
    subsets,
    source_index=range(model.num_channels),
    image_size=args.image_size,
    resize=1.0,
    fill=np.full(model.num_channels, 120, np.float32),
    has_missing_channels=shared,  # such examples are what makes the evaluator take one function
    mesh=devices.data_mesh(),
  )


def _compile(args: argparse.Namespace, count: int, text: str, shared: bool = False) -> dict[str, float]:
  """Seconds to 'initialise' a network, to 'compile' its evaluation on some subsets, and to 'run' that on a batch."""
  return _compiled(args, channel_set(count), text, shared)[0]


def _compiled(
  args: argparse.Namespace, channels: ChannelSet, text: str, shared: bool = False
) -> tuple[dict[str, float], Any]:
  """The seconds of `_compile`, and the network's variables."""
  begin = time.perf_counter()
  model = network(args, channels)
  variables = jax.device_put(_variables(model, args.image_size), devices.replicated(devices.data_mesh()))
  initialise = time.perf_counter() - begin
  evaluator = _evaluator(args, model, channels.subsets(text), shared)
  noise = ArraySource('noise', *_noise(args, len(channels), args.batch_size), channels, CLASSES)
  passes = []
  for _ in range(3):
    begin = time.perf_counter()
    evaluator(variables, batches.evaluation_batches(noise, batch_size=args.batch_size))
    passes.append(time.perf_counter() - begin)
  return {'initialise': initialise, 'compile': passes[0] - min(passes), 'run': min(passes)}, variables


def _report(args: argparse.Namespace, count: int, text: str) -> dict[str, float]:
  """The seconds of `_compile`, and those of all that `flaxnets eval` does: compile, evaluate, count costs."""
  from flaxnets.evaluation.judge import evaluate
  from flaxnets.inference.metadata import Metadata
  from flaxnets.inference.network import Network

  channels, config = channel_set(count), config_of(args)
  seconds, variables = _compiled(args, channels, text)
  metadata = Metadata(channels, CLASSES, 'uint8', (0.0,) * count, (255.0,) * count)
  with tempfile.TemporaryDirectory() as place:
    images, labels = _noise(args, count, args.images)
    np.savez(Path(place, 'data.npz'), X_test=images, y_test=labels, bands=channels.names, classes=CLASSES)
    config.data.source, config.data.root, config.data.channels = 'arrays', f'{place}/data.npz', ''
    net = Network(config, metadata, jax.device_get(variables), 0, False)
    begin = time.perf_counter()
    evaluate(net, subsets=text)
    return seconds | {'report': time.perf_counter() - begin}


def _noise(args: argparse.Namespace, channels: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Canvases and labels."""
  side = round(1.5 * args.image_size)
  images = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)
  return images, np.arange(count) % len(CLASSES)


def _evaluation(args: argparse.Namespace, root: str) -> dict[str, Timing]:
  channels, mesh = channel_set(3), devices.data_mesh()
  subsets = channels.subsets(args.subsets)
  model = network(args, channels)
  variables = jax.device_put(_variables(model, args.image_size), devices.replicated(mesh))
  evaluator, masked = (_evaluator(args, model, subsets, shared) for shared in (False, True))
  source = open_source(DataOptions('lists', root, canvas=round(1.5 * args.image_size)), 'train.txt', CLASSES)
  shape = (args.batch_size, args.image_size, args.image_size, len(channels))
  images = jax.device_put(np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32), devices.sharded(mesh))
  forwards = _forward_passes(model, subsets, images, variables)

  def canvases() -> Iterator[batches.Batch]:
    return batches.evaluation_batches(source, batch_size=args.batch_size)

  def each(times: int, run: Callable[[], Any]) -> None:
    for _ in range(times):
      run()

  def alone() -> None:
    outputs = []
    for _ in range(-(-len(source) // args.batch_size)):
      outputs.append([forward() for forward in forwards.values()])
      jax.block_until_ready(outputs[-2:][0])
    jax.block_until_ready(outputs)

  return measure.interleaved(
    {
      'one pass over the files': functools.partial(each, run=lambda: evaluator(variables, canvases())),
      'the same by the shared function': functools.partial(each, run=lambda: masked(variables, canvases())),
      'forward passes alone': functools.partial(each, run=alone),
      'reading alone': functools.partial(each, run=lambda: list(devices.to_devices(canvases(), mesh))),
    },
    args.repeats,
    seconds=args.seconds,
  )


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.subsets: {error}')
