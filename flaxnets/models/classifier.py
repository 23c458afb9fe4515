"""What all networks share: the stem for any subset of channels in front, pooling and a dense layer behind.

The functions below the class know how a network is called on a subset and where its variables lie.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxnets.channels import Subset
from flaxnets.nn import stem as stems
from flaxnets.nn.blocks import Head
from flaxnets.nn.dynamic_conv import subset_kernel
from flaxnets.nn.norms import BatchNorm, Norm

HEAD = 'head'


class Classifier(nn.Module):
  """A network from raw pixels to logits; a subclass defines in `body` what lies between stem and head.

  The attributes are the options of `flaxnets.models.build`, and so are those that a subclass adds.

  Attributes:
    num_channels: size of the channel set.
    num_classes: number of logits.
    stem, completion, small_images: see `flaxnets.nn.stem.Stem`, where `stem` is called kind.
    width: features of the first convolution, a multiple of 8; all others follow.
    zero_init: whether the last norm of every residual branch starts at zero.
    norm: called with train=, dtype=, name= and scale_init=, returns a norm layer.
    dtype: of activations; parameters and statistics stay float32.

  Raises:
    ValueError: when it is made, for a stem, completion, width or number of classes that is not possible.
  """

  num_channels: int
  num_classes: int
  stem: str = 'dynamic'
  completion: str = 'linear'
  width: int = 64
  small_images: bool = False
  zero_init: bool = False
  norm: Norm = BatchNorm
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    super().__post_init__()
    stems.check_stem(self.stem, self.completion)
    if self.width < 8 or self.width % 8:
      raise ValueError(f'the width must be a multiple of 8, such as 32 or 64, but it is {self.width}')
    if self.num_classes < 1:
      raise ValueError(f'the number of classes must be at least 1, but it is {self.num_classes}')

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
    x = stems.Stem(
      self.num_channels, self.width, norm, self.stem, self.completion, self.small_images, self.dtype, name=stems.STEM
    )(images, subset, present)
    return Head(self.num_classes, name=HEAD)(self.body(x, norm))

  def body(self, x: jax.Array, norm: Norm) -> jax.Array:
    """(b, h, w, width) -> (b, h', w', features), called within the compact `__call__`."""
    raise NotImplementedError

  def first_kernel(self, variables: Mapping[str, Any], subset: Subset) -> np.ndarray:
    """The kernel (height, width, m, features) of the present channels that does what the first layer does on a subset.

    With `conv` and 'black' it leaves out what absent channels add: a constant, except at the border of the image.
    """
    bank = stems.bank(variables)
    if self.stem != 'dynamic':
      kernel = np.asarray(bank)[:, :, list(subset)]
      if self.completion != 'gray':
        return kernel
      # The mean of the present channels stands in for each absent one, and so each takes a share of its kernel.
      absent = np.delete(bank, list(subset), axis=2)
      return kernel + absent.sum(axis=2, keepdims=True) / len(subset)
    correlation = jnp.asarray(stems.correlation(variables))
    return np.asarray(subset_kernel(jnp.asarray(bank), self.completion, subset, correlation))


def call_on_subset(
  model: Classifier,
  variables: Mapping[str, Any],
  images: jax.Array,
  subset: Subset,
  present: jax.Array | None = None,
  **options,
) -> Any:
  """Calls a network on the channels of a subset, of which examples may lack some.

  Args:
    model: the network.
    variables: its variables.
    images: (b, h, w, m) raw pixels of the subset's channels; anything where a channel is absent.
    subset: sorted indices of the m channels, static.
    present: (b, m) bool, which of them each example has. None if no example lacks any: the kernel is then completed
      once for all examples, in place of every example's input.
    **options: of `model.apply`, such as train= and mutable=.

  Returns:
    (b, num_classes) logits, or what `model.apply` returns with these options.
  """
  if present is None:
    return model.apply(variables, images, subset=subset, **options)
  full = jnp.zeros((*images.shape[:-1], model.num_channels), images.dtype).at[..., jnp.asarray(subset)].set(images)
  mask = jnp.zeros((len(images), model.num_channels), bool).at[:, jnp.asarray(subset)].set(present)
  return model.apply(variables, full, present=mask, **options)


def outputs(
  model: Classifier, variables: Mapping[str, Any], images: jax.Array, subset: Subset, present: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """What a network computes on the way to its logits; arguments as for `call_on_subset`.

  Returns:
    Logits (b, num_classes), what the last layer sees (b, features), and the attention mask over positions (b, h, w) in
    0..1, None for a network without one.
  """
  logits, kept = call_on_subset(model, variables, images, subset, present, mutable=['intermediates'])
  kept = kept['intermediates']
  masks = [layer['attention'][0] for layer in kept.values() if 'attention' in layer]
  return logits, kept[HEAD]['features'][0], masks[0][..., 0].astype(jnp.float32) if masks else None


def num_features(variables: Mapping[str, Any]) -> int:
  """How many features the last layer of a network sees, from its variables."""
  return variables['params'][HEAD]['dense']['kernel'].shape[0]
