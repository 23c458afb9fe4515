"""Prints the cost of a network for each subset: parameters, MACs (counted as in the paper) and FLOPs (as XLA counts).

flaxnets cost --model=resnet18 --image_size=96 --num_classes=50 --subsets=all [--json]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from flaxnets.analysis.text import columns
from flaxnets.channels import ChannelSet
from flaxnets.cli import flags as cli_flags

ARGUMENTS = ''


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.string('model', 'resnet18', 'architecture: resnet18, resnet34, resnet50 or resattention')
  add.string('stem', 'dynamic', 'first layer: dynamic or conv')
  add.string(
    'completion',
    '',
    'how absent channels are treated; dynamic: none, scale, linear (default) or unit; '
    'conv: mean (default), black or gray',
  )
  add.string('mask', 'spatial', 'mask branch of resattention: spatial, self_attention or squeeze_excite')
  add.integer('width', 64, 'features of the first convolution')
  add.boolean('small_images', False, 'use a 3 x 3 stem with stride 1 and no pooling')
  add.integer('image_size', 96, "side of the network's input in pixels", lower_bound=1)
  add.integer('num_classes', 50, 'number of classes', lower_bound=1)
  add.string('channels', 'RGB', "channel names, such as 'RGB' or 'B02,B03,B08'")
  add.string(
    'subsets',
    'all',
    "subsets separated by ';': 'all', 'full', 'singles', 'pairs', 'RG', 'B02,B03', 'size>=2', 'sample:64'",
  )
  add.boolean('json', False, 'print a JSON list with one object per subset')


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  del arguments
  from flaxnets import models
  from flaxnets.models import cost

  channels = ChannelSet.of(flags.channels)
  model = models.build(
    flags.model,
    num_channels=len(channels),
    num_classes=flags.num_classes,
    stem=flags.stem,
    width=flags.width,
    completion=flags.completion or ('linear' if flags.stem == 'dynamic' else 'mean'),
    mask=flags.mask,
    small_images=flags.small_images,
  )
  counts = cost.of_subsets(model, channels.subsets(flags.subsets), flags.image_size)
  rows = [{'channels': channels.label(subset), **counted} for subset, counted in counts.items()]
  print(json.dumps(rows, indent=1) if flags.json else table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A text table of rows with 'channels' and counts."""
  keys = ('params', 'macs', 'mixing_macs', 'flops')
  header = ['channels', 'parameters', 'MACs', 'mixing MACs', 'FLOPs (XLA)']
  return columns([header, *([row['channels'], *(f'{row[key]:,}' for key in keys)] for row in rows)])
