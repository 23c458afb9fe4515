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
from flaxnets.evaluation import evaluator
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


class Estimator:
  """Compiled functions that estimate a network's BatchNorm statistics on subsets of its channels.

  As in `flaxnets.evaluation.evaluator`, up to MAX_COMPILED subsets get a function each. More subsets, or examples that
  can lack channels themselves, share one function that takes all channels and a mask. Both give the same statistics up
  to rounding.

  Args:
    model: a network with BatchNorm.
    subsets: the subsets whose statistics will be estimated.
    view: of (number, batch) to raw images (B, S, S, C) and a mask (B, C); see `recalibrate.view_of`.
    has_missing_channels: whether examples can lack channels. Each then counts with those of a subset that it has.
    mesh: devices to spread batches over; the statistics are those of the global batch.
  """

  def __init__(
    self, model: Classifier, subsets: Sequence[Subset], view: View, *, has_missing_channels: bool, mesh: Mesh
  ):
    self._model = model.clone(norm=functools.partial(model.norm, momentum=0.0))  # statistics of one batch only
    self._mesh, self._batch, self._replicated = mesh, devices.sharded(mesh), devices.replicated(mesh)
    self._view = jax.jit(view, in_shardings=(self._replicated, self._batch), out_shardings=self._batch)
    self._shared = self._compile(self._statistics_under_mask)
    share = has_missing_channels or len(subsets) > evaluator.MAX_COMPILED
    self._functions = {} if share else {each: self._compile(self._statistics_of(each)) for each in subsets}

  def compilations(self, subsets: Iterable[Subset]) -> int:
    """How many functions are compiled to estimate the statistics of some subsets, beside the view."""
    return len({self._functions.get(subset, self._shared) for subset in subsets})

  def _statistics_under_mask(self, variables, inside, images, present):
    return self._model.apply(variables, images, present=present & inside[None], train=True, mutable=['batch_stats'])[1]

  def _statistics_of(self, subset: Subset):
    def statistics(variables, inside, images, present):
      del inside, present
      images = images[..., jnp.asarray(subset)]
      return call_on_subset(self._model, variables, images, subset, train=True, mutable=['batch_stats'])[1]

    return statistics

  def _compile(self, statistics_of: Callable[..., Any]) -> Callable[..., Any]:
    def add(pooled, share, weights, inside, images, present):
      found = statistics_of({**weights, 'batch_stats': pooled}, inside, images, present)
      return pool(pooled, found['batch_stats'], share)

    batch, replicated = self._batch, self._replicated
    shardings = (replicated, replicated, replicated, replicated, batch, batch)
    return jax.jit(add, donate_argnums=0, in_shardings=shardings, out_shardings=replicated)

  def __call__(
    self, variables: Mapping[str, Any], read: Iterable[Mapping[str, np.ndarray]], subsets: Sequence[Subset]
  ) -> dict[Subset, Any]:
    """The BatchNorm statistics of the network over some batches, for each of some subsets, from zero.

    Every batch is normalised by its own statistics, as in training. The statistics of the first BatchNorm therefore do
    not depend on how the images are split into batches. Those of later layers are the more accurate, the larger the
    batches are.

    Args:
      variables: the network's.
      read: this host's share of batches, all of one size: 'image', 'size' and 'present'.
      subsets: which.

    Returns:
      'batch_stats' of each subset, NumPy arrays.
    """
    weights = jax.device_put({key: variables[key] for key in ('params', 'channel_stats')}, self._replicated)
    zeros = jax.tree.map(lambda value: np.zeros(value.shape, value.dtype), variables['batch_stats'])
    pooled = {subset: jax.device_put(zeros, self._replicated) for subset in subsets}
    inside = {subset: self._inside(subset) for subset in subsets}
    one_at_a_time = sums_share_threads(self._mesh)
    for number, arrays in enumerate(devices.to_devices(read, self._mesh)):
      images, present = self._view(np.int32(number), arrays)
      jax.block_until_ready(pooled)  # batches that wait for their turn would fill the devices' memory
      for subset in subsets:
        add, share = self._functions.get(subset, self._shared), np.float32(1 / (number + 1))
        pooled[subset] = add(pooled[subset], share, weights, inside[subset], images, present)
        if one_at_a_time:
          jax.block_until_ready(pooled[subset])
    return jax.device_get(pooled)

  def _inside(self, subset: Subset) -> jax.Array:
    """(C,) bool on every device: the channels of a subset."""
    return jax.device_put(np.isin(np.arange(self._model.num_channels), subset), self._replicated)


def sums_share_threads(mesh: Mesh) -> bool:
  """Whether programs that sum over the devices must run one at a time.

  On CPUs, two of them at once can take the very threads that each waits for.
  """
  return all(device.platform == 'cpu' for device in mesh.devices.flat)


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
