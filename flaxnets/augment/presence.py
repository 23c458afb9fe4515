"""Which channels each training example gets: the sampling of subsets, on the device.

Pure functions of (key, position in the batch). An example never loses its last channel.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxnets.errors import InputError

PASSES = {'none': 1, 'drop': 1, 'hierarchical': 1, 'full_and_random': 1, 'pair': 2, 'sandwich': 3}  # a step
MODES = tuple(PASSES)
FILLS = ('absent', 'black', 'either')


def check(mode: str, fill: str, probability: float) -> None:
  """InputError, saying what there is, for settings that cannot be."""
  if mode not in MODES:
    raise InputError(f'no presence mode {mode!r}; there are {", ".join(MODES)}')
  if fill not in FILLS:
    raise InputError(f'no presence fill {fill!r}; there are {", ".join(FILLS)}')
  if not 0 <= probability <= 1:
    raise InputError(f'probability is {probability}; it must be from 0 to 1')
  if PASSES[mode] > 1 and fill != 'absent':
    raise InputError(
      f"presence fill {fill!r} changes the images, which all passes of mode {mode!r} share; use 'absent'"
    )


def sample_channels(key: jax.Array, mode: str, shape: tuple[int, int], *, probability: float) -> jax.Array:
  """Draws the channels that stay, for each pass of the network in a step.

  Args:
    key: a JAX key.
    mode: 'none': all stay. 'drop': with `probability` an example is hit; then one channel, drawn evenly, stays for
      sure and each other goes with even odds (the paper's SelectiveChannelDrop; the report gives no odds, these
      are ours). 'hierarchical': a size uniform in 1..C, then a subset of that size uniform (Y. Bao et al., ChannelViT,
      ICLR 2024). 'full_and_random': with `probability` incomplete, a size uniform in 1..C-1 and a uniform subset.
      'pair': two passes, with all channels, and incomplete: a size uniform in 1..C-1 and a uniform subset (with one
      channel alone both have it). 'sandwich': three passes, with all channels, with one, and as in 'hierarchical'
      (after J. Yu and T. Huang, Universally Slimmable Networks, ICCV 2019, who train the widest, the narrowest and a
      random width together).
    shape: (b, C).
    probability: in 0..1; only for 'drop' and 'full_and_random'.

  Returns:
    (b, PASSES[mode], C) bool.

  Raises:
    InputError: for an unknown mode.
  """
  check(mode, 'absent', probability)
  batch, channels = shape
  key_size, key_rank, key_hit = jax.random.split(key, 3)
  # The rank of every channel in a random order of its example: the m first ones are a uniform subset of size m.
  rank = jnp.argsort(jnp.argsort(jax.random.uniform(key_rank, shape), axis=1), axis=1)
  everything = jnp.ones(shape, bool)
  if mode == 'none':
    return everything[:, None]
  if mode in ('hierarchical', 'sandwich'):
    random = rank < jax.random.randint(key_size, (batch, 1), 1, channels + 1)
    if mode == 'hierarchical':
      return random[:, None]
    single = jnp.arange(channels) == jax.random.randint(key_hit, (batch, 1), 0, channels)
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
  """Takes channels away from raw images, in one of the paper's two ways.

  Args:
    key: a JAX key.
    images: (b, h, w, C) raw pixels.
    kept: (b, P, C) bool, from `sample_channels`.
    present: (b, C) bool, the channels that each example really has. Where it has none of the kept ones, it keeps
      all it has.
    fill: 'absent': the others are marked absent. 'black': they turn to raw zeros and count as present. 'either':
      one or the other for each example, with even odds.

  Returns:
    The images and a mask (b, P, C) of the channels that count as present.
  """
  check('none', fill, 0.0)
  present = present[:, None]
  kept = jnp.where((kept & present).any(axis=2, keepdims=True), kept, True)
  if fill == 'absent':
    return images, kept & present
  odds = 1.0 if fill == 'black' else 0.5
  blacken = jax.random.bernoulli(key, odds, (images.shape[0], 1, 1)) & ~kept
  return jnp.where(blacken[:, :, None, :], 0.0, images), (kept | blacken) & present
