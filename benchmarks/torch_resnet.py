"""ResNet-18, 34 and 50 in PyTorch, with the names of torchvision's state dicts.

Source: K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016; in bottlenecks the 3 x 3 convolution has
the stride. The input is standardised.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

SIZES = {'resnet18': (2, 2, 2, 2), 'resnet34': (3, 4, 6, 3), 'resnet50': (3, 4, 6, 3)}


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
  return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
  """Convolutions with a norm each, and a shortcut; `layers` are (kernel size, outputs, stride)."""

  def __init__(self, inputs: int, layers: list[tuple[int, int, int]]):
    super().__init__()
    self.count, before, total = len(layers), inputs, 1
    for number, (size, outputs, stride) in enumerate(layers, 1):
      setattr(self, f'conv{number}', conv(before, outputs, size, stride))
      setattr(self, f'bn{number}', nn.BatchNorm2d(outputs))
      before, total = outputs, total * stride
    self.downsample: nn.Module | None = None
    if inputs != before or total != 1:
      self.downsample = nn.Sequential(conv(inputs, before, 1, total), nn.BatchNorm2d(before))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = x
    for number in range(1, self.count + 1):
      y = getattr(self, f'bn{number}')(getattr(self, f'conv{number}')(y))
      if number < self.count:
        y = functional.relu(y)
    return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
  """(b, channels, h, w) standardised pixels -> (b, classes) logits."""

  def __init__(self, name: str, channels: int = 3, classes: int = 1000, width: int = 64):
    super().__init__()
    self.conv1, self.bn1 = conv(channels, width, 7, 2), nn.BatchNorm2d(width)
    self.pool = nn.MaxPool2d(3, 2, padding=1)
    before = width
    for stage, count in enumerate(SIZES[name]):
      inner, blocks = width * 2**stage, []
      for index in range(count):
        stride = 2 if stage > 0 and index == 0 else 1
        if name == 'resnet50':
          layers = [(1, inner, 1), (3, inner, stride), (1, 4 * inner, 1)]
        else:
          layers = [(3, inner, stride), (3, inner, 1)]
        blocks.append(Block(before, layers))
        before = layers[-1][1]
      setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
    self.fc = nn.Linear(before, classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = self.pool(functional.relu(self.bn1(self.conv1(x))))
    for stage in range(1, 5):
      x = getattr(self, f'layer{stage}')(x)
    return self.fc(x.mean((2, 3)))


def logits(network: ResNet, images: Any, mean: Any, std: Any) -> Any:
  """What a network in evaluation mode says of raw pixels (b, h, w, channels), as a NumPy array."""
  x = (torch.as_tensor(images, dtype=torch.float32) - torch.as_tensor(mean)) / torch.as_tensor(std)
  with torch.no_grad():
    return network.eval()(x.permute(0, 3, 1, 2).contiguous()).numpy()
