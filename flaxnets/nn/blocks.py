"""Pooling, the head and residual blocks.

Residual blocks: K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxnets.nn.conv import Conv
from flaxnets.nn.norms import Norm

# As in PyTorch's nn.Linear: uniform within +-1 / sqrt(inputs), weights and biases.
dense_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def max_pool(x: jax.Array) -> jax.Array:
  """Maximum over 3 x 3 windows at stride 2, padded by one: (b, h, w, c) -> (b, ceil(h/2), ceil(w/2), c).

  Computed as maxima of strided slices, rows first. `nn.max_pool` gives the same values, but its gradient
  (select-and-scatter) takes a tenth of a ResNet-18 training step on CPUs.
  """
  low = jnp.finfo(x.dtype).min
  for axis in (1, 2):
    size = x.shape[axis]
    pad = [(0, 0)] * 4
    pad[axis] = (1, 1)
    padded = jnp.pad(x, pad, constant_values=low)
    taps = (jax.lax.slice_in_dim(padded, tap, tap + size, stride=2, axis=axis) for tap in range(3))
    x = functools.reduce(jnp.maximum, taps)
  return x


class GlobalAveragePool(nn.Module):
  """Mean over positions, in float32: (b, h, w, c) -> (b, c)."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


class Head(nn.Module):
  """Global average pooling and a dense layer: (b, h, w, c) -> (b, num_classes) logits in float32.

  The features (b, c), which the dense layer sees, are kept in the collection 'intermediates' if that is mutable.
  """

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = GlobalAveragePool(name='pool')(x)
    self.sow('intermediates', 'features', x)
    bound = x.shape[-1] ** -0.5

    def bias_init(key, shape, dtype):
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(self.num_classes, kernel_init=dense_init, bias_init=bias_init, name='dense')(x)


class BasicBlock(nn.Module):
  """Two 3 x 3 convolutions and a shortcut: (b, h, w, c) -> (b, ceil(h / strides), ceil(w / strides), features)."""

  features: int
  norm: Norm
  strides: int = 1
  zero_init: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = Conv(self.features, 3, self.strides, dtype=self.dtype, name='conv1')(x)
    y = nn.relu(self.norm(name='norm1')(y))
    y = Conv(self.features, 3, dtype=self.dtype, name='conv2')(y)
    y = self.norm(name='norm2', scale_init=last_scale(self.zero_init))(y)
    return nn.relu(y + shortcut(self, x))


class Bottleneck(nn.Module):
  """Convolutions 1 x 1 to a quarter of `features`, 3 x 3 (with the stride), 1 x 1 to `features`, and a shortcut."""

  features: int
  norm: Norm
  strides: int = 1
  zero_init: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = Conv(self.features // 4, 1, dtype=self.dtype, name='conv1')(x)
    y = nn.relu(self.norm(name='norm1')(y))
    y = Conv(self.features // 4, 3, self.strides, dtype=self.dtype, name='conv2')(y)
    y = nn.relu(self.norm(name='norm2')(y))
    y = Conv(self.features, 1, dtype=self.dtype, name='conv3')(y)
    y = self.norm(name='norm3', scale_init=last_scale(self.zero_init))(y)
    return nn.relu(y + shortcut(self, x))


def last_scale(zero_init: bool) -> nn.initializers.Initializer:
  """Initialises the last scale of a block. With zero the block starts as its shortcut.

  Source: P. Goyal et al., Accurate, Large Minibatch SGD, 2017.
  """
  return nn.initializers.zeros if zero_init else nn.initializers.ones


def shortcut(block: BasicBlock | Bottleneck, x: jax.Array) -> jax.Array:
  """x, or its 1 x 1 projection if the block changes the shape. Call it in the block's compact method."""
  if x.shape[-1] == block.features and block.strides == 1:
    return x
  x = Conv(block.features, 1, block.strides, dtype=block.dtype, name='shortcut_conv')(x)
  return block.norm(name='shortcut_norm')(x)
