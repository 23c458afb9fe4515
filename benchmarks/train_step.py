"""Images a second of the training step and of evaluation, beside the same network in PyTorch, in one run.

    python -m benchmarks.train_step --models=resnet18,resattention --dtypes=float32,bfloat16 [--json=FILE]

Both sides get the same weights and the same float images of the network's size, on the device already. A training
step is forward, backward and SGD with momentum and weight decay; evaluation is a forward pass. First of all it is
checked that both compute the same function. PyTorch has channels-last memory, and runs eagerly and compiled.

Rows: MODEL/MODE/DTYPE is flaxnets, with its ratio to PyTorch's best mode of the same precision; .../torch_eager and
.../torch_compile are PyTorch; .../full is all that flaxnets does with a batch, without a peer: from canvases of
bytes over warp, sampling of subsets and DynamicConv in training, and over the evaluator's sums in evaluation.
Memory: of flaxnets what XLA plans for the program (arguments, results, temporaries, on all devices), of PyTorch
on a GPU the most allocated during a step; on a CPU PyTorch's cannot be told apart in one process, and is left out.
MFU: images/s x 2 x MACs of an image (`flaxnets.cost`), x 3 in training, over the GPU's peak for that precision.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from benchmarks import flax_contenders, measure
from benchmarks.measure import Row, Timing
from configs import default
from flaxnets import cost, experiment, models, parallel
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError

# Peak FLOP/s of GPUs by the name that JAX gives them, dense, from NVIDIA's data sheets; a longer name goes first.
PEAKS = {
  'H100 PCIe': {'bfloat16': 756e12, 'tf32': 378e12, 'float32': 51e12},
  'H100': {'bfloat16': 989e12, 'tf32': 495e12, 'float32': 67e12},
  'H200': {'bfloat16': 989e12, 'tf32': 495e12, 'float32': 67e12},
  'A100': {'bfloat16': 312e12, 'tf32': 156e12, 'float32': 19.5e12},
}
OUTPUTS_AGREE, GRADIENTS_AGREE = 1e-3, 1e-2  # relative; gradients pass kinks (ReLU, maxima), where rounding decides
CHECKED = 8  # images that the check takes


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = measure.parser('train_step', 'Training and evaluation beside PyTorch.')
  parser.add_argument('--models', type=measure.listed(str, tuple(models.MODELS)), default=['resnet18', 'resattention'],
                      help=', '.join(models.MODELS))
  parser.add_argument('--image_size', type=int, default=96, help='pixels')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--num_classes', type=int, default=50)
  parser.add_argument('--dtypes', type=measure.listed(str, ('float32', 'bfloat16')), default=['float32', 'bfloat16'])
  parser.add_argument('--modes', type=measure.listed(str, ('train', 'eval')), default=['train', 'eval'])
  parser.add_argument('--no_compile', action='store_true', help='leave torch.compile out')
  parser.add_argument('--no_tf32', action='store_true', help='float32 products on GPUs in full float32, on both sides; '
                      'without it they are TensorFloat-32 on both (on CPUs always float32)')
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  args = parse(argv)
  # Both frameworks share a GPU's memory, and compile anew in each run.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  os.environ.setdefault('TORCHINDUCTOR_FORCE_DISABLE_CACHES', '1')
  parallel.start(args.batch_size)
  jax.config.update('jax_enable_compilation_cache', False)
  measure.finish(benchmark(args), args.json)


def benchmark(args: argparse.Namespace) -> list[Row]:
  """All rows that a command line asks for.

  Raises:
    InputError: where the two sides do not compute the same, or a setting cannot be.
  """
  devices = jax.devices()
  # One device a core on CPUs, where PyTorch uses all cores; but one GPU, as PyTorch uses one.
  mesh = parallel.data_mesh(devices if devices[0].platform == 'cpu' else devices[:1])
  parallel.check_batch(args.batch_size, mesh, '--batch_size')
  peer = find_peer()
  device = peer and peer.device_for(devices[0].platform)
  rows = []
  for name in args.models:
    agreement = peer and check_same(args, name, peer, device)
    for dtype in args.dtypes:
      for mode in args.modes:
        rows += measured(args, name, dtype, mode, mesh, peer, device, agreement)
  return rows


def find_peer() -> Any:
  """The module `benchmarks.torch_peer`, or None, and a line that says so, where PyTorch is missing."""
  try:
    from benchmarks import torch_peer
  except ModuleNotFoundError as error:
    if error.name != 'torch':
      raise
    print("PyTorch is not installed: no peer, no ratios (it comes with pip install 'flaxnets[bench]')")
    return None
  return torch_peer


def config_of(args: argparse.Namespace, name: str, dtype: str, *, plain: bool) -> ml_collections.ConfigDict:
  """The default recipe for these settings; with plain the stem is the convolution that PyTorch has."""
  config = default.get_config()
  config.image_size, config.train.batch_size = args.image_size, args.batch_size
  config.model.name, config.model.dtype, config.model.width = name, dtype, args.width
  if plain:
    config.model.stem, config.model.completion = 'conv', 'mean'
  return config


def network_of(args: argparse.Namespace, config: ml_collections.ConfigDict) -> nn.Module:
  return experiment.build_network(config, ChannelSet.of('RGB'), args.num_classes)


def torch_network(args: argparse.Namespace, name: str) -> Any:
  from benchmarks import torch_networks
  return torch_networks.build(
    name, channels=len(flax_contenders.FULL), num_classes=args.num_classes, width=args.width)


def check_same(args: argparse.Namespace, name: str, peer: Any, device: Any) -> dict[str, float]:
  """How far apart, relative, both networks are with equal weights: outputs, and loss and gradients in training.

  Raises:
    InputError: where that is too far for one and the same function.
  """
  from benchmarks import torch_networks
  model = network_of(args, config_of(args, name, 'float32', plain=True))
  variables = flax_contenders.variables_of(model, args.image_size)
  batch = flax_contenders.network_batch(CHECKED, args.image_size, args.num_classes, seed=1)
  peer.set_tf32(False)
  logits, loss, gradients = flax_contenders.answers(model, variables, batch['image'], batch['label'])
  theirs = peer.answers(torch_network(args, name), variables, batch['image'], batch['label'], device)
  carried = {key: value.numpy() for key, value in torch_networks.carried({'params': gradients}).items()}
  found = {
    'outputs': _apart(logits, theirs[0]), 'loss': _apart(loss, theirs[1]),
    'gradients': max(_apart(carried[key], theirs[2][key]) for key in carried),
  }
  print(f'{name}: apart from PyTorch by ' + ', '.join(f'{value:.1e} ({key})' for key, value in found.items()))
  limits = {'outputs': OUTPUTS_AGREE, 'loss': OUTPUTS_AGREE, 'gradients': GRADIENTS_AGREE}
  for key, value in found.items():
    if not value <= limits[key]:
      raise InputError(f'{name}: flaxnets and PyTorch do not compute the same function: with equal weights their {key} '
                       f'are {value:.1e} apart (at most {limits[key]:.0e} is rounding); nothing was timed')
  return found


def _apart(one: Any, other: Any) -> float:
  return float(np.linalg.norm(np.subtract(one, other)) / np.linalg.norm(other))


def measured(
  args: argparse.Namespace, name: str, dtype: str, mode: str, mesh: Mesh, peer: Any, device: Any, agreement: Any
) -> list[Row]:
  """The rows of one network, precision and mode, all contenders timed in turns."""
  on_gpu = mesh.devices.flat[0].platform != 'cpu'
  products = 'tf32' if dtype == 'float32' and on_gpu and not args.no_tf32 else dtype
  if peer:
    peer.set_tf32(products == 'tf32')
  with _precision(products, on_gpu):
    contenders = ours(args, name, dtype, mesh, mode)
    if peer:
      contenders |= theirs(args, name, dtype, mode, peer, device)
    times = measure.interleaved(contenders, args.repeats, seconds=args.seconds)
  rows = []
  best = min((key for key in times if key.startswith('torch')), key=lambda key: times[key].median, default=None)
  for key, timing in times.items():
    details = details_of(args, name, mode, products, mesh, key, timing, contenders[key])
    compared = key == 'network' and best is not None
    rows.append(Row(
      f'{name}/{mode}/{dtype}' + ('' if key == 'network' else f'/{key}'), timing.rate(args.batch_size), 'images/s',
      times[best].median / timing.median if compared else None, best if compared else None,
      details | ({'agreement': agreement} if compared else {}),
    ))
  return rows


def _precision(products: str, on_gpu: bool) -> contextlib.AbstractContextManager:
  """JAX's setting for what `set_tf32` says to PyTorch. CPUs and bfloat16 factors leave nothing to say."""
  if not on_gpu or products == 'bfloat16':
    return contextlib.nullcontext()
  return jax.default_matmul_precision('tensorfloat32' if products == 'tf32' else 'highest')


