"""ResAttentionNet: few blocks on large maps, at half the MACs of ResNet-34.

It is the EnhancedResidualAttentionModel of the paper that flaxnets implements (docs/paper.md), which does
not show the inside of the attention module. This reading has exactly the paper's operation count
(docs/resattention.md).
"""

from __future__ import annotations

import functools

import jax
from flax import linen as nn

from flaxnets.models.classifier import Classifier
from flaxnets.nn.attention import MASKS, AttentionModule
from flaxnets.nn.blocks import Bottleneck
from flaxnets.nn.norms import Norm


class ResAttentionNet(Classifier):
  """Layer 1: the stem. Layer 2: a bottleneck and an attention module. Layer 3: a bottleneck. Then norm and head.

  All layers work at a quarter of the input's resolution (with small_images at all of it); nothing after the stem has a
  stride.

  Attributes:
    mask: how the attention module computes its mask; see `flaxnets.nn.attention.AttentionModule`.
  """

  mask: str = 'spatial'

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.mask not in MASKS:
      raise ValueError(f'no mask {self.mask!r}; there are {", ".join(MASKS)}')

  def body(self, x: jax.Array, norm: Norm) -> jax.Array:
    options = {'zero_init': self.zero_init, 'dtype': self.dtype}
    block = functools.partial(Bottleneck, norm=norm, **options)
    x = block(features=4 * self.width, name='layer2_block')(x)
    x = AttentionModule(4 * self.width, norm, self.mask, **options, name='layer2_attention')(x)
    x = block(features=8 * self.width, name='layer3_block')(x)
    return nn.relu(norm(name='norm')(x))
