"""Other ways to take any subset of channels, each in place of DynamicConv in the same ResNet-18 with the same training.

python -m benchmarks.channel_baselines --root=DIR --test=DIR --out=runs/baselines [--only=hypernet,bag] [--table]

The protocol is configs/studies/rgb_fast.py; a row takes as long as a row there. DIR are the folders of miniimagenet50
and of its 5,000 test images. Each row has two seeds: --only=bag-seed1 is the second of one row. Finished runs are
skipped, and a run that was cut is resumed.

dynamic: hierarchical sampling, linear completion: flaxnets' own, for the same table.
scale: zeros for absent channels, the output times C / m: completion 'scale'.
hypernet: a small network makes the kernel of each channel of a learned embedding (D. Ha et al., HyperNetworks, ICLR
2017; HyperNetViT in Y. Bao et al., ChannelViT, ICLR 2024, and Z. Chen et al., CHAMMI, NeurIPS 2023).
templates: the kernel of each channel is a learned mixture of shared templates (B. Plummer et al., Neural Parameter
Allocation Search, ICLR 2022; TemplateMixing in CHAMMI).
depthwise: kernels of its own for each channel, ReLU, and the mean over the present channels (Depthwise in CHAMMI, which
has no ReLU, without which the layer would be the row scale and a 1 x 1 convolution).
bag: each channel alone through one network of one input, features averaged (bag of channels, as the model of CHAMMI-75
takes its channels). In training, each image shows one channel, drawn at random; in evaluation a subset of m channels
costs m times as much.

Each is written for this table from its description, and has the learning rate and augmentation of `dynamic`. The
outputs of hypernet and templates are multiplied by C / m, which CHAMMI's are not. With three channels, both can express
any three kernels, as `scale` can: what differs is how they are learned.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks import measure
from flaxnets import config as configs
from flaxnets import models
from flaxnets.inference.restore import load
from flaxnets.models import cost
from flaxnets.models.classifier import HEAD
from flaxnets.models.resnet import ResNet
from flaxnets.nn.blocks import BasicBlock, Head, max_pool
from flaxnets.nn.conv import Conv, conv_init, convolve
from flaxnets.nn.dynamic_conv import MIXING, check_subset
from flaxnets.nn.norms import Norm
from flaxnets.nn.stem import CONV, STANDARDIZE, STEM, Standardize
from flaxnets.runtime import devices
from flaxnets.study import job
from flaxnets.study.folder import Study
from flaxnets.study.plan import chosen, plan
from flaxnets.study.table import write_table

ROWS: dict[str, dict[str, Any]] = {
  'dynamic': {},
  'scale': {'model.completion': 'scale'},
  'hypernet': {'model.name': 'hypernet'},
  'templates': {'model.name': 'templates'},
  'depthwise': {'model.name': 'depthwise'},
  'bag': {'model.name': 'bag', 'presence.mode': 'listed', 'presence.subsets': 'singles'},
}
RUNS = {name: {**changes, 'seed': (0, 1)} for name, changes in ROWS.items()}
SIZE, STRIDES = 7, 2  # of the first convolution, as in flaxnets' stem


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--root', required=True, help='folder of the training images')
  parser.add_argument('--test', required=True, help='folder of the test images')
  parser.add_argument('--out', required=True, type=pathlib.Path, help='folder of the runs and of the table')
  parser.add_argument('--only', default='', help='names of rows, separated by commas')
  parser.add_argument('--table', action='store_true', help='only write the table of what has finished')
  parser.add_argument('--run', default='', help=argparse.SUPPRESS)  # the row that this process trains
  for field in ('epochs', 'width'):
    parser.add_argument(f'--{field}', type=float, help="replaces the protocol's, for a trial")
  parser.add_argument('--sizes', type=measure.listed(int), help="of the training images, in place of the protocol's")
  options = parser.parse_args(argv)
  models.MODELS.update(NETWORKS)
  study = _study(options)
  if options.run:
    sys.exit(_train(study, options.run))
  for run in [] if options.table else chosen(study.runs, options.only):
    if not study.finished(run):
      arguments = sys.argv[1:] if argv is None else list(argv)
      command = [sys.executable, '-m', 'benchmarks.channel_baselines', *arguments, f'--run={run.name}']
      subprocess.run(command, check=True)
  write_table(study)
  print((study.out / 'table.md').read_text())


def _study(options: argparse.Namespace) -> Study:
  config = configs.named('studies/rgb_fast')
  config.data.root = options.root
  if options.epochs:
    config.train.epochs = options.epochs
  if options.width:
    config.model.width = int(options.width)
  if options.sizes:
    config.train.image_sizes = tuple(options.sizes)
  options.out.mkdir(parents=True, exist_ok=True)
  return Study(plan(config, RUNS), options.out, split='test5k.txt', root=options.test)


def _train(study: Study, name: str) -> int:
  """Trains and evaluates one row in this process; returns the exit code."""
  run = study.named(name)
  devices.start([run.config.train.batch_size, run.config.evaluate.batch_size])
  study.folder(run).mkdir(exist_ok=True)
  judged = study.judging(run)
  code = job.do({'config': configs.to_json(run.config), 'workdir': str(study.folder(run)), 'weights': '', **judged})
  if code == 0:
    job.note(study.folder(run), judged=judged)
    if run.stem == 'bag':  # is trained on one channel of each image
      net = load(study.folder(run))
      alone = {str(side): cost.macs(net.model, (0,), side)['macs'] for side in run.config.train.image_sizes}
      job.note(study.folder(run), training_macs=alone)
  return code


class Baseline(ResNet):
  """A ResNet-18 whose first convolution is `layer`; the rest of the stem is flaxnets'."""

  block: Any = BasicBlock
  layer: Any = None

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    subset: tuple[int, ...] | None = None,
    present: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    norm = functools.partial(self.norm, train=train, dtype=self.dtype)
    subset = check_subset(images, self.num_channels, subset, present)
    x = BaselineStem(self.num_channels, self.width, norm, self.layer, name=STEM)(images, subset, present)
    return Head(self.num_classes, name=HEAD)(self.body(x, norm))

  def first_kernel(self, variables: Mapping[str, Any], subset: tuple[int, ...]) -> np.ndarray:
    """Without features: the kernels of these layers are not shown anywhere."""
    return np.zeros((SIZE, SIZE, len(subset), 0), np.float32)


