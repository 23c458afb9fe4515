"""The attention module of ResAttentionNet, with three ways to make its mask."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxnets.nn.blocks import Bottleneck, GlobalAveragePool
from flaxnets.nn.conv import Conv
from flaxnets.nn.norms import Norm

MASKS = ('spatial', 'self_attention', 'squeeze_excite')


class AttentionModule(nn.Module):
  """Residual attention: (1 + M) * T, where T is a trunk of two bottlenecks and M a mask in (0, 1).

  Source: F. Wang et al., Residual Attention Network for Image Classification, CVPR 2017. Since 1 + M is above one, the
  mask can emphasise features but not suppress them.

  Attributes:
    features: input and output features.
    norm: see `flaxnets.models.classifier.Classifier`.
    mask: 'spatial', one weight per position, from a bottleneck and a 1 x 1 convolution (the default, with which the
      network has the paper's count of operations); 'self_attention', the same with multi-head self-attention over all
      positions (A. Vaswani et al., 2017) instead of the bottleneck; 'squeeze_excite', one weight per feature, from the
      means over positions (J. Hu et al., CVPR 2018).
    zero_init: whether the last norm of each bottleneck starts at zero.
    dtype: of activations.
  """

  features: int
  norm: Norm
  mask: str = 'spatial'
  zero_init: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, h, w, features) -> the same shape."""
    trunk = x
    for name in ('trunk1', 'trunk2'):
      trunk = self._bottleneck(name)(trunk)
    if self.mask == 'spatial':
      weights = Conv(1, 1, dtype=self.dtype, name='mask_conv')(self._bottleneck('mask')(x))
    elif self.mask == 'self_attention':
      attended = PositionAttention(self.features, self.norm, dtype=self.dtype, name='mask')(x)
      weights = Conv(1, 1, dtype=self.dtype, name='mask_conv')(attended)
    elif self.mask == 'squeeze_excite':
      weights = SqueezeExcite(self.features, dtype=self.dtype, name='mask')(x)
    else:
      raise ValueError(f'no mask {self.mask!r}; there are {", ".join(MASKS)}')
    mask = nn.sigmoid(weights)
    if self.mask != 'squeeze_excite':
      self.sow('intermediates', 'attention', mask)  # (b, h, w, 1), a weight per position
    return trunk * (1 + mask)

  def _bottleneck(self, name: str) -> Bottleneck:
    return Bottleneck(self.features, self.norm, zero_init=self.zero_init, dtype=self.dtype, name=name)


class PositionAttention(nn.Module):
  """Self-attention over the h x w positions, with a quarter of the features in all heads together, plus its input."""

  features: int
  norm: Norm
  heads: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    batch, height, width, features = x.shape
    tokens = self.norm(name='norm')(x).reshape(batch, height * width, features)
    attend = nn.MultiHeadDotProductAttention(
      self.heads, qkv_features=self.features // 4, out_features=self.features, dtype=self.dtype, name='attention'
    )
    return x + attend(tokens).reshape(x.shape)


class SqueezeExcite(nn.Module):
  """Logits of one weight per feature, (b, 1, 1, features), through a bottleneck of a sixteenth of the features."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    squeezed = GlobalAveragePool(name='pool')(x)
    hidden = nn.relu(nn.Dense(max(self.features // 16, 1), dtype=self.dtype, name='squeeze')(squeezed))
    return nn.Dense(self.features, dtype=self.dtype, name='excite')(hidden)[:, None, None, :]
