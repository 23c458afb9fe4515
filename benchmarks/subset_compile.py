"""The time that subsets of channels cost to compile: parts of benchmarks/subsets.py."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.children import Child
from benchmarks.measure import Row
from benchmarks.subset_networks import CLASSES, channel_set, config_of, evaluator_of, network, variables_of
from flaxnets.channels import ChannelSet
from flaxnets.data import batches
from flaxnets.data.source import ArraySource
from flaxnets.runtime import devices

CACHE = {'without': '', 'filling': 'cache', 'with': 'cache'}  # how the cache is used: its folder


def compilation(args: argparse.Namespace) -> list[Row]:
  """Compile time in fresh processes, without and with the cache, and of the function that all subsets share."""
  found: dict[str, list[dict[str, float]]] = {way: [] for way in (*CACHE, 'shared, without')}
  for _ in range(args.starts):
    with tempfile.TemporaryDirectory(prefix='flaxnets-benchmark-') as place:
      for way, folder in CACHE.items():
        found[way].append(_fresh(args, Path(place, folder) if folder else None, 'compile', 3, args.subsets))
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


def growth(args: argparse.Namespace) -> list[Row]:
  """Compile time, and that of all that `flaxnets eval` does, for several numbers of channels."""
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


def serve(args: argparse.Namespace) -> Callable[..., Any]:
  """For a child process: a function of 'compile' or 'report' and its arguments."""
  devices.start([args.batch_size])
  return lambda what, *rest: {'compile': _compile, 'report': _report}[what](args, *rest)


def _compile(args: argparse.Namespace, count: int, text: str, shared: bool = False) -> dict[str, float]:
  """Seconds to 'initialise' a network, to 'compile' its evaluation on some subsets, and to 'run' that on a batch."""
  return _compiled(args, channel_set(count), text, shared)[0]


def _compiled(
  args: argparse.Namespace, channels: ChannelSet, text: str, shared: bool = False
) -> tuple[dict[str, float], Any]:
  """The seconds of `_compile`, and the network's variables."""
  begin = time.perf_counter()
  model = network(args, channels)
  variables = jax.device_put(variables_of(model, args.image_size), devices.replicated(devices.data_mesh()))
  initialise = time.perf_counter() - begin
  evaluator = evaluator_of(args, model, channels.subsets(text), shared)
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
