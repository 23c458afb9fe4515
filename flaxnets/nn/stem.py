"""The input side of every network: raw pixels are standardised, completed, convolved and pooled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxnets.nn import completion as completions
from flaxnets.nn.blocks import max_pool
from flaxnets.nn.conv import Conv, conv_general_dilated, conv_init
from flaxnets.nn.dynamic_conv import DynamicConv, check_subset
from flaxnets.nn.norms import Norm

# The names of a network's Stem and of its parts, for the accessors below and for `flaxnets.models.classifier`.
STEM, STANDARDIZE, CONV = 'stem', 'standardize', 'conv'

STEMS = ('dynamic', 'conv')
FILLS = ('mean', 'black', 'gray')


class Standardize(nn.Module):
  """Raw pixels to standardised channels: (x - mean) / std per channel, in float32, or float64 for pixels in float64.

  Variables: channel_stats/mean and channel_stats/std (C,), pixel units. They are 0 and 1, so that pixels pass
  unchanged, until measured values are stored with `flaxnets.put_statistics`.

  Attributes:
    num_channels: C, the size of the channel set.
  """

  num_channels: int

  @nn.compact
  def __call__(self, x: jax.Array, subset: tuple[int, ...] | None = None) -> jax.Array:
    """(b, h, w, m) pixels of the subset's channels -> the same shape; all C channels without a subset.

    Raises:
      ValueError: if x doesn't have the subset's number of channels.
    """
    subset = check_subset(x, self.num_channels, subset, None)
    mean = self.variable('channel_stats', 'mean', jnp.zeros, self.num_channels).value[jnp.asarray(subset)]
    std = self.variable('channel_stats', 'std', jnp.ones, self.num_channels).value[jnp.asarray(subset)]
    dtype = jnp.result_type(x, jnp.float32)
    mean, std = (jax.lax.broadcast_to_rank(value.astype(dtype), x.ndim) for value in (mean, std))
    return (x.astype(dtype) - mean) / std

  def black(self) -> jax.Array:
    """What a raw zero becomes, (C,)."""
    return -self.get_variable('channel_stats', 'mean') / self.get_variable('channel_stats', 'std')


class Stem(nn.Module):
  """From raw pixels to the first feature map, for every channel, a subset, or a mask of present channels.

  Forward mode (`jax.jvp`) raises, see `flaxnets.nn.conv.Conv`; through DynamicConv on its own it works.

  Attributes:
    num_channels: C, the size of the channel set.
    width: features of the convolution.
    norm: called with name=, returns a norm layer.
    kind: 'dynamic' (DynamicConv) or 'conv', an ordinary convolution of C inputs with absent channels filled in, as a
      baseline.
    completion: for 'dynamic', none, scale, linear or unit. For 'conv', the fill: mean (the channel's mean, which is
      zero after standardisation), black (raw zeros) or gray (the mean of the present channels, standardised).
    small_images: 3 x 3 at stride 1 without pooling, instead of 7 x 7 at stride 2 and 3 x 3 max pooling at stride 2.
    dtype: of activations.
  """

  num_channels: int
  width: int
  norm: Norm
  kind: str = 'dynamic'
  completion: str = 'linear'
  small_images: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, images: jax.Array, subset: tuple[int, ...] | None = None, present: jax.Array | None = None
  ) -> jax.Array:
    """(b, h, w, m) raw pixels -> (b, h / 4, w / 4, width), or (b, h, w, width) for small images.

    `subset` and `present` as in DynamicConv. Pixels of absent channels may be anything, NaN too.

    Raises:
      ValueError: see DynamicConv; for an unknown kind or fill.
    """
    check_stem(self.kind, self.completion)
    subset = check_subset(images, self.num_channels, subset, present)
    size, strides = (3, 1) if self.small_images else (7, 2)
    standardize = Standardize(self.num_channels, name=STANDARDIZE)
    x = standardize(images, subset)
    if self.kind == 'dynamic':
      x = DynamicConv(
        self.width,
        size,
        self.num_channels,
        strides,
        (size - 1) // 2,
        completion=self.completion,
        kernel_init=conv_init,
        conv_general_dilated=conv_general_dilated,
        dtype=self.dtype,
        name=CONV,
      )(x, subset if present is None else None, present)
    else:
      x = fill(x, self.completion, self.num_channels, subset, present, black=standardize.black())
      x = Conv(self.width, size, strides, dtype=self.dtype, name=CONV)(x)
    x = nn.relu(self.norm(name='norm')(x))
    return x if self.small_images else max_pool(x)


def fill(
  x: jax.Array, how: str, num_channels: int, subset: tuple[int, ...], present: jax.Array | None, *, black: jax.Array
) -> jax.Array:
  """Fills in the absent channels of a standardised x (b, h, w, m): (b, h, w, num_channels).

  Args:
    x: the subset's channels, or all of them with a mask.
    how: one of FILLS.
    num_channels: C.
    subset: indices of the channels in x.
    present: (b, C) bool, or None if no example lacks a channel of the subset.
    black: (C,) what a raw zero is after standardisation.
  """
  if present is None and len(subset) == num_channels:
    return x
  full = jnp.zeros((*x.shape[:-1], num_channels), x.dtype).at[..., jnp.asarray(subset)].set(x)
  if present is None:
    present = jnp.zeros((1, num_channels), bool).at[:, jnp.asarray(subset)].set(True)
  present = present[:, None, None, :]
  full = jnp.where(present, full, 0.0)
  if how == 'black':
    return jnp.where(present, full, jax.lax.broadcast_to_rank(black, full.ndim))
  if how == 'gray':
    gray = full.sum(-1, keepdims=True) / jnp.maximum(present.sum(-1, keepdims=True), 1)
    return jnp.where(present, full, gray)
  return full


def put_statistics(variables: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
  """Stores measured channel statistics in every `Standardize` and `DynamicConv` of a network.

  Example:
    >>> layer = Standardize(2)
    >>> images = jnp.full((1, 4, 4, 2), 30.0)
    >>> variables = put_statistics(layer.init(jax.random.key(0), images), {'mean': [10, 20], 'std': [5, 5]})
    >>> layer.apply(variables, images)[0, 0, 0].tolist()
    [4.0, 2.0]

  Args:
    variables: of any Linen module that holds such layers, as its `init` returns them.
    statistics: 'mean' and 'std' (C,) and 'correlation' (C, C), those that the layers need; other keys are ignored.
      `flaxnets.channel_statistics` measures them.

  Returns:
    The variables with the statistics in the collection channel_stats; the argument is not changed.

  Raises:
    ValueError: if the network has no such layer, the statistics lack a key or are of another number of channels, a
      value is not finite, a 'std' is not above 0, or the diagonal of 'correlation' is not 1.
  """
  if not variables.get('channel_stats'):
    raise ValueError('these variables hold no channel_stats: the network has neither a Standardize nor a DynamicConv')

  def measured(path, value):
    name = path[-1].key
    if name not in statistics:
      raise ValueError(f'the statistics have no {name!r}; they have {", ".join(statistics)}')
    replacement = jnp.asarray(statistics[name], value.dtype)
    if replacement.shape != value.shape:
      raise ValueError(f'statistics of shape {replacement.shape} for a network that takes {value.shape}')
    if not isinstance(replacement, jax.core.Tracer):
      _check_measured(name, np.asarray(replacement))
    return replacement

  stats = jax.tree.map_with_path(measured, variables['channel_stats'])
  return {**variables, 'channel_stats': stats}


def _check_measured(name: str, values: np.ndarray) -> None:
  """Raises ValueError for statistics that no images have."""
  if name == 'std' and not (values > 0).all():
    raise ValueError(f"the statistics' 'std' is {values.tolist()}; it must be above 0 for every channel")
  if not np.isfinite(values).all():
    raise ValueError(f"the statistics' {name!r} holds NaN or infinity; it must be finite for every channel")
  if name == 'correlation' and not np.allclose(values.diagonal(), 1, rtol=0, atol=1e-3):
    raise ValueError(
      f"the statistics' 'correlation' has the diagonal {values.diagonal().tolist()}; it must be 1 for every channel "
      '(a covariance is to be divided by the deviations)'
    )


def pixel_statistics(variables: Mapping[str, Any]) -> Mapping[str, jax.Array]:
  """'mean' and 'std' (C,), pixel units, of a network whose Stem is named STEM, from its variables."""
  return variables['channel_stats'][STEM][STANDARDIZE]


def stored_statistics(variables: Mapping[str, Any]) -> dict[str, Any]:
  """The channel statistics of a network whose Stem is named STEM, from its variables, as JSON has them.

  Returns:
    'mean' and 'std', lists of C numbers in pixel units, and 'correlation', C lists of C numbers. The last is None if
    the first layer is an ordinary convolution, which has none, or if it was not measured.
  """
  statistics = pixel_statistics(variables)
  found: dict[str, Any] = {name: np.asarray(statistics[name], np.float64).tolist() for name in ('mean', 'std')}
  measured = variables['channel_stats'][STEM].get(CONV, {}).get('correlation')
  usable = measured is not None and np.isfinite(measured).all()
  return found | {'correlation': np.asarray(measured, np.float64).tolist() if usable else None}


def bank(variables: Mapping[str, Any]) -> jax.Array:
  """The kernels of the first layer, (height, width, C, features), of a network whose Stem is named STEM."""
  return variables['params'][STEM][CONV]['kernel']


def correlation(variables: Mapping[str, Any]) -> jax.Array:
  """The correlation of the channels (C, C) in a network whose Stem is named STEM and is of kind 'dynamic'."""
  return variables['channel_stats'][STEM][CONV]['correlation']


def check_stem(kind: str, completion: str) -> None:
  """Raises ValueError for an unknown stem or completion, naming the known ones."""
  if kind not in STEMS:
    raise ValueError(f'no stem {kind!r}; there are {", ".join(STEMS)}')
  known = completions.COMPLETIONS if kind == 'dynamic' else FILLS
  if completion not in known:
    raise ValueError(f'no completion {completion!r} for the stem {kind!r}; there are {", ".join(known)}')
