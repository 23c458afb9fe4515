"""BatchNorm statistics of a network on given images, pooled over batches, for each subset of channels.

Y. Wu and J. Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3 ("PreciseBN").
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxnets.augment.pipeline import View
from flaxnets.channels import Subset
from flaxnets.errors import InputError
from flaxnets.models.classifier import Classifier, call_on_subset
from flaxnets.runtime import devices


def replace_unreadable(read: Iterable[Mapping[str, np.ndarray]], name: str) -> Iterator[dict[str, np.ndarray]]:
  """Batches in which readable examples of the same batch replace unreadable ones: in training mode every row counts."""
  for batch in read:
    readable = np.flatnonzero(batch['mask'])
    if not len(readable):
      raise InputError(f'{name}: none of {len(batch["mask"])} examples in a row can be read')
    rows = np.where(batch['mask'], np.arange(len(batch['mask'])), np.resize(readable, len(batch['mask'])))
    yield {key: batch[key][rows] for key in ('image', 'size', 'present')}


def estimate(
  model: Classifier,
  variables: Mapping[str, Any],
  subsets: Sequence[Subset],
  read: Iterable[Mapping[str, np.ndarray]],
  view: View,
  *,
  has_missing_channels: bool,
  mesh: Mesh,
) -> dict[Subset, Any]:
  """The BatchNorm statistics of a network over some batches, for each subset, from zero.

  Every batch is normalised by its own statistics, as in training. The statistics of the first BatchNorm therefore do
  not depend on how the images are split into batches. Those of later layers are the more accurate, the larger the
  batches are.

  Args:
    model: a network with BatchNorm.
    variables: the network's.
    subsets: which.
    read: this host's share of batches, all of one size: 'image', 'size' and 'present'.
    view: of (number, batch) to raw images (B, S, S, C) and a mask (B, C); see `recalibrate.view_of`.
    has_missing_channels: whether examples can lack channels. Each then counts with those of a subset that it has.
    mesh: devices to spread batches over; the statistics are those of the global batch.

  Returns:
    'batch_stats' of each subset, NumPy arrays.
  """
  forgetful = model.clone(norm=functools.partial(model.norm, momentum=0.0))  # keeps the statistics of one batch only

  def add(subset: Subset, pooled, share, weights, images, present):
    channels, variables = jnp.asarray(subset), {**weights, 'batch_stats': pooled}
    present = present[:, channels] if has_missing_channels else None
    _, changed = call_on_subset(
      forgetful, variables, images[..., channels], subset, present, train=True, mutable=['batch_stats']
    )
    return pool(pooled, changed['batch_stats'], share)

  batch, replicated = devices.sharded(mesh), devices.replicated(mesh)
  see = jax.jit(view, in_shardings=(replicated, batch), out_shardings=batch)
  adds = {subset: _compiled(functools.partial(add, subset), mesh) for subset in subsets}
  weights = jax.device_put({key: variables[key] for key in ('params', 'channel_stats')}, replicated)
  zeros = jax.tree.map(lambda value: np.zeros(value.shape, value.dtype), variables['batch_stats'])
  pooled = {subset: jax.device_put(zeros, replicated) for subset in subsets}
  for number, arrays in enumerate(devices.to_devices(read, mesh)):
    images, present = see(np.int32(number), arrays)
    for subset in subsets:
      pooled[subset] = adds[subset](pooled[subset], np.float32(1 / (number + 1)), weights, images, present)
      # One at a time: programs that sum over CPU devices, at once, can take the very threads that each waits for.
      jax.block_until_ready(pooled[subset])
  return jax.device_get(pooled)


def _compiled(add: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
  batch, replicated = devices.sharded(mesh), devices.replicated(mesh)
  return jax.jit(
    add, donate_argnums=0, in_shardings=(replicated, replicated, replicated, batch, batch), out_shardings=replicated
  )


def pool(pooled: Mapping[str, Any], part: Mapping[str, Any], share: jax.Array) -> dict[str, Any]:
  """Mean and variance of a union of two samples, by the law of total variance, in every layer of nested dicts.

  Args:
    pooled: 'mean' and (biased) 'var' of the first sample.
    part: those of the second.
    share: the second sample's share of all examples, 0..1.
  """
  if 'mean' not in pooled:
    return {name: pool(pooled[name], part[name], share) for name in pooled}
  shift = part['mean'] - pooled['mean']
  within = (1 - share) * pooled['var'] + share * part['var']
  return {'mean': pooled['mean'] + share * shift, 'var': within + share * (1 - share) * shift**2}