class BaselineStem(nn.Module):
  """Standardises, convolves by `layer`, normalises and pools, as flaxnets' Stem does."""

  num_channels: int
  width: int
  norm: Norm
  layer: type[nn.Module]

  @nn.compact
  def __call__(self, images: jax.Array, subset: tuple[int, ...], present: jax.Array | None) -> jax.Array:
    x = Standardize(self.num_channels, name=STANDARDIZE)(images, subset)
    if present is None:
      present = jnp.ones((1, len(subset)), bool)
    x = jnp.where(present[:, None, None, :], x, 0.0)
    x = self.layer(self.num_channels, self.width, name=CONV)(x, subset, present)
    return max_pool(nn.relu(self.norm(name='norm')(x)))


class GeneratedConv(nn.Module):
  """A convolution with the kernels of `kernels`, times C / m."""

  num_channels: int
  features: int

  @nn.compact
  def __call__(self, x: jax.Array, subset: tuple[int, ...], present: jax.Array) -> jax.Array:
    with jax.named_scope(MIXING):  # made once per call, not per image
      kernels = self.kernels()
    bank = kernels.reshape(self.num_channels, SIZE, SIZE, self.features)
    kernel = jnp.moveaxis(bank, 0, 2)[:, :, jnp.asarray(subset)]
    scale = self.num_channels / present.sum(axis=1)
    return convolve(x, kernel, STRIDES) * scale[:, None, None, None]

  def kernels(self) -> jax.Array:
    """(C, SIZE x SIZE x features)."""
    raise NotImplementedError


