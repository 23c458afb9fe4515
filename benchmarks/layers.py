"""Where the time of a training step goes: each convolution alone, beside PyTorch's, and the rest of the step.

    python -m benchmarks.layers --model=resnet18 [--json=FILE]

Rows: layers/MODEL/INPUTS->FEATURES SIZE at SIDE xCOUNT/PART is in milliseconds for all COUNT such layers. PART is
forward, input gradient or kernel gradient. Further rows are the sums, the complete step, and the rest, which is the
step minus the convolutions. Each convolution is timed as a separate program. In the step, XLA fuses neighbouring
operations, so the rest can be off by what fusion saves or costs. Both sides run in full float32. Ratios are PyTorch's
time (eager, channels-last) over ours. GFLOP/s are nominal and include taps on padding.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from benchmarks import flax_contenders, measure, train_step
from benchmarks.measure import Row, Timing
from flaxnets import config as configs
from flaxnets import experiment, models
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.models import cost
from flaxnets.nn.conv import Conv
from flaxnets.runtime import devices

PARTS = ('forward', 'input gradient', 'kernel gradient')


@dataclasses.dataclass(frozen=True)
class Layer:
  """A convolution with a `size` x `size` kernel on (height, width, inputs) maps."""

  height: int
  width: int
  inputs: int
  features: int
  size: int
  strides: int
  first: bool  # its inputs are images, whose gradient is not needed

  @property
  def name(self) -> str:
    return f'{self.inputs}->{self.features} {self.size}x{self.size}/{self.strides} at {self.height}'

  @property
  def parts(self) -> tuple[str, ...]:
    return tuple(part for part in PARTS if not (self.first and part == 'input gradient'))

  @property
  def macs(self) -> int:
    outputs = -(-self.height // self.strides) * -(-self.width // self.strides)
    return outputs * self.features * self.inputs * self.size**2


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = measure.parser('layers', 'The time of a training step by layer.', seconds=0.1)
  parser.add_argument('--model', default='resnet18', choices=tuple(models.MODELS))
  parser.add_argument('--image_size', type=measure.positive, default=96, help='pixels')
  parser.add_argument('--batch_size', type=measure.positive, default=64)
  parser.add_argument('--width', type=measure.positive, default=64)
  parser.add_argument('--num_classes', type=measure.positive, default=50)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  args = parse(argv)
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # both frameworks share a GPU's memory
  devices.start([args.batch_size])
  measure.finish(benchmark(args), args.json)


def benchmark(args: argparse.Namespace) -> list[Row]:
  """All rows that the command line selects."""
  mesh = devices.data_mesh(jax.devices() if jax.devices()[0].platform == 'cpu' else jax.devices()[:1])
  devices.check_batch(args.batch_size, mesh, '--batch_size')
  peer = train_step.find_peer()
  device = peer and peer.device_for(jax.devices()[0].platform)
  config = configs.default()
  config.image_size, config.train.batch_size, config.presence.mode = args.image_size, args.batch_size, 'none'
  config.model.name, config.model.width, config.model.stem, config.model.completion = (
    args.model,
    args.width,
    'conv',
    'mean',
  )
  model = experiment.build_network(config, ChannelSet.of('RGB'), args.num_classes)
  sides = {'flaxnets': functools.partial(OurConvolution, mesh=mesh)}
  if peer:
    sides['torch'] = functools.partial(peer.Convolution, device=device)
    peer.set_tf32(False)
  with jax.default_matmul_precision('highest'):
    rows = convolutions(args, layers_of(model, args.image_size), sides)
    return rows + rest(args, rows, complete_steps(args, config, model, mesh, peer, device))


def layers_of(model: nn.Module, image_size: int) -> collections.Counter[Layer]:
  """How often each kind of convolution occurs in a network, in order of first occurrence."""
  found: collections.Counter[Layer] = collections.Counter()

  def note(call: Callable[..., Any], args: tuple, kwargs: dict, context: Any) -> Any:
    module = context.module
    if isinstance(module, Conv) and context.method_name == '__call__':
      found[Layer(*args[0].shape[1:], module.features, module.size, module.strides, first=not found)] += 1
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    cost.initial_shapes(model, image_size)
  return found


class OurConvolution:
  """One part of one convolution in float32; called with n, it runs n times."""

  def __init__(self, layer: Layer, part: str, batch_size: int, mesh: Mesh):
    module = Conv(layer.features, layer.size, layer.strides)
    rng = np.random.default_rng(0)
    shape = (batch_size, layer.height, layer.width, layer.inputs)
    x = jax.device_put(rng.standard_normal(shape, np.float32), devices.sharded(mesh))
    params = jax.device_put(module.init(jax.random.key(0), x[:1]), devices.replicated(mesh))
    outputs = jax.jit(module.apply)(params, x)

    def gradient(params, x, cotangent):
      if part == 'input gradient':
        return jax.vjp(lambda x: module.apply(params, x), x)[1](cotangent)[0]
      return jax.vjp(lambda params: module.apply(params, x), params)[1](cotangent)[0]

    def forward(params, x):
      return jax.vjp(module.apply, params, x)[0]  # as in training

    if part == 'forward':
      self.work = functools.partial(jax.jit(forward), params, x)
    else:
      where = devices.sharded(mesh) if part == 'input gradient' else devices.replicated(mesh)
      self.work = functools.partial(jax.jit(gradient, out_shardings=where), params, x, outputs)

  def __call__(self, units: int) -> None:
    for _ in range(units):
      done = self.work()
    jax.block_until_ready(done)


def convolutions(
  args: argparse.Namespace, layers: collections.Counter[Layer], sides: dict[str, Callable[..., Callable[[int], None]]]
) -> list[Row]:
  """Rows for every part of every layer, and for their sums."""
  rows, sums = [], {side: collections.Counter() for side in sides}
  for layer, count in layers.items():
    for part in layer.parts:
      timings = measure.interleaved(
        {side: make(layer, part, args.batch_size) for side, make in sides.items()},
        args.repeats,
        seconds=args.seconds,
        pause=0.02,
      )
      for side, timing in timings.items():
        sums[side][part] += count * timing.median
      rate = 2e-9 * args.batch_size * layer.macs
      rows.append(
        _row(
          f'layers/{args.model}/{layer.name} x{count}/{part}',
          timings,
          count,
          {f'{side}_gflops_a_second': round(timing.rate(rate), 1) for side, timing in timings.items()},
        )
      )
  for part in (*PARTS, 'all convolutions'):
    summed = {side: Timing(0.0, [of[part] if part in PARTS else of.total()]) for side, of in sums.items()}
    rows.append(_row(f'layers/{args.model}/{part}', summed, 1, {}))
  return rows


def _row(name: str, timings: dict[str, Timing], count: int, details: dict[str, Any]) -> Row:
  ours, theirs = timings['flaxnets'].median, timings['torch'].median if 'torch' in timings else None
  return Row(
    name,
    1000 * count * ours,
    'ms',
    theirs and theirs / ours,
    theirs and 'torch_eager',
    details | {'count': count, 'torch_ms': theirs and 1000 * count * theirs},
  )


def complete_steps(
  args: argparse.Namespace, config: Any, model: nn.Module, mesh: Mesh, peer: Any, device: Any
) -> dict[str, Timing]:
  """Times the complete training step of both sides, in turns."""
  variables = flax_contenders.variables_of(model, args.image_size)
  batch = flax_contenders.network_batch(args.batch_size, args.image_size, args.num_classes)
  contenders = {'flaxnets': flax_contenders.Training(model, variables, batch, mesh, config, full_step=False)}
  if peer:
    sizes = {'num_channels': 3, 'num_classes': args.num_classes, 'width': args.width}
    contenders['torch'] = peer.Training(
      args.model,
      sizes,
      variables,
      batch['image'],
      batch['label'],
      device=device,
      bfloat16=False,
      compiled=False,
      learning_rate=flax_contenders.RATE,
      momentum=config.train.momentum,
      weight_decay=config.train.weight_decay,
    )
  return measure.interleaved(contenders, args.repeats, seconds=5 * args.seconds)


def rest(args: argparse.Namespace, rows: Sequence[Row], steps: dict[str, Timing]) -> list[Row]:
  """Rows for the complete step and for everything but convolutions: norms, activations, pooling, SGD, waiting."""
  step, convolved = _row(f'layers/{args.model}/step', steps, 1, {}), rows[-1]
  left = {'flaxnets': step.value - convolved.value}
  if step.ratio is not None:
    left['torch'] = step.details['torch_ms'] - convolved.details['torch_ms']
  return [
    step,
    _row(f'layers/{args.model}/rest', {side: Timing(0.0, [value / 1000]) for side, value in left.items()}, 1, {}),
  ]


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.layers: {error}')
