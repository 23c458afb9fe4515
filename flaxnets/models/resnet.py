"""ResNet-18, 34 and 50 for any subset of channels.

Source: K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016. In bottlenecks the 3 x 3 convolution has
the stride, as in the usual PyTorch recipe ("v1.5").
"""

from __future__ import annotations

from typing import Any

import jax

from flaxnets.models.classifier import Classifier
from flaxnets.nn.blocks import BasicBlock
from flaxnets.nn.norms import Norm


class ResNet(Classifier):
  """Stages of residual blocks; from stage to stage the features double and height and width halve.

  Attributes:
    stage_sizes: number of blocks in each stage.
    block: BasicBlock or Bottleneck.
    expansion: ratio of a block's output features to its stage's features.
  """

  stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
  block: Any = BasicBlock
  expansion: int = 1

  def body(self, x: jax.Array, norm: Norm) -> jax.Array:
    for stage, blocks in enumerate(self.stage_sizes):
      for index in range(blocks):
        x = self.block(
          self.width * 2**stage * self.expansion,
          norm,
          strides=2 if stage > 0 and index == 0 else 1,
          zero_init=self.zero_init,
          dtype=self.dtype,
          name=f'stage{stage + 1}_block{index + 1}',
        )(x)
    return x
