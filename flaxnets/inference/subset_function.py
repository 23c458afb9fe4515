"""A trained network on one subset as a plain function: kernel mixed, evaluation view and weights as constants.

The evaluation view of images of one size is an axis-aligned linear map, so that two constant matrices, one for rows and
one for columns, stand for the gathers of `flaxnets.augment.warp`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from flaxnets.augment import geometry, pipeline
from flaxnets.augment.warp import subsamples_for, taps_along
from flaxnets.channels import Subset
from flaxnets.errors import InputError

if TYPE_CHECKING:
  from flaxnets.inference.network import Network


def subset_function(net: Network, order: tuple[int, ...], size: tuple[int, int]) -> Callable[[jax.Array], jax.Array]:
  """The function of raw images (b, height, width, m) to logits (b, K), with all else as constants.

  Args:
    net: the network.
    order: its channels in the order of the input.
    size: height and width, pixels.
  """
  subset = tuple(sorted(order))
  model, variables = completed(net, subset)
  rows, columns = view_matrices(net, size)
  restored = tuple(np.argsort(order).tolist())

  def function(images: jax.Array) -> jax.Array:
    x = pipeline.in_order(images, restored).astype(jnp.float32)
    x = x if _is_identity(rows) else jnp.einsum('sh,bhwc->bswc', rows, x, precision='highest')
    x = x if _is_identity(columns) else jnp.einsum('tw,bswc->bstc', columns, x, precision='highest')
    if model.num_channels > len(subset):  # raw zeros are the black that this network fills in
      black = jnp.zeros_like(x[..., :1])
      planes = [x[..., subset.index(c) : subset.index(c) + 1] if c in subset else black for c in net.channels.full]
      x = jnp.concatenate(planes, axis=-1)
    return jnp.asarray(model.apply(variables, x))

  return function


def completed(net: Network, subset: Subset) -> tuple[nn.Module, dict[str, Any]]:
  """A network for one subset with that subset's kernel, mixed: no completion is left to compute.

  Returns:
    The module and its variables as JAX arrays. It takes the subset's channels; one with a `conv` stem that fills in
    black takes all, for no kernel can tell black inside of the image from the means in the padding.
  """
  variables = jax.tree.map(jnp.asarray, net.variables_of(subset))
  if net.model.stem != 'dynamic' and net.model.completion == 'black':
    return net.model, variables
  flat = traverse_util.flatten_dict(variables, sep='.')
  flat['params.stem.conv.kernel'] = jnp.asarray(net.model.first_kernel(net.variables, subset))
  if net.model.stem == 'dynamic':
    flat['channel_stats.stem.conv.correlation'] = jnp.eye(len(subset))
  for name in ('mean', 'std'):
    flat[f'channel_stats.stem.standardize.{name}'] = flat[f'channel_stats.stem.standardize.{name}'][np.asarray(subset)]
  return net.model.clone(num_channels=len(subset)), traverse_util.unflatten_dict(flat, sep='.')


def view_matrices(net: Network, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """The evaluation view of images of one size as matrices: rows (S, height) and columns (S, width) float32.

  With the indices and weights of `flaxnets.augment.warp.warp`. No fill is needed: the view lies in the image.
  """
  height, width = size
  side, resize = net.config.image_size, net.config.augment.evaluation_resize
  if min(size) < 1:
    raise InputError(f'images of {height} x {width} pixels hold nothing; give height and width of 1 or more')
  subsamples = subsamples_for(size, side, resize=resize)
  view = geometry.evaluation_homographies(np.asarray([size]), canvas=size, image_size=side, resize=resize)[0]

  def matrix(scale: jax.Array, shift: jax.Array, length: int) -> np.ndarray:
    taps, cover = taps_along(scale * jnp.arange(side) + shift, scale, length, subsamples)
    weights = np.zeros((side, length), np.float32)
    for index, weight in taps:
      weights[np.arange(side), index] += weight
    return weights * np.asarray(cover / weights.sum(1))[:, np.newaxis]

  return matrix(view[1, 1], view[1, 2], height), matrix(view[0, 0], view[0, 2], width)


def _is_identity(matrix: np.ndarray) -> bool:
  return matrix.shape[0] == matrix.shape[1] and np.allclose(matrix, np.eye(len(matrix)), atol=1e-6)
