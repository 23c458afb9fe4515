"""Prints what a network costs for each subset: parameters, MACs (the paper's count) and FLOPs (XLA's count).

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
  absl_flags.DEFINE_string('model', 'resnet18', 'resnet18, resnet34, resnet50 or resattention', **values)
  absl_flags.DEFINE_string('stem', 'dynamic', 'dynamic or conv', **values)
  absl_flags.DEFINE_string(
    'completion', '', 'dynamic: none, scale, linear (the default); conv: mean (the default), black, gray', **values
  )
  absl_flags.DEFINE_string('mask', 'spatial', 'of resattention: spatial, self_attention or squeeze_excite', **values)
  absl_flags.DEFINE_integer('width', 64, 'features of the first convolution', **values)
  absl_flags.DEFINE_bool('small_images', False, '3 x 3 stem of stride 1 without pooling', **values)
  absl_flags.DEFINE_integer('image_size', 96, "side of the network's input in pixels", lower_bound=1, **values)
  absl_flags.DEFINE_integer('num_classes', 50, 'classes', lower_bound=1, **values)
  absl_flags.DEFINE_string('channels', 'RGB', "'RGB' or 'B02,B03,B08'", **values)
  absl_flags.DEFINE_string('subsets', 'all', "'all', 'RG', 'singles', 'size>=2', 'sample:64'", **values)
  absl_flags.DEFINE_bool('json', False, 'print a list of objects and nothing else', **values)


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
  """Rows of 'channels' and counts, as text in columns."""
  keys = ('params', 'macs', 'mixing_macs', 'flops')
  header = ['channels', 'parameters', 'MACs', 'mixing MACs', 'FLOPs (XLA)']
  return columns([header, *([row['channels'], *(f'{row[key]:,}' for key in keys)] for row in rows)])
