"""The bytes that a training step sums over devices, beside the size of the parameters.

python -m benchmarks.communication [--models=resnet18,resattention] [--devices=8]

Read from the compiled program, for simulated devices: what XLA's partitioner puts on the wire does not depend on the
kind of device, except that compilers for GPUs and TPUs may join or split the sums.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import measure
from benchmarks.measure import Row
from flaxnets import config as configs
from flaxnets import experiment, models
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.models import cost
from flaxnets.runtime import devices
from flaxnets.training.step import initial_state, make_train_step

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'f64': 8}
RGB = ChannelSet.of('RGB')


def collectives(program: str) -> dict[str, int]:
  """Bytes of the results of each kind of collective operation in a compiled program's text (HLO)."""
  moved = dict.fromkeys(COLLECTIVES, 0)
  for line in program.splitlines():
    found = re.match(rf'\s*(?:ROOT )?%?[\w.-]+ = (.+?) ({"|".join(COLLECTIVES)})(?:-start)?\(', line)
    if found:
      for dtype, shape in re.findall(r'(\w+)\[([\d,]*)\]', found[1]):
        moved[found[2]] += _BYTES[dtype] * math.prod(map(int, filter(None, shape.split(','))))
  return moved


def compiled_step(config: Any, mesh: jax.sharding.Mesh) -> tuple[str, int]:
  """The text of the compiled training step of a config's network, and the bytes of its parameters."""
  model = experiment.build_network(config, RGB, 50)
  optimizer = optax.sgd(0.1, momentum=0.9)
  state = jax.eval_shape(
    lambda v: initial_state(v, optimizer, ema=False), cost.initial_shapes(model, config.image_size)
  )
  canvas = (config.image_size * 3 // 2,) * 2
  statistics = {'mean': np.full(3, 120, np.float32), 'std': np.full(3, 60, np.float32)}
  view = experiment.training_view_of(config, (0, 1, 2), canvas, statistics)
  step = make_train_step(model, optimizer, optax.constant_schedule(0.1), mesh, view, masked=True)
  size = config.train.batch_size
  batch = {
    'image': jax.ShapeDtypeStruct((size, *canvas, 3), np.uint8),
    'size': jax.ShapeDtypeStruct((size, 2), np.int32),
    'present': jax.ShapeDtypeStruct((size, 3), bool),
    'skipped': jax.ShapeDtypeStruct((size,), bool),
    'label': jax.ShapeDtypeStruct((size,), np.int32),
  }
  parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
  return step.lower(state, batch).compile().as_text(), parameters


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Prints, writes and returns a row per network."""
  args = _parser().parse_args(argv)
  found = jax.devices()[: args.devices]
  if len(found) < args.devices:
    raise InputError(f'--devices={args.devices}, but there are {len(found)}')
  rows = []
  for name in args.models:
    config = configs.default()
    config.update_from_flattened_dict(
      {
        'model.name': name,
        'model.width': args.width,
        'image_size': args.image_size,
        'train.batch_size': args.devices * 2,
      }
    )
    text, parameters = compiled_step(config, devices.data_mesh(found))
    moved = collectives(text)
    total = sum(moved.values())
    rows.append(
      Row(
        f'communication/{name}',
        total / 1e6,
        'MB',
        total / parameters,
        'parameters',
        {**moved, 'parameters': parameters},
      )
    )
  measure.finish(rows, args.json)
  return rows


def _parser() -> argparse.ArgumentParser:
  parser = measure.parser('communication', 'Bytes that a training step sums over devices.', repeats=None, seconds=None)
  parser.add_argument(
    '--models', type=measure.listed(allowed=tuple(models.MODELS)), default=['resnet18', 'resattention']
  )
  parser.add_argument('--devices', type=measure.positive, default=8, help='simulated on a CPU')
  parser.add_argument('--width', type=measure.positive, default=64, help='features of the first convolution')
  parser.add_argument('--image_size', type=measure.positive, default=96, help='pixels')
  return parser


if __name__ == '__main__':
  jax.config.update('jax_num_cpu_devices', _parser().parse_args().devices)  # before JAX starts; afterwards it refuses
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.communication: {error}')