class HyperConv(GeneratedConv):
  def kernels(self) -> jax.Array:
    embedding = self.param('embedding', nn.initializers.normal(1.0), (self.num_channels, 32))
    hidden = nn.relu(nn.Dense(128, name='hidden', kernel_init=nn.initializers.he_normal())(embedding))
    # So that the kernels begin with the deviation of conv_init, whose fan out is SIZE x SIZE x features.
    spread = nn.initializers.variance_scaling(2.0 / (SIZE**2 * self.features), 'fan_in', 'normal')
    return nn.Dense(SIZE**2 * self.features, name='kernels', kernel_init=spread)(hidden)


class TemplateConv(GeneratedConv):
  templates: int = 12

  def kernels(self) -> jax.Array:
    templates = self.param('templates', conv_init, (SIZE, SIZE, self.templates, self.features))
    mixture = self.param('mixture', nn.initializers.normal(self.templates**-0.5), (self.num_channels, self.templates))
    return mixture @ jnp.moveaxis(templates, 2, 0).reshape(self.templates, -1)


class DepthwiseConv(nn.Module):
  num_channels: int
  features: int

  @nn.compact
  def __call__(self, x: jax.Array, subset: tuple[int, ...], present: jax.Array) -> jax.Array:
    shape = (SIZE, SIZE, self.num_channels, self.features)
    bank = self.param('kernel', conv_init, shape)
    bias = self.param('bias', nn.initializers.zeros, (self.num_channels, self.features))
    bias, total = bias[:, None, None, None], 0.0
    for place, channel in enumerate(subset):
      kernel = bank[:, :, channel : channel + 1]
      own = nn.relu(convolve(x[..., place : place + 1], kernel, STRIDES) + bias[channel])
      total += own * present[:, place, None, None, None]
    mean = total / present.sum(axis=1)[:, None, None, None]
    return Conv(self.features, 1, name='pointwise')(mean)


class OneChannelConv(nn.Module):
  """Of one channel: the sum of x, all but one of whose channels are zero."""

  num_channels: int
  features: int

  @nn.compact
  def __call__(self, x: jax.Array, subset: tuple[int, ...], present: jax.Array) -> jax.Array:
    return Conv(self.features, SIZE, STRIDES, name='shared')(x.sum(axis=-1, keepdims=True))


class Bag(Baseline):
  """Each channel of a subset alone through the network; logits of the mean of the features.

  With a mask, as in training, every example must have exactly one channel.
  """

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    subset: tuple[int, ...] | None = None,
    present: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    norm = functools.partial(self.norm, train=train, dtype=self.dtype)
    subset = check_subset(images, self.num_channels, subset, present)
    batch, height, width, count = images.shape
    stem = BaselineStem(self.num_channels, self.width, norm, self.layer, name=STEM)
    if present is not None:
      return Head(self.num_classes, name=HEAD)(self.body(stem(images, subset, present), norm))
    # Image i's channel c becomes image i x m + c, of all channels but with only c present.
    full = jnp.broadcast_to(images[:, None], (batch, count, height, width, count)).reshape(-1, height, width, count)
    alone = jnp.tile(jnp.eye(count, dtype=bool), (batch, 1))
    x = self.body(stem(full, subset, alone), norm)
    x = x.mean(axis=(1, 2), keepdims=True).reshape(batch, count, 1, -1).mean(axis=1, keepdims=True)
    return Head(self.num_classes, name=HEAD)(x)


NETWORKS = {
  'hypernet': functools.partial(Baseline, layer=HyperConv),
  'templates': functools.partial(Baseline, layer=TemplateConv),
  'depthwise': functools.partial(Baseline, layer=DepthwiseConv),
  'bag': functools.partial(Bag, layer=OneChannelConv),
}


if __name__ == '__main__':
  main()
