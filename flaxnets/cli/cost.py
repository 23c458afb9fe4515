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

ARGUMENTS = ''


def define(flags: absl_flags.FlagValues) -> None:
  values = {'flag_values': flags}
  absl_flags.DEFINE_string('model', 'resnet18', 'architecture: resnet18, resnet34, resnet50 or resattention', **values)
  absl_flags.DEFINE_string('stem', 'dynamic', 'first layer: dynamic or conv', **values)
  absl_flags.DEFINE_string(
    'completion',
    '',
    'how absent channels are treated; dynamic: none, scale, linear (default) or unit; '
    'conv: mean (default), black or gray',
    **values,
  )
  absl_flags.DEFINE_string(
    'mask', 'spatial', 'mask branch of resattention: spatial, self_attention or squeeze_excite', **values
  )
  absl_flags.DEFINE_integer('width', 64, 'features of the first convolution', **values)
  absl_flags.DEFINE_bool('small_images', False, 'use a 3 x 3 stem with stride 1 and no pooling', **values)
  absl_flags.DEFINE_integer('image_size', 96, "side of the network's input in pixels", lower_bound=1, **values)
  absl_flags.DEFINE_integer('num_classes', 50, 'number of classes', lower_bound=1, **values)
  absl_flags.DEFINE_string('channels', 'RGB', "channel names, such as 'RGB' or 'B02,B03,B08'", **values)
  absl_flags.DEFINE_string(
    'subsets',
    'all',
    "subsets separated by ';': 'all', 'full', 'singles', 'pairs', 'RG', 'B02,B03', 'size>=2', 'sample:64'",
    **values,
  )
  absl_flags.DEFINE_bool('json', False, 'print a JSON list with one object per subset', **values)


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
