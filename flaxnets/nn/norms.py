"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Norm = Callable[..., nn.Module]


class BatchNorm(nn.Module):
  """Batch normalisation: S. Ioffe and C. Szegedy, 2015; nn.BatchNorm to rounding, variables and all.

  It computes scale * x + shift where Flax subtracts the mean first: XLA on CPUs then keeps no second copy of every
  map for the backward pass, which is up to a sixth of a ResAttentionNet's training step.

  Attributes:
    train: whether to take the batch's own statistics (of all devices) and to move the running ones.
    momentum: what the running ones keep of themselves each time; 0 leaves those of the last batch.
    dtype: of the result. Statistics and the arithmetic are float32.
  """

  train: bool
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32
  scale_init: nn.initializers.Initializer = nn.initializers.ones

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features = x.shape[-1:]
    scale = self.param('scale', self.scale_init, features, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, features, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, features, jnp.float32)
    x = x.astype(jnp.float32)
    if self.train:
      axes = tuple(range(x.ndim - 1))
      mean = x.mean(axes)
      var = jnp.maximum((x * x).mean(axes) - mean * mean, 0.0)
      if not self.is_initializing():
        running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
        running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
    else:
      mean, var = running_mean.value, running_var.value
    scale = scale * jax.lax.rsqrt(var + self.epsilon)
    return (scale * x + (bias - scale * mean)).astype(self.dtype)


def batch_norm(*, train: bool, **kwargs) -> BatchNorm:
  """BatchNorm with PyTorch's defaults (their momentum 0.1 is 0.9 here).

  One difference stays: the biased variance of a batch goes into the running one, as in Flax, and PyTorch's is
  n / (n - 1) times as large, with n = batch x height x width: by 0.2 % where 64 maps are 3 x 3.
  """
  return BatchNorm(train, **kwargs)


def group_norm(*, train: bool, **kwargs) -> nn.GroupNorm:
  """GroupNorm over groups of 8 features: nothing is kept between batches. Y. Wu and K. He, ECCV 2018."""
  del train
  return nn.GroupNorm(num_groups=None, group_size=8, epsilon=1e-5, **kwargs)


NORMS = {'batch': batch_norm, 'group': group_norm}
