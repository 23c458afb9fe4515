"""The time that a network takes on a subset of channels, relative to its MACs: a part of benchmarks/subsets.py."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.children import Child
from benchmarks.measure import Row, Timing
from benchmarks.subset_networks import channel_set, forward_passes, network, variables_of
from flaxnets.channels import Subset
from flaxnets.models import cost
from flaxnets.runtime import devices


def speed(args: argparse.Namespace) -> list[Row]:
  """Latency of one image, throughput of a batch and MACs, for every subset."""
  channels = channel_set(3)
  with Child(serve, args) as child:
    timings: dict[tuple[Subset, int], Timing] = child.ask()
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


def serve(args: argparse.Namespace) -> Callable[[], dict[tuple[Subset, int], Timing]]:
  """For a child process: a function that times all subsets."""
  devices.start([args.batch_size])
  return lambda: _timings(args)


def _timings(args: argparse.Namespace) -> dict[tuple[Subset, int], Timing]:
  channels, mesh = channel_set(3), devices.data_mesh()
  model = network(args, channels)
  contenders: dict[tuple[Subset, int], Callable[[int], Any]] = {}
  for size, on in ((1, devices.data_mesh(jax.devices()[:1])), (args.batch_size, mesh)):
    variables = jax.device_put(variables_of(model, args.image_size), devices.replicated(on))
    shape = (size, args.image_size, args.image_size, len(channels))
    images = jax.device_put(np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32), devices.sharded(on))
    for subset, forward in forward_passes(model, channels.subsets(args.subsets), images, variables).items():
      contenders[subset, size] = functools.partial(_repeat, forward)
  return measure.interleaved(contenders, args.repeats, seconds=args.seconds)


def _repeat(run: Callable[[], Any], times: int) -> None:
  for _ in range(times):
    jax.block_until_ready(run())