def ours(args: argparse.Namespace, name: str, dtype: str, mesh: Mesh, mode: str) -> dict[str, Callable[[int], Any]]:
  """'network', the same work as PyTorch's, and 'full', compiled."""
  plain, whole = (config_of(args, name, dtype, plain=value) for value in (True, False))
  network, dynamic = network_of(args, plain), network_of(args, whole)
  variables, dynamic_variables = (flax_contenders.variables_of(model, args.image_size) for model in (network, dynamic))
  batch = flax_contenders.network_batch(args.batch_size, args.image_size, args.num_classes)
  canvases = flax_contenders.canvas_batch(whole, args.num_classes)
  if mode == 'train':
    return {
      'network': flax_contenders.Training(network, variables, batch, mesh, plain, whole=False),
      'full': flax_contenders.Training(dynamic, dynamic_variables, canvases, mesh, whole, whole=True),
    }
  return {
    'network': flax_contenders.Evaluation(network, variables, batch['image'], mesh),
    'full': flax_contenders.Judging(dynamic, dynamic_variables, canvases, mesh, whole),
  }


def theirs(
  args: argparse.Namespace, name: str, dtype: str, mode: str, peer: Any, device: Any
) -> dict[str, Callable[[int], Any]]:
  """'torch_eager' and 'torch_compile', with the weights and the batch that 'network' has."""
  config = config_of(args, name, dtype, plain=True)
  variables = flax_contenders.variables_of(network_of(args, config), args.image_size)
  batch = flax_contenders.network_batch(args.batch_size, args.image_size, args.num_classes)
  made = {}
  for key in ('torch_eager',) if args.no_compile else ('torch_eager', 'torch_compile'):
    given = (torch_network(args, name), variables, batch['image'], batch['label'])
    options = {'device': device, 'bfloat16': dtype == 'bfloat16', 'compiled': key == 'torch_compile'}
    made[key] = peer.Evaluation(*given, **options) if mode == 'eval' else peer.Training(
      *given, **options, learning_rate=flax_contenders.RATE, momentum=config.train.momentum,
      weight_decay=config.train.weight_decay)
  return made


