"""The time to evaluate subsets of channels in one pass over image files: a part of benchmarks/subsets.py."""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measure, photos
from benchmarks.children import Child
from benchmarks.measure import Row, Timing
from benchmarks.subset_networks import CLASSES, channel_set, evaluator_of, forward_passes, network, variables_of
from flaxnets.data import batches
from flaxnets.data.open import open_source
from flaxnets.data.source import DataOptions
from flaxnets.runtime import devices


def evaluation(args: argparse.Namespace) -> list[Row]:
  """Images per second of the evaluator, beside the sum of the forward passes alone."""
  with tempfile.TemporaryDirectory(prefix='flaxnets-benchmark-') as place, Child(serve, args) as child:
    photos.write(Path(place), args.images, args.size, args.size)
    timings: dict[str, Timing] = child.ask(place)
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


def serve(args: argparse.Namespace) -> Callable[[str], dict[str, Timing]]:
  """For a child process: a function of the folder of the image files."""
  devices.start([args.batch_size])
  return lambda root: _timings(args, root)


def _timings(args: argparse.Namespace, root: str) -> dict[str, Timing]:
  channels, mesh = channel_set(3), devices.data_mesh()
  subsets = channels.subsets(args.subsets)
  model = network(args, channels)
  variables = jax.device_put(variables_of(model, args.image_size), devices.replicated(mesh))
  evaluator, masked = (evaluator_of(args, model, subsets, shared) for shared in (False, True))
  source = open_source(DataOptions('lists', root, canvas=round(1.5 * args.image_size)), 'train.txt', CLASSES)
  shape = (args.batch_size, args.image_size, args.image_size, len(channels))
  images = jax.device_put(np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32), devices.sharded(mesh))
  forwards = forward_passes(model, subsets, images, variables)

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
