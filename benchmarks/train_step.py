"""Images per second of the training step and of evaluation, beside the same network in PyTorch, in one run.

    python -m benchmarks.train_step --models=resnet18,resattention --dtypes=float32,bfloat16 [--json=FILE]

Both sides get the same weights and the same float images at the network's input size, already on the device. A training
step is forward, backward and SGD with momentum and weight decay. Evaluation is a forward pass. The benchmark first
checks that both sides compute the same function. PyTorch uses channels-last memory and runs both eagerly and compiled.

Rows: MODEL/MODE/DTYPE is flaxnets, with its ratio to PyTorch's best mode at the same precision. .../torch_eager and
.../torch_compile are PyTorch. .../full is everything that flaxnets does with a batch of uint8 canvases, without a
peer: warp, channel sampling and a step with DynamicConv in training, warp and the evaluator's sums in evaluation.
Memory: for flaxnets, what XLA plans for the program (arguments, results, temporaries, on all devices). For PyTorch on a
GPU, the peak allocation during a step. PyTorch's share of one CPU process cannot be separated, and is omitted.
MFU: images/s x 2 x MACs per image (`flaxnets.models.cost`), x 3 in training, over the GPU's peak for that precision.
Bandwidth share: bytes per second that XLA counts for the program's own kernels, over the GPU's peak. This is an
estimate: caches make it too high, and calls to cuDNN and cuBLAS, which XLA may not count, make it too low.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from benchmarks import flax_contenders, measure
from benchmarks.measure import Row, Timing
from benchmarks.peaks import peak_of
from flaxnets import config as configs
from flaxnets import experiment, models
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.models import cost
from flaxnets.runtime import devices

# The largest allowed differences between both sides. Rounding can push a value across the kink of a ReLU. The last
# stage has few positions, so that changes up to 2 % of a gradient, on either side relative to float64 too.
AGREE = {'outputs': 1e-3, 'losses': 1e-3, 'steps': 5e-2}
CHECKED = 8  # images in the check


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = measure.parser('train_step', 'Training and evaluation beside PyTorch.')
  parser.add_argument(
    '--models',
    type=measure.listed(str, tuple(models.MODELS)),
    default=['resnet18', 'resattention'],
    help=', '.join(models.MODELS),
  )
  parser.add_argument('--image_size', type=measure.positive, default=96, help='pixels')
  parser.add_argument('--batch_size', type=measure.positive, default=64)
  parser.add_argument('--width', type=measure.positive, default=64)
  parser.add_argument('--num_classes', type=measure.positive, default=50)
  parser.add_argument('--dtypes', type=measure.listed(str, ('float32', 'bfloat16')), default=['float32', 'bfloat16'])
  parser.add_argument('--modes', type=measure.listed(str, ('train', 'eval')), default=['train', 'eval'])
  parser.add_argument('--no_compile', action='store_true', help='skip torch.compile')
  parser.add_argument(
    '--no_tf32',
    action='store_true',
    help='compute float32 products on GPUs in full float32, on both sides; '
    'by default both use TensorFloat-32 (CPUs always use float32)',
  )
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  args = parse(argv)
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # both frameworks share the GPU's memory
  devices.start([args.batch_size])
  # Both sides report the compile times of a first run.
  jax.config.update('jax_enable_compilation_cache', False)
  with tempfile.TemporaryDirectory() as folder:
    os.environ['TORCHINDUCTOR_CACHE_DIR'] = folder
    measure.finish(benchmark(args), args.json)


def benchmark(args: argparse.Namespace) -> list[Row]:
  """All rows that the command line selects.

  Raises:
    InputError: if the two sides do not compute the same function, or a setting is invalid.
  """
  found = jax.devices()
  # On CPUs one device per core, since PyTorch uses all cores. Only one GPU, since PyTorch uses one.
  mesh = devices.data_mesh(found if found[0].platform == 'cpu' else found[:1])
  devices.check_batch(args.batch_size, mesh, '--batch_size')
  peer = find_peer()
  device = peer and peer.device_for(found[0].platform)
  rows = []
  for name in args.models:
    comparison = Comparison(args, name, mesh, peer, device)
    for dtype in args.dtypes:
      for mode in args.modes:
        print(f'{name}/{mode}/{dtype} ...', file=sys.stderr)
        rows += comparison.rows(dtype, mode)
  return rows


def find_peer() -> Any:
  """The module `benchmarks.torch_peer`; prints a line and returns None if PyTorch is not installed."""
  try:
    from benchmarks import torch_peer
  except ModuleNotFoundError as error:
    if error.name != 'torch':
      raise
    print('PyTorch is not installed, so rows have no peer and no ratio; pip install torch installs it')
    return None
  return torch_peer


class Comparison:
  """One network on both sides, with the same weights.

  Args:
    args: the parsed command line.
    name: the name of the network.
    mesh: flaxnets' devices.
    peer, device: the module `benchmarks.torch_peer` and its device; None without PyTorch.

  Raises:
    InputError: if the two sides do not compute the same function.
  """

  def __init__(self, args: argparse.Namespace, name: str, mesh: Mesh, peer: Any, device: Any):
    self.args, self.name, self.mesh, self.peer, self.device = args, name, mesh, peer, device
    self.on_gpu = mesh.devices.flat[0].platform != 'cpu'
    self.sizes = {'num_channels': len(flax_contenders.FULL), 'num_classes': args.num_classes, 'width': args.width}
    # The variables of the network with DynamicConv; the plain network has the same weights and ignores the correlation.
    full = self.network(self.config('float32', plain=False))
    self.variables = flax_contenders.variables_of(full, args.image_size)
    self.macs = cost.macs(full, flax_contenders.FULL, args.image_size)['macs']
    self.agreement = self.check_same() if peer else None

  def config(self, dtype: str, *, plain: bool) -> ml_collections.ConfigDict:
    """The default recipe with these settings; with `plain`, the stem is an ordinary convolution as in PyTorch."""
    config = configs.default()
    config.image_size, config.train.batch_size = self.args.image_size, self.args.batch_size
    config.model.name, config.model.dtype, config.model.width = self.name, dtype, self.args.width
    if plain:
      config.model.stem, config.model.completion = 'conv', 'mean'
    return config

  def network(self, config: ml_collections.ConfigDict) -> nn.Module:
    return experiment.build_network(config, ChannelSet.of('RGB'), self.args.num_classes)

  def check_same(self) -> dict[str, float]:
    """Relative differences in full float32 of the outputs, the training loss, and the weight updates of a step.

    Raises:
      InputError: if a difference is too large for the same function.
    """
    batch = flax_contenders.network_batch(CHECKED, self.args.image_size, self.args.num_classes, seed=1)
    config, one = self.config('float32', plain=True), devices.data_mesh(list(self.mesh.devices.flat[:1]))
    # The first step then changes a weight by its gradient plus its decay, with a decay large enough to show.
    config.train.weight_decay = 0.1
    with _precision('float32', self.on_gpu):
      training = flax_contenders.Training(
        self.network(config), self.variables, batch, one, config, full_step=False, learning_rate=1.0
      )
      evaluation = flax_contenders.Evaluation(self.network(config), self.variables, batch['image'], one)
    self.peer.set_tf32(False)
    their_training, their_evaluation = (
      self.their(mode, config, batch, compiled=False, learning_rate=1.0) for mode in ('train', 'eval')
    )
    for contender in (training, evaluation, their_training, their_evaluation):
      contender(1)
    begin, after = (self.peer.by_key(params) for params in (self.variables['params'], training.state.params))
    apart = {
      'outputs': _apart(evaluation.logits, their_evaluation.logits.cpu().numpy()),
      'losses': _apart(training.metrics['loss'], their_training.loss.item()),
      'steps': max(
        _apart(after[key] - begin[key], value - begin[key]) for key, value in their_training.weights().items()
      ),
    }
    print(f'{self.name}: differs from PyTorch by ' + ', '.join(f'{value:.1e} ({key})' for key, value in apart.items()))
    for key, value in apart.items():
      if not value <= AGREE[key]:
        raise InputError(
          f'{self.name}: flaxnets and PyTorch do not compute the same function: with equal weights '
          f'their {key} are {value:.1e} apart, and at most {AGREE[key]:.0e} is allowed; nothing was timed'
        )
    return apart

  def rows(self, dtype: str, mode: str) -> list[Row]:
    """The rows of one precision and mode; all contenders are timed in turns."""
    products = 'tf32' if dtype == 'float32' and self.on_gpu and not self.args.no_tf32 else dtype
    with _precision(products, self.on_gpu):
      contenders = self.ours(dtype, mode)
      if self.peer:
        self.peer.set_tf32(products == 'tf32')
        contenders |= self.theirs(dtype, mode)
      times = measure.interleaved(contenders, self.args.repeats, seconds=self.args.seconds)
    best = min((key for key in times if key.startswith('torch')), key=lambda key: times[key].median, default=None)
    rows = []
    for key, timing in times.items():
      details = self.details(mode, products, timing, contenders[key])
      row = Row(f'{self.name}/{mode}/{dtype}/{key}', timing.rate(self.args.batch_size), 'images/s', details=details)
      if key == 'network':
        row.name = f'{self.name}/{mode}/{dtype}'
        row.details['apart'] = self.agreement
        if best is not None:
          row.ratio, row.peer = times[best].median / timing.median, best
          # On a busy machine, medians reflect what other programs left over; the fastest turns do so less.
          fastest = min(min(other.each) for key, other in times.items() if key.startswith('torch'))
          row.details['ratio_of_fastest_turns'] = fastest / min(timing.each)
      rows.append(row)
    return rows

  def ours(self, dtype: str, mode: str) -> dict[str, Callable[[int], Any]]:
    """The compiled contenders 'network', which does the same work as PyTorch, and 'full'."""
    plain, full = (self.config(dtype, plain=plain) for plain in (True, False))
    batch, canvases = self.batch(), flax_contenders.canvas_batch(full, self.args.num_classes)
    if mode == 'train':
      training = functools.partial(flax_contenders.Training, variables=self.variables, mesh=self.mesh)
      return {
        'network': training(self.network(plain), batch=batch, config=plain, full_step=False),
        'full': training(self.network(full), batch=canvases, config=full, full_step=True),
      }
    return {
      'network': flax_contenders.Evaluation(self.network(plain), self.variables, batch['image'], self.mesh),
      'full': flax_contenders.FullEvaluation(self.network(full), self.variables, canvases, self.mesh, full),
    }

  def theirs(self, dtype: str, mode: str) -> dict[str, Callable[[int], Any]]:
    """The contenders 'torch_eager' and 'torch_compile', with the weights and the batch of 'network'."""
    config, batch = self.config(dtype, plain=True), self.batch()
    made = {'torch_eager': self.their(mode, config, batch, compiled=False)}
    if not self.args.no_compile:
      made['torch_compile'] = self.their(mode, config, batch, compiled=True)
    return made

  def their(
    self,
    mode: str,
    config: ml_collections.ConfigDict,
    batch: Mapping[str, np.ndarray],
    *,
    compiled: bool,
    learning_rate: float = flax_contenders.RATE,
  ) -> Any:
    """PyTorch's contender for a config, with the same SGD settings."""
    kind = (
      self.peer.Evaluation
      if mode == 'eval'
      else functools.partial(
        self.peer.Training,
        learning_rate=learning_rate,
        momentum=config.train.momentum,
        weight_decay=config.train.weight_decay,
      )
    )
    return kind(
      self.name,
      self.sizes,
      self.variables,
      batch['image'],
      batch['label'],
      device=self.device,
      bfloat16=config.model.dtype == 'bfloat16',
      compiled=compiled,
    )

  def batch(self) -> dict[str, np.ndarray]:
    return flax_contenders.network_batch(self.args.batch_size, self.args.image_size, self.args.num_classes)

  def details(self, mode: str, products: str, timing: Timing, contender: Any) -> dict[str, Any]:
    """The details of a row: spread, settings, compile time, memory, and shares of the GPU's peaks."""
    compiling, memory = contender.compile_seconds, contender.memory_bytes()
    kind = self.mesh.devices.flat[0].device_kind
    peak, bandwidth, touched = peak_of(kind, products), peak_of(kind, 'memory'), contender.bytes_accessed()
    flops = timing.rate(self.args.batch_size) * 2 * self.macs * (3 if mode == 'train' else 1)
    return {
      **timing.spread(self.args.batch_size),
      'batch_size': self.args.batch_size,
      'image_size': self.args.image_size,
      **self.sizes,
      'products': products,
      'devices': self.mesh.size,
      'compile_seconds': round(max(timing.first - timing.median, 0.0) if compiling is None else compiling, 2),
      'memory_mib': None if memory is None else round(memory / 2**20, 1),
      'mfu': peak and flops / peak,
      'bandwidth_share': bandwidth and touched and touched / timing.median / bandwidth,
    }


def _apart(one: Any, other: Any) -> float:
  return float(np.linalg.norm(np.subtract(one, other)) / np.linalg.norm(other))


def _precision(products: str, on_gpu: bool) -> contextlib.AbstractContextManager:
  """JAX's counterpart of `set_tf32` in PyTorch. It does nothing on CPUs and for bfloat16."""
  if not on_gpu or products == 'bfloat16':
    return contextlib.nullcontext()
  return jax.default_matmul_precision('tensorfloat32' if products == 'tf32' else 'highest')


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.train_step: {error}')
