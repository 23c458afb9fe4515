"""Normalisation layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Norm = Callable[..., nn.Module]

# Of numbers of present channels: a batch is split over them, and statistics of few examples are noise.
MOST_GROUPS = 4


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


class BatchNormBySize(BatchNorm):
  """BatchNorm with statistics of their own for examples with few and with many present channels.

  What a network makes of one channel has other means and deviations than what it makes of all. In training every
  example is normalised together with those of its group, and in evaluation by its group's running statistics. Scale
  and bias are shared. The idea is that of slimmable networks (J. Yu et al., ICLR 2019), which keep statistics for every
  width. While training has shown none of a group, its running statistics are those of all examples.

  Attributes:
    groups: G, how many there are.
    group: of all examples (an int), or of each, (b,).
  """

  groups: int = 1
  group: int | jax.Array = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    features, shape = x.shape[-1:], (self.groups, x.shape[-1])
    scale = self.param('scale', self.scale_init, features, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
    seen = self.variable('batch_stats', 'seen', jnp.zeros, (self.groups, 1), jnp.float32)
    x = x.astype(jnp.float32)
    members = None if isinstance(self.group, int) else jax.nn.one_hot(self.group, self.groups)
    if self.train:
      weights = jax.nn.one_hot(jnp.full(x.shape[0], self.group), self.groups) if members is None else members
      count = weights.sum(axis=0)
      axes = tuple(range(1, x.ndim - 1))
      moments = jnp.stack([x.mean(axes), (x * x).mean(axes)])
      mean, var = _mean_and_var(moments, weights / jnp.maximum(count, 1))
      if not self.is_initializing():
        there = count[:, None] > 0
        moves = there | (seen.value == 0)
        of_all = _mean_and_var(moments, jnp.full((x.shape[0], 1), 1 / x.shape[0]))
        for running, own, common in zip((running_mean, running_var), (mean, var), of_all, strict=True):
          moved = self.momentum * running.value + (1 - self.momentum) * jnp.where(there, own, common)
          running.value = jnp.where(moves, moved, running.value)
        seen.value = jnp.maximum(seen.value, there)
    else:
      mean, var = running_mean.value, running_var.value
    scale = scale * jax.lax.rsqrt(var + self.epsilon)
    shift = bias - scale * mean
    if members is None:
      scale, shift = scale[self.group], shift[self.group]
    else:
      # As products: the gradient of a gather adds up in no fixed order on GPUs.
      of_example = (x.shape[0], *(1,) * (x.ndim - 2), *features)
      scale, shift = (_contract('bg,gf->bf', members, each).reshape(of_example) for each in (scale, shift))
    return (scale * x + shift).astype(self.dtype)


_contract = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _mean_and_var(moments: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(G, F) each, from first and second moments of examples (2, b, F) and their weights (b, G), whose sums are one."""
  first, second = _contract('bg,mbf->mgf', weights, moments)
  return first, jnp.maximum(second - first * first, 0.0)


def batch_norm(*, train: bool, size: int | jax.Array, channels: int, **kwargs) -> BatchNorm:
  """BatchNorm with PyTorch's defaults (their momentum 0.1 is 0.9 here).

  One difference stays: the biased variance of a batch goes into the running one, as in Flax, and PyTorch's is
  n / (n - 1) times as large. With n = batch x height x width it is under 0.1 % in every layer here.
  """
  del size, channels
  return BatchNorm(train, **kwargs)


def batch_norm_by_size(*, train: bool, size: int | jax.Array, channels: int, **kwargs) -> BatchNormBySize:
  """BatchNormBySize for the examples' numbers of present channels: each its own group up to four, else four groups."""
  groups = min(channels, MOST_GROUPS)
  return BatchNormBySize(train, groups=groups, group=-(-size * groups // channels) - 1, **kwargs)


def group_norm(*, train: bool, size: int | jax.Array, channels: int, **kwargs) -> nn.GroupNorm:
  """GroupNorm over groups of 8 features: nothing is kept between batches. Y. Wu and K. He, ECCV 2018."""
  del train, size, channels
  return nn.GroupNorm(num_groups=None, group_size=8, epsilon=1e-5, **kwargs)


NORMS = {'batch': batch_norm, 'batch_by_size': batch_norm_by_size, 'group': group_norm}
