"""What all networks share: the stem for any subset of channels in front, pooling and a dense layer behind."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxnets.nn.blocks import Head
from flaxnets.nn.norms import Norm, batch_norm
from flaxnets.nn.stem import Stem


class Classifier(nn.Module):
  """A network from raw pixels to logits; a subclass says in `body` what lies between stem and head.

  Attributes:
    num_channels: size of the channel set.
    num_classes: logits that come out.
    norm: called with train=, dtype=, name= and scale_init=, returns a norm layer.
    The others: see `flaxnets.models.build`.
  """

  num_channels: int
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
    self,
    images: jax.Array,
    subset: tuple[int, ...] | None = None,
    present: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """(b, h, w, m) raw pixels -> (b, num_classes) logits in float32; subset and present as in DynamicConv."""
    norm = functools.partial(self.norm, train=train, dtype=self.dtype)
    x = Stem(
      self.num_channels, self.width, norm, self.stem, self.completion, self.small_images, self.dtype, name='stem'
    )(images, subset, present)
    return Head(self.num_classes, name='head')(self.body(x, norm))

  def body(self, x: jax.Array, norm: Norm) -> jax.Array:
    """(b, h, w, width) -> (b, h', w', features), called within the compact `__call__`."""
    raise NotImplementedError
