"""ResAttentionNet: three layers in place of ResNet-34's sixteen blocks.

The paper's EnhancedResidualAttentionModel. Its report does not draw the inside of the attention module; this
reading (see docs/resattention.md) has exactly its count of operations.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxnets.nn.attention import AttentionModule
from flaxnets.nn.blocks import Bottleneck, Head, Norm, batch_norm
from flaxnets.nn.stem import Stem


class ResAttentionNet(nn.Module):
  """Layer 1: the stem. Layer 2: a bottleneck and an attention module. Layer 3: a bottleneck. Then norm and head.

  All at a quarter of the input's resolution: there is no stride after the stem.

  Attributes:
    mask: how the attention module makes its mask, see `flaxnets.nn.attention.AttentionModule`.
    norm: called with train=, dtype=, name= and scale_init=, returns a norm layer.
    The others: see `flaxnets.models.build`.
  """

  channels: int
  num_classes: int
  stem: str = 'dynamic'
  completion: str = 'linear'
  width: int = 64
  small_images: bool = False
  zero_init: bool = False
  mask: str = 'spatial'
  norm: Norm = batch_norm
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: jax.Array, subset: tuple[int, ...] | None = None, present: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """(b, h, w, m) raw pixels -> (b, num_classes) logits; subset and present as in DynamicConv."""
    norm = functools.partial(self.norm, train=train, dtype=self.dtype)
    block = functools.partial(Bottleneck, norm=norm, zero_init=self.zero_init, dtype=self.dtype)
    x = Stem(
      self.channels, self.width, norm, self.stem, self.completion, self.small_images, self.dtype, name='stem'
    )(images, subset, present)
    x = block(4 * self.width, name='layer2_block')(x)
    x = AttentionModule(
      4 * self.width, norm, self.mask, zero_init=self.zero_init, dtype=self.dtype, name='layer2_attention'
    )(x)
    x = block(8 * self.width, name='layer3_block')(x)
    x = nn.relu(norm(name='norm')(x))
    return Head(self.num_classes, name='head')(x)
