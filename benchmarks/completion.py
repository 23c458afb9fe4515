"""The time that completing absent channels adds to a training step, by the number of channels.

python -m benchmarks.completion [--channels=3,13,32,64,200] [--model=resnet18] [--image_size=96] [--json=FILE]

completion/MODEL/C/COMPLETION is a training step whose examples have random subsets of C channels (hierarchical), in
milliseconds. `none` leaves absent channels at their mean. `apart` is what `linear` adds in a program of its own: the
mixing of every example, and its product with the image. The ratio is to the step of `none`: below 1 is slower.
Augmentation and input are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.measure import Row
from flaxnets import config as configs
from flaxnets import experiment, models
from flaxnets.augment import presence
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.nn.completion import presence_mixing
from flaxnets.nn.dynamic_conv import complete
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime import devices
from flaxnets.training import optim
from flaxnets.training.step import initial_state, make_train_step

COMPLETIONS = ('none', 'linear', 'unit')
CLASSES = 10


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Measures, prints and writes the rows, and returns them."""
  parser = measure.parser('completion', 'The time that completing absent channels adds to a training step.')
  parser.add_argument('--channels', type=measure.listed(measure.positive), default=[3, 13, 32, 64, 200])
  parser.add_argument('--model', default='resnet18', choices=tuple(models.MODELS))
  parser.add_argument('--image_size', type=measure.positive, default=96, help='pixels')
  parser.add_argument('--batch_size', type=measure.positive, default=64)
  parser.add_argument('--width', type=measure.positive, default=64)
  args = parser.parse_args(argv)
  devices.start([args.batch_size])
  rows = [row for count in args.channels for row in steps(args, count)]
  measure.finish(rows, args.json)
  return rows


def steps(args: argparse.Namespace, count: int) -> list[Row]:
  """The rows of one number of channels."""
  contenders = {completion: Step(args, count, completion) for completion in COMPLETIONS}
  timings = measure.interleaved(
    {**contenders, 'apart': Apart(contenders['linear'])}, args.repeats, seconds=args.seconds
  )
  rows = []
  for name, timing in timings.items():
    ratio = None if name in ('none', 'apart') else timings['none'].median / timing.median
    details = {'low_ms': 1000 * min(timing.each), 'high_ms': 1000 * max(timing.each)}
    rows.append(
      Row(f'completion/{args.model}/{count}/{name}', 1000 * timing.median, 'ms', ratio, ratio and 'none', details)
    )
  return rows


class Step:
  """A compiled training step on one batch; called with n, it takes n steps."""

  def __init__(self, args: argparse.Namespace, count: int, completion: str):
    config, self.mesh = configs.default(), devices.data_mesh()
    config.image_size, config.model.completion = args.image_size, completion
    config.model.name, config.model.width = args.model, args.width
    model = experiment.build_network(config, ChannelSet(tuple(f'c{index}' for index in range(count))), CLASSES)
    rng = np.random.default_rng(0)
    shape = (args.batch_size, args.image_size, args.image_size, count)
    self.correlation = correlation(count)
    batch = {
      'image': rng.standard_normal(shape, np.float32),
      'label': rng.integers(0, CLASSES, args.batch_size, np.int32),
      'skipped': np.zeros(args.batch_size, bool),
      'present': np.array(
        presence.sample_channels(jax.random.key(0), 'hierarchical', (args.batch_size, count), probability=0)[:, 0]
      ),
    }
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape[1:])))
    statistics = {'mean': np.zeros(count), 'std': np.ones(count), 'correlation': self.correlation}
    variables = put_statistics(variables, statistics)
    schedule = optim.schedule('constant', learning_rate=0.01, steps=1)
    optimizer = optim.optimizer(schedule, momentum=0.9)
    step = make_train_step(
      model,
      optimizer,
      schedule,
      self.mesh,
      lambda step, batch: (batch['image'], batch['present'][:, None]),
      masked=True,
    )
    self.batch = jax.device_put(batch, devices.sharded(self.mesh))
    self.state = jax.device_put(initial_state(variables, optimizer, ema=False), devices.replicated(self.mesh))
    self.step = step.lower(self.state, self.batch).compile()

  def __call__(self, units: int) -> None:
    for _ in range(units):
      self.state, self.metrics = self.step(self.state, self.batch)
    jax.block_until_ready(self.state)


class Apart:
  """The linear completion of a step's batch; called with n, it completes n times."""

  def __init__(self, step: Step):
    def completed(images: jax.Array, present: jax.Array, correlation: jax.Array) -> jax.Array:
      return complete(images, presence_mixing('linear', present, correlation))

    self.arguments = (
      step.batch['image'],
      step.batch['present'],
      jax.device_put(step.correlation, devices.replicated(step.mesh)),
    )
    self.completed = jax.jit(completed).lower(*self.arguments).compile()

  def __call__(self, units: int) -> None:
    for _ in range(units):
      done = self.completed(*self.arguments)
    jax.block_until_ready(done)


def correlation(count: int) -> np.ndarray:
  """(C, C) of channels in a row, of which neighbours resemble each other, as in a spectrum."""
  places = np.arange(count)
  return np.exp(-np.abs(places[:, None] - places) / max(count / 4, 1)).astype(np.float32)


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.completion: {error}')
