"""The networks that are run on subsets of their channels, and their evaluator, for benchmarks/subsets.py."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import linen as nn

from benchmarks import photos
from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.channels import ChannelSet, Subset
from flaxnets.evaluation.evaluator import Evaluator
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime import devices

CLASSES = tuple(f'class{number}' for number in range(photos.CLASSES))


def channel_set(count: int) -> ChannelSet:
  return ChannelSet.of('RGB') if count == 3 else ChannelSet(tuple(f'B{number:02d}' for number in range(1, count + 1)))


def config_of(args: argparse.Namespace) -> ml_collections.ConfigDict:
  config = configs.default()
  config.image_size, config.evaluate.batch_size = args.image_size, args.batch_size
  config.model.name, config.model.width, config.model.small_images = args.model, args.width, args.small_images
  return config


def network(args: argparse.Namespace, channels: ChannelSet) -> nn.Module:
  return experiment.build_network(config_of(args), channels, len(CLASSES))


def variables_of(model: nn.Module, image_size: int) -> dict[str, Any]:
  """Initial weights, and statistics of highly correlated channels."""
  count = model.num_channels
  images = np.zeros((1, image_size, image_size, count), np.float32)
  correlation = np.full((count, count), 0.8, np.float32) + 0.2 * np.eye(count, dtype=np.float32)
  return put_statistics(
    jax.jit(model.init)(jax.random.key(0), images),
    {'mean': np.full(count, 120, np.float32), 'std': np.full(count, 55, np.float32), 'correlation': correlation},
  )


def forward_passes(
  model: nn.Module, subsets: Sequence[Subset], images: jax.Array, variables: Any
) -> dict[Subset, Callable[[], jax.Array]]:
  """The network on each subset of the images, as compiled functions; their inputs are sliced beforehand."""

  def apply(variables, images, subset):
    return model.apply(variables, images, subset=subset)

  compiled = jax.jit(apply, static_argnames='subset')
  cut = {subset: jax.block_until_ready(images[..., np.array(subset)]) for subset in subsets}
  return {subset: functools.partial(compiled, variables, cut[subset], subset=subset) for subset in subsets}


def evaluator_of(args: argparse.Namespace, model: nn.Module, subsets: Sequence[Subset], shared: bool) -> Evaluator:
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
