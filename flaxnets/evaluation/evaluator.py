"""Judging a network on every subset of channels: one compiled function a subset, one pass over the decoded data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from flaxnets.analysis import metrics
from flaxnets.augment import pipeline
from flaxnets.channels import Subset
from flaxnets.models.classifier import call_on_subset
from flaxnets.runtime import devices

TOP = 5


@dataclasses.dataclass
class SubsetResult:
  """What one subset's predictions came to.

  Attributes:
    confusion: (K, K) int64, rows are the truth.
    loss: mean cross-entropy.
    top5: share of examples whose class is among the five likeliest; None for five classes and fewer.
    predictions: (n,) int32 likeliest class of each example, in the order of `Evaluator.__call__`'s indices.
  """

  confusion: np.ndarray
  loss: float
  top5: float | None
  predictions: np.ndarray

  def summary(self, bootstrap: int = 1000) -> dict[str, Any]:
    """Accuracy, macro precision, recall and F1 with their intervals, loss and top-5."""
    return {**metrics.summary(self.confusion, bootstrap=bootstrap), 'top5': self.top5, 'loss': self.loss}

  @property
  def accuracy(self) -> float:
    return float(np.trace(self.confusion) / self.confusion.sum())


class Evaluator:
  """Compiled functions that judge one network on some subsets, for any variables and any data.

  Args:
    model: a network of `flaxnets.models`.
    subsets: what to judge it on.
    source_index: index of each of the network's channels in the source; -1 for one that the source lacks, and that is
      in no subset.
    image_size: side of the network's input, pixels.
    resize: the shorter side goes to image_size x this before the central crop.
    fill: (C,) what lies outside the image, raw pixels of the network's channels: their means.
    has_missing_channels: whether examples can lack channels of their own; each is then evaluated on what it has of a
      subset.
    mesh: devices to spread batches over.
  """

  def __init__(
    self,
    model: nn.Module,
    subsets: Sequence[Subset],
    *,
    source_index: Sequence[int],
    image_size: int,
    resize: float,
    fill: np.ndarray,
    has_missing_channels: bool,
    mesh: Mesh,
  ):
    self.subsets = list(subsets)
    self._mesh, self._classes = mesh, model.num_classes
    there, places = np.asarray(source_index) >= 0, np.maximum(source_index, 0)

    def view(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
      images = pipeline.evaluation_images(
        pipeline.in_order(batch['image'], places), batch['size'], image_size=image_size, resize=resize, fill=fill
      )
      return images, pipeline.in_order(batch['present'], places) & there

    def judge(subset: Subset, variables, tally, images, present, label, mask):
      of_subset = jnp.asarray(subset)
      present = present[:, of_subset] if has_missing_channels else None
      logits = call_on_subset(model, variables, images[..., of_subset], subset, present)
      # Each device counts its own examples, and sums meet once at the end: a program per subset that waits for other
      # devices is slower, and several of them at once can wait for each other's threads on CPUs.
      shares = jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), (logits, label, mask))
      tally, classes = jax.vmap(add_to_tally)(tally, *shares)
      return tally, classes.reshape(-1)

    batch, whole = devices.sharded(mesh), devices.replicated(mesh)
    self._view = jax.jit(view, in_shardings=batch, out_shardings=batch)
    self._judges = {
      subset: jax.jit(
        lambda *args, subset=subset: judge(subset, *args),
        donate_argnums=1,
        in_shardings=(whole, batch, batch, batch, batch, batch),
        out_shardings=batch,
      )
      for subset in self.subsets
    }

  def __call__(
    self, variables: Mapping[str, Any] | Mapping[Subset, Mapping[str, Any]], batches: Iterable[Mapping[str, Any]]
  ) -> tuple[dict[Subset, SubsetResult], np.ndarray]:
    """Judges every example of some batches once.

    Args:
      variables: the network's, or a mapping from subset to those that are its own (recalibrated ones).
      batches: this host's share, as `flaxnets.data.batches.evaluation_batches` yields them.

    Returns:
      A result for each subset, and the (n,) indices of the examples judged, in the order of the predictions.
    """
    of = variables if self.subsets[0] in variables else dict.fromkeys(self.subsets, variables)
    tallies = {subset: self._empty_tally() for subset in self.subsets}
    rows, waiting = [], None
    for batch in devices.to_devices(batches, self._mesh):
      images, present = self._view({key: batch[key] for key in ('image', 'size', 'present')})
      predicted = []
      for subset in self.subsets:
        tallies[subset], classes = self._judges[subset](
          of[subset], tallies[subset], images, present, batch['label'], batch['mask']
        )
        predicted.append(classes)
      # Results are fetched one batch late, so that the devices always have the next one to work on.
      if waiting is not None:
        rows.append(devices.to_host(waiting))
      waiting = (batch['index'], batch['mask'], jnp.stack(predicted, axis=1))
    if waiting is not None:
      rows.append(devices.to_host(waiting))
    indices, mask, classes = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    results_by_subset = {
      subset: self._subset_result(devices.to_host(tallies[subset]), classes[mask][:, place])
      for place, subset in enumerate(self.subsets)
    }
    return results_by_subset, indices[mask]

  def _empty_tally(self) -> dict[str, jax.Array]:
    """Zeros for each device to count on from, as `add_to_tally` takes them."""
    counts = {'confusion': (self._classes, self._classes), 'top': ()}
    zeros = {name: np.zeros((self._mesh.size, *shape), np.int32) for name, shape in counts.items()}
    zeros['loss'] = np.zeros(self._mesh.size, np.float32)
    sharding = devices.sharded(self._mesh)
    return {
      name: jax.make_array_from_callback(value.shape, sharding, value.__getitem__) for name, value in zeros.items()
    }

  def _subset_result(self, tally: Mapping[str, np.ndarray], predictions: np.ndarray) -> SubsetResult:
    """From every device's tally, stacked."""
    confusion = tally['confusion'].sum(axis=0, dtype=np.int64)
    examples = max(int(confusion.sum()), 1)
    top5 = int(tally['top'].sum()) / examples if self._classes > TOP else None
    return SubsetResult(confusion, float(tally['loss'].sum(dtype=np.float64)) / examples, top5, predictions)


def add_to_tally(
  tally: Mapping[str, jax.Array], logits: jax.Array, label: jax.Array, mask: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
  """Adds a batch's sums to a tally.

  Args:
    tally: 'confusion' (K, K) int32, 'loss' float32 and 'top' int32, sums so far.
    logits: (b, K).
    label: (b,).
    mask: (b,) bool, False for rows that count nothing.

  Returns:
    The tally and the (b,) int32 likeliest classes.
  """
  classes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  count = mask.astype(jnp.int32)
  loss = jnp.where(mask, optax.softmax_cross_entropy_with_integer_labels(logits, label), 0.0)
  own = jnp.take_along_axis(logits, label[:, None], axis=1)
  # Equal logits ahead of one's own place count as likelier, as argmax takes the first of equals.
  places = jnp.arange(logits.shape[-1])
  ahead = (logits > own) | ((logits == own) & (places < label[:, None]))
  top = ((ahead.sum(axis=-1) < TOP) & jnp.isfinite(own[:, 0])).astype(jnp.int32)
  return {
    'confusion': tally['confusion'].at[label, classes].add(count),
    'loss': tally['loss'] + loss.sum(),
    'top': tally['top'] + (top * count).sum(),
  }, classes
