"""Samples the subset of channels that each training example keeps, on the device.

Pure functions of (key, position in the batch). An example never loses its last channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets.channels import Subset
from flaxnets.errors import InputError

PASSES = {
  'none': 1,
  'drop': 1,
  'hierarchical': 1,
  'listed': 1,
  'full_and_random': 1,
  'pair': 2,
  'sandwich': 3,
}  # of the network per training step
MODES = tuple(PASSES)
FILLS = ('absent', 'black', 'either')


def check(mode: str, fill: str, probability: float, has_subsets: bool) -> None:
  """InputError for an unknown mode or fill, a probability outside 0..1, or a fill that the mode does not allow.

  `has_subsets` is whether there are subsets for mode 'listed'.
  """
  _check_sampling(mode, probability, has_subsets)
  _check_fill(fill)
  if PASSES[mode] > 1 and fill != 'absent':
    raise InputError(
      f"presence fill {fill!r} changes the images, which all passes of mode {mode!r} share; use 'absent'"
    )


def _check_sampling(mode: str, probability: float, has_subsets: bool) -> None:
  if mode not in MODES:
    raise InputError(f'no presence mode {mode!r}; there are {", ".join(MODES)}')
  if not 0 <= probability <= 1:
    raise InputError(f'probability is {probability}; it must be from 0 to 1')
  if mode == 'listed' and not has_subsets:
    raise InputError("presence mode 'listed' needs the subsets to draw from; list them in presence.subsets")


def _check_fill(fill: str) -> None:
  if fill not in FILLS:
    raise InputError(f'no presence fill {fill!r}; there are {", ".join(FILLS)}')


def sample_channels(
  key: jax.Array, mode: str, shape: tuple[int, int], *, probability: float, subsets: Sequence[Subset] = ()
) -> jax.Array:
  """Draws the channels that are kept, for each pass of the network in a training step.

  Args:
    key: a JAX key.
    mode: one of `MODES`.
      'none': all channels are kept.
      'drop': with `probability`, an example loses channels. One of its channels, drawn uniformly, is kept, and each
      other one is dropped with even odds. This is the paper's SelectiveChannelDrop; the paper does not give the odds.
      'hierarchical': a size uniform in 1..C, then a uniform subset of that size (Y. Bao et al., ChannelViT, ICLR 2024).
      'listed': a uniform draw from `subsets`. For a network that will meet a few known combinations of many channels:
      of 13 bands, 'hierarchical' draws any one of the subsets of three bands once in 3,718 examples. An example that
      lacks channels keeps those of the subset that it has.
      'full_and_random': with `probability`, a size uniform in 1..C-1 and a uniform subset of that size.
      'pair': two passes, the first with all channels, the second with a size uniform in 1..C-1 and a uniform subset of
      that size. If C is 1, both have the channel.
      'sandwich': three passes: with all channels, with one channel, and as in 'hierarchical' (after J. Yu and T. Huang,
      Universally Slimmable Networks, ICCV 2019, who train the widest, the narrowest and a random width together).
    shape: (b, C).
    probability: in 0..1; used by 'drop' and 'full_and_random' only.
    subsets: indices of the channels of each subset; used by 'listed' only.

  Returns:
    (b, PASSES[mode], C) bool.

  Raises:
    InputError: for an unknown mode, a probability outside 0..1, and for 'listed' without subsets.
  """
  _check_sampling(mode, probability, bool(subsets))
  batch, channels = shape
  key_size, key_rank, key_hit = jax.random.split(key, 3)
  # The rank of each channel in a random order: the channels of rank below m are a uniform subset of size m.
  rank = jnp.argsort(jnp.argsort(jax.random.uniform(key_rank, shape), axis=1), axis=1)
  everything = jnp.ones(shape, bool)
  if mode == 'none':
    return everything[:, None]
  if mode == 'listed':
    masks = np.array([np.isin(np.arange(channels), subset) for subset in subsets])
    return jnp.asarray(masks)[jax.random.randint(key_hit, (batch,), 0, len(masks))][:, None]
  if mode in ('hierarchical', 'sandwich'):
    random = rank < jax.random.randint(key_size, (batch, 1), 1, channels + 1)
    if mode == 'hierarchical':
      return random[:, None]
    single = jnp.arange(channels)[None] == jax.random.randint(key_hit, (batch, 1), 0, channels)
    return jnp.stack([everything, single, random], axis=1)
  incomplete = rank < jax.random.randint(key_size, (batch, 1), 1, max(channels, 2))
  if mode == 'pair':
    return jnp.stack([everything, incomplete], axis=1)
  if mode == 'drop':
    incomplete = (rank == 0) | jax.random.bernoulli(key_size, 0.5, shape)
  hit = jax.random.bernoulli(key_hit, probability, (batch, 1))
  return (~hit | incomplete)[:, None]


def drop_channels(
  key: jax.Array, images: jax.Array, kept: jax.Array, present: jax.Array, *, fill: str
) -> tuple[jax.Array, jax.Array]:
  """Drops channels from raw images, in one of the paper's two ways.

  Args:
    key: a JAX key.
    images: (b, h, w, C) raw pixels.
    kept: (b, P, C) bool, from `sample_channels`.
    present: (b, C) bool, the channels that each example really has. An example that has none of the kept channels
      keeps all that it has.
    fill: 'absent': dropped channels are marked as absent. 'black': they become raw zeros and count as present.
      'either': one or the other for each example, with even odds.

  Returns:
    The images, and a mask (b, P, C) of the channels that count as present.

  Raises:
    InputError: for an unknown fill.
  """
  _check_fill(fill)
  present = present[:, None]
  kept = jnp.where((kept & present).any(axis=2, keepdims=True), kept, True)
  if fill == 'absent':
    return images, kept & present
  odds = 1.0 if fill == 'black' else 0.5
  blacken = jax.random.bernoulli(key, odds, (images.shape[0], 1, 1)) & ~kept
  return jnp.where(blacken[:, :, None, :], 0.0, images), (kept | blacken) & present
