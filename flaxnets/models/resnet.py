"""ResNet-18, 34 and 50 for any subset of channels.

K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016; in bottlenecks the 3 x 3 convolution has the
stride, as in the usual PyTorch recipe ("v1.5").
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxnets.nn.blocks import Head, Norm, batch_norm
from flaxnets.nn.stem import Stem


class ResNet(nn.Module):
  """Stem, four stages of residual blocks, average pooling and a dense layer.

  Attributes:
    stage_sizes: blocks in each stage; the features double from stage to stage.
    block: BasicBlock or Bottleneck.
    expansion: features of a block's output over those of its stage.
    norm: called with train=, dtype=, name= and scale_init=, returns a norm layer.
    The others: see `flaxnets.models.build`.
  """

  stage_sizes: tuple[int, ...]
  block: Any
  expansion: int
  channels: int
  num_classes: int
  stem: str = 'dynamic'
  completion: str = 'linear'
  width: int = 64
  small_images: bool = False
  zero_init: bool = False
  norm: Norm = batch_norm
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: jax.Array, subset: tuple[int, ...] | None = None, present: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """(b, h, w, m) raw pixels -> (b, num_classes) logits; subset and present as in DynamicConv."""
    norm = functools.partial(self.norm, train=train, dtype=self.dtype)
    x = Stem(
      self.channels, self.width, norm, self.stem, self.completion, self.small_images, self.dtype, name='stem'
    )(images, subset, present)
    for stage, blocks in enumerate(self.stage_sizes):
      for index in range(blocks):
        x = self.block(
          self.width * 2**stage * self.expansion, norm, strides=2 if stage > 0 and index == 0 else 1,
          zero_init=self.zero_init, dtype=self.dtype, name=f'stage{stage + 1}_block{index + 1}',
        )(x)
    return Head(self.num_classes, name='head')(x)