def details_of(
  args: argparse.Namespace, name: str, mode: str, products: str, mesh: Mesh, key: str, timing: Timing, contender: Any
) -> dict[str, Any]:
  """What a row holds beside its value: spread, settings, compile time, memory, MFU."""
  memory = contender.memory_bytes
  memory = memory() if callable(memory) else memory
  compiling = getattr(contender, 'compile_seconds', None)
  first = timing.first - timing.median
  settings = {key: getattr(args, key) for key in ('batch_size', 'image_size', 'width', 'num_classes')}
  return {
    **timing.spread(args.batch_size), **settings, 'products': products, 'devices': mesh.size,
    'compile_seconds': round(first if compiling is None else compiling, 2),
    'memory_mib': None if memory is None else round(memory / 2**20, 1),
    'mfu': utilisation(args, name, mode, products, mesh, timing),
  }


def utilisation(
  args: argparse.Namespace, name: str, mode: str, products: str, mesh: Mesh, timing: Timing
) -> float | None:
  """MFU, 0..1 (see the top of this file); None where the device's peak is not known, and so on every CPU."""
  peak = peak_of(mesh.devices.flat[0].device_kind, products)
  if peak is None:
    return None
  model = network_of(args, config_of(args, name, 'float32', plain=True))
  macs = cost.macs(model, flax_contenders.FULL, args.image_size)['macs']
  return timing.rate(args.batch_size) * 2 * macs * (3 if mode == 'train' else 1) / peak


def peak_of(kind: str, products: str) -> float | None:
  """FLOP/s of a device kind as JAX names it."""
  return next((peaks[products] for name, peaks in PEAKS.items() if name in kind), None)


if __name__ == '__main__':
  try:
    main()
  except InputError as error:
    sys.exit(f'benchmarks.train_step: {error}')
