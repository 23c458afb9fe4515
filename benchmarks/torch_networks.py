"""The networks of `flaxnets.models` in PyTorch, computing the same function; and the conversion of weights.

Modules have the same names as in Flax, so the path of a weight is its key. Stems use the plain convolution.
Architectures: K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016; F. Wang et al., Residual
Attention Network for Image Classification, CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flax import traverse_util
from torch import nn
from torch.nn import functional

from flaxnets.errors import InputError


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2, bias=False)


class Standardize(nn.Module):
  """(x - mean) / std per channel; as in the Flax networks, the input is raw pixels."""

  def __init__(self, num_channels: int):
    super().__init__()
    self.register_buffer('mean', torch.zeros(num_channels))
    self.register_buffer('std', torch.ones(num_channels))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return (x - self.mean[:, None, None]) / self.std[:, None, None]


class Stem(nn.Module):
  """7 x 7 at stride 2, BatchNorm, ReLU, 3 x 3 max pooling at stride 2; for small images, 3 x 3 and no pooling."""

  def __init__(self, num_channels: int, width: int, small_images: bool):
    super().__init__()
    self.standardize = Standardize(num_channels)
    self.conv = conv(num_channels, width, 3) if small_images else conv(num_channels, width, 7, 2)
    self.norm = nn.BatchNorm2d(width)
    self.pool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.pool(functional.relu(self.norm(self.conv(self.standardize(x))), inplace=True))


class Block(nn.Module):
  """A residual block: convolutions from (kernel size, features, stride), a norm after each, and a shortcut."""

  def __init__(self, inputs: int, convolutions: Sequence[tuple[int, int, int]]):
    super().__init__()
    self.count, before, strides = len(convolutions), inputs, 1
    for number, (size, features, stride) in enumerate(convolutions, 1):
      self.add_module(f'conv{number}', conv(before, features, size, stride))
      self.add_module(f'norm{number}', nn.BatchNorm2d(features))
      before, strides = features, strides * stride
    self.projects = inputs != before or strides > 1
    if self.projects:
      self.shortcut_conv = conv(inputs, before, 1, strides)
      self.shortcut_norm = nn.BatchNorm2d(before)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = x
    for number in range(1, self.count + 1):
      y = getattr(self, f'norm{number}')(getattr(self, f'conv{number}')(y))
      if number < self.count:
        y = functional.relu(y, inplace=True)
    y += self.shortcut_norm(self.shortcut_conv(x)) if self.projects else x
    return functional.relu(y, inplace=True)


def basic(inputs: int, features: int, stride: int = 1) -> Block:
  return Block(inputs, ((3, features, stride), (3, features, 1)))


def bottleneck(inputs: int, features: int, stride: int = 1) -> Block:
  return Block(inputs, ((1, features // 4, 1), (3, features // 4, stride), (1, features, 1)))


class Head(nn.Module):
  """Mean over positions, and a dense layer."""

  def __init__(self, features: int, num_classes: int):
    super().__init__()
    self.dense = nn.Linear(features, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.dense(x.mean((2, 3)))


class ResNet(nn.Module):
  """See `flaxnets.models.resnet.ResNet`."""

  def __init__(
    self,
    stage_sizes: Sequence[int],
    block: Any,
    expansion: int,
    *,
    num_channels: int,
    num_classes: int,
    width: int,
    small_images: bool,
  ):
    super().__init__()
    self.stem = Stem(num_channels, width, small_images)
    self.blocks, inputs = [], width
    for stage, blocks in enumerate(stage_sizes):
      features = width * 2**stage * expansion
      for index in range(blocks):
        name = f'stage{stage + 1}_block{index + 1}'
        self.add_module(name, block(inputs, features, 2 if stage > 0 and index == 0 else 1))
        self.blocks.append(name)
        inputs = features
    self.head = Head(inputs, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = self.stem(x)
    for name in self.blocks:
      x = getattr(self, name)(x)
    return self.head(x)


class Attention(nn.Module):
  """See `flaxnets.nn.attention.AttentionModule`, with the mask 'spatial'."""

  def __init__(self, features: int):
    super().__init__()
    self.trunk1, self.trunk2 = bottleneck(features, features), bottleneck(features, features)
    self.mask, self.mask_conv = bottleneck(features, features), conv(features, 1, 1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.trunk2(self.trunk1(x)) * (1 + torch.sigmoid(self.mask_conv(self.mask(x))))


class ResAttentionNet(nn.Module):
  """See `flaxnets.models.resattention.ResAttentionNet`."""

  def __init__(self, *, num_channels: int, num_classes: int, width: int, small_images: bool):
    super().__init__()
    self.stem = Stem(num_channels, width, small_images)
    self.layer2_block = bottleneck(width, 4 * width)
    self.layer2_attention = Attention(4 * width)
    self.layer3_block = bottleneck(4 * width, 8 * width)
    self.norm = nn.BatchNorm2d(8 * width)
    self.head = Head(8 * width, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = self.layer3_block(self.layer2_attention(self.layer2_block(self.stem(x))))
    return self.head(functional.relu(self.norm(x), inplace=True))


RESNETS = {
  'resnet18': ((2, 2, 2, 2), basic, 1),
  'resnet34': ((3, 4, 6, 3), basic, 1),
  'resnet50': ((3, 4, 6, 3), bottleneck, 4),
}


def build(name: str, *, num_channels: int, num_classes: int, width: int = 64, small_images: bool = False) -> nn.Module:
  """The PyTorch counterpart of a network in `flaxnets.models.MODELS`: (b, num_channels, h, w) raw pixels -> logits.

  Raises:
    InputError: for a network without a counterpart.
  """
  sizes = {'num_channels': num_channels, 'num_classes': num_classes, 'width': width, 'small_images': small_images}
  if name == 'resattention':
    return ResAttentionNet(**sizes)
  if name not in RESNETS:
    raise InputError(f'no PyTorch counterpart of {name!r}; choose one of {", ".join([*RESNETS, "resattention"])}')
  return ResNet(*RESNETS[name], **sizes)


_KEYS = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}
_STATISTICS = {'mean': 'running_mean', 'var': 'running_var'}


def carried(variables: Mapping[str, Any]) -> dict[str, torch.Tensor]:
  """Flax variables ('params', 'batch_stats', 'channel_stats') as a state dict of the PyTorch network.

  Convolution kernels (h, w, in, out) become (out, in, h, w), and dense kernels (in, out) become (out, in). The
  correlation of the channels is skipped, since a plain stem does not have it.
  """
  state = {}
  for collection, keys in (('params', _KEYS), ('batch_stats', _STATISTICS), ('channel_stats', {})):
    for (*path, leaf), value in traverse_util.flatten_dict(variables.get(collection, {})).items():
      if leaf != 'correlation':
        state['.'.join([*path, keys.get(leaf, leaf)])] = torch.from_numpy(np.array(_torch_axes(np.asarray(value))))
  return state


def _torch_axes(value: np.ndarray) -> np.ndarray:
  return value.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim)))


def load(network: nn.Module, variables: Mapping[str, Any]) -> nn.Module:
  """Loads Flax variables into a network; weights and statistics must match one to one.

  Raises:
    InputError: if any is missing, left over or of another shape.
  """
  state = carried(variables)
  counters = {key: value for key, value in network.state_dict().items() if key.endswith('num_batches_tracked')}
  try:
    network.load_state_dict({**counters, **state})
  except RuntimeError as error:
    raise InputError(f'the weights do not fit the PyTorch network: {" ".join(str(error).split())}') from None
  return network
