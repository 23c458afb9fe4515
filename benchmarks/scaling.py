"""The training step over 1, 2, 4 and 8 devices and over two processes: equal losses, and the cost of sharding.

    python -m benchmarks.scaling [--devices=1,2,4,8] [--weak] [--json=FILE]

On a CPU, the devices are simulated in child processes and share its cores. More devices than cores cannot make a step
faster, so its time shows the overhead of sharding. Several real devices are used if the machine has them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.children import Child, in_turns
from benchmarks.measure import Row, Timing
from flaxnets import config as configs
from flaxnets import experiment, models
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime import devices
from flaxnets.training import optim
from flaxnets.training.step import initial_state, make_train_step

CLASSES = 50
STATISTICS = {
  'mean': np.float32([124, 116, 104]),
  'std': np.float32([58, 57, 57]),
  'correlation': np.float32([[1, 0.9, 0.8], [0.9, 1, 0.9], [0.8, 0.9, 1]]),
}
# Sums run in another order. Rounding errors grow to 2e-4 in three steps and past 1e-3 in five, so three are compared.
LOSS_TOLERANCE = 1e-3


def main(argv: Sequence[str] | None = None) -> list[Row]:
  """Runs the benchmark, prints and writes the rows, and returns them.

  Raises:
    InputError: if losses differ; raised after everything has been printed and written.
  """
  args = _parser().parse_args(argv)
  groups: dict[str, Group] = {}
  with contextlib.ExitStack() as stack:
    for count in args.devices:
      groups[f'{count} device{"s" * (count > 1)}'] = stack.enter_context(Group(args, count))
    first = next(iter(groups.values()))
    if args.processes > 1 and (not first.real or first.found >= args.processes):
      groups[f'{args.processes} processes'] = stack.enter_context(
        Group(args, args.processes, args.processes, first.real)
      )
    groups = {name: group for name, group in groups.items() if group.found >= group.devices}
    losses = {name: group.losses(args.steps) for name, group in groups.items()}
    timings = in_turns(
      {name: functools.partial(group.step_time, args.seconds) for name, group in groups.items()}, args.repeats
    )
  rows = _rows(args, groups, timings, losses)
  measure.finish(rows, args.json)
  if not args.weak:
    check_losses(losses)
  return rows


def _parser() -> argparse.ArgumentParser:
  parser = measure.parser(
    'scaling', 'The training step over several devices and over several processes.', repeats=5, seconds=3.0
  )
  parser.add_argument(
    '--devices',
    type=measure.listed(int),
    default=[1, 2, 4, 8],
    help='numbers of devices, the first for comparison; numbers beyond the available devices are skipped',
  )
  parser.add_argument(
    '--processes', type=int, default=2, help='processes on this machine with one device each; 0 to skip them'
  )
  parser.add_argument('--weak', action='store_true', help='weak scaling: --batch_size is per device, not global')
  parser.add_argument('--steps', type=int, default=3, help='number of first steps whose losses are compared')
  parser.add_argument('--model', default='resnet18', help=', '.join(models.MODELS))
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--small_images', action='store_true')
  parser.add_argument('--image_size', type=int, default=96, help='pixels')
  parser.add_argument('--batch_size', type=int, default=64)
  return parser


def _rows(
  args: argparse.Namespace,
  groups: Mapping[str, Group],
  timings: Mapping[str, Timing],
  losses: Mapping[str, Sequence[float]],
) -> list[Row]:
  """Step times and efficiency: images per second and device, relative to the first group.

  Simulated devices share the same cores, so there efficiency compares images per second: 1 if sharding costs nothing.
  """
  rows = []
  base, first = next(iter(groups.items()))
  for name, group in groups.items():
    timing = timings[name]
    share = group.devices / first.devices if group.real else 1
    efficiency = timing.rate(group.batch_size) / timings[base].rate(first.batch_size) / share
    rows.append(
      Row(
        f'scaling/{args.model}/{name}',
        1000 * timing.median,
        'ms/step',
        efficiency,
        base,
        {
          'low': 1000 * min(timing.each),
          'high': 1000 * max(timing.each),
          'turns': len(timing.each),
          'devices': group.devices,
          'simulated': not group.real,
          'batch_size': group.batch_size,
          'image_size': args.image_size,
          'losses': list(losses[name]),
        },
      )
    )
  return rows


def check_losses(losses: Mapping[str, Sequence[float]]) -> None:
  """Raises InputError if a contender's losses differ from the first one's by more than a relative 1e-3."""
  base, expected = next(iter(losses.items()))
  for name, found in losses.items():
    off = float(np.max(np.abs(np.divide(found, expected) - 1)))
    if not off <= LOSS_TOLERANCE:
      raise InputError(
        f'over {name} the losses are {np.round(found, 5)}, over {base} {np.round(expected, 5)}: '
        f'they differ by {off:.1e}, and at most {LOSS_TOLERANCE} is allowed'
      )
  print(f'losses over {", ".join(losses)} are the same')


class Group:
  """Processes that train together.

  Args:
    args: the parsed command line.
    devices: number of devices over all processes.
    processes: number of processes with one device each, or 1 for a process with all devices.
    apart: whether each process sees only one of the machine's accelerators.

  Attributes:
    devices, batch_size: over all processes.
    found: number of devices that the processes found.
    real: whether those devices are real rather than simulated.
  """

  def __init__(self, args: argparse.Namespace, devices: int, processes: int = 1, apart: bool = False):
    self.devices = devices
    self.batch_size = args.batch_size * (devices if args.weak else 1)
    self._steps = 0
    if self.batch_size % devices:
      raise InputError(f'--batch_size={args.batch_size} cannot be spread over {devices} devices')
    coordinator = f'127.0.0.1:{_free_port()}' if processes > 1 else ''
    self._children = []
    for process in range(processes):
      # The groups share the accelerators, so none may reserve all of their memory.
      environment = {'JAX_NUM_CPU_DEVICES': str(devices // processes), 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
      if apart:
        environment['CUDA_VISIBLE_DEVICES'] = str(process)
      self._children.append(
        Child(serve, args, devices, self.batch_size, coordinator, processes, process, environment=environment)
      )
    self.found, self.real = self._ask('devices')[0]

  def _ask(self, what: str, amount: int = 0) -> list[Any]:
    for child in self._children:
      child.send(what, amount)
    return [child.receive() for child in self._children]

  def losses(self, steps: int) -> list[float]:
    """Losses of the first steps of training."""
    return self._ask('losses', steps)[0]

  def step_time(self, seconds: float) -> float:
    """Seconds per step of the slowest process, measured for about `seconds`."""
    # The processes must run the same number of steps, so they get steps rather than seconds.
    self._steps = self._steps or max(round(seconds / max(self._ask('time', 1))), 2)
    return max(self._ask('time', self._steps))

  def close(self) -> None:
    # In a group, a process that exits early makes the others fail.
    with contextlib.suppress(RuntimeError, OSError):
      self._ask('end')
    for child in self._children:
      child.close()

  def __enter__(self) -> Group:
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()


def _free_port() -> int:
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def serve(
  args: argparse.Namespace, device_count: int, batch_size: int, coordinator: str, processes: int, process: int
) -> Callable[[str, int], Any]:
  """For a child process; see `answer`."""
  devices.start([batch_size], coordinator=coordinator, processes=processes, process=process)
  mesh = devices.data_mesh(jax.devices()[:device_count])
  trained: dict[str, Any] = {}

  def answer(what: str, amount: int) -> Any:
    """'devices': their number, and whether they are real; 'losses': of `amount` steps; 'time': per step, over them."""
    if what == 'devices':
      return len(jax.devices()), jax.devices()[0].platform != 'cpu'
    if what == 'end':
      return jax.distributed.shutdown() if coordinator else None
    if not trained:
      trained['step'], trained['state'] = _training(args, mesh)
    losses = []
    begin = time.perf_counter()
    for number in range(amount):
      if what == 'losses' or 'batch' not in trained:
        trained['batch'] = _batch(args, batch_size, mesh, number)
        begin = time.perf_counter()
      trained['state'], metrics = trained['step'](trained['state'], trained['batch'])
      losses.append(metrics['loss'])
    jax.block_until_ready(losses)
    return [float(loss) for loss in losses] if what == 'losses' else (time.perf_counter() - begin) / amount

  return answer


def _training(args: argparse.Namespace, mesh: jax.sharding.Mesh) -> tuple[Callable, Any]:
  """The compiled step of the default recipe, and the initial state."""
  config = configs.default()
  config.image_size = args.image_size
  config.model.name, config.model.width, config.model.small_images = args.model, args.width, args.small_images
  model = experiment.build_network(config, ChannelSet.of('RGB'), CLASSES)
  schedule = optim.schedule('constant', learning_rate=0.01, steps=1)
  optimizer = optim.optimizer(schedule, momentum=0.9)
  view = experiment.training_view_of(config, (0, 1, 2), (_canvas(args),) * 2, STATISTICS)

  def fresh():
    images = np.zeros((1, args.image_size, args.image_size, 3), np.float32)
    variables = put_statistics(model.init(jax.random.key(0), images), STATISTICS)
    return initial_state(variables, optimizer, ema=False)

  state = jax.jit(fresh, out_shardings=devices.replicated(mesh))()
  return make_train_step(model, optimizer, schedule, mesh, view, masked=True), state


def _canvas(args: argparse.Namespace) -> int:
  return round(1.5 * args.image_size)


def _batch(args: argparse.Namespace, batch_size: int, mesh: jax.sharding.Mesh, number: int) -> dict[str, jax.Array]:
  """A fixed batch of noise, seeded with `number`; this process's shard of it, on its devices."""
  random = np.random.default_rng(number)
  side = _canvas(args)
  batch = {
    'image': random.integers(0, 256, (batch_size, side, side, 3), np.uint8),
    'size': np.full((batch_size, 2), side, np.int32),
    'label': random.integers(0, CLASSES, batch_size, np.int32),
    'present': np.ones((batch_size, 3), bool),
    'skipped': np.zeros(batch_size, bool),
  }
  share = batch_size // jax.process_count()
  mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
  return next(devices.to_devices([{key: value[mine] for key, value in batch.items()}], mesh))


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.scaling: {error}')
