"""Evaluation of one network on subsets of its channels, in one pass over the decoded data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from flaxnets.analysis import metrics
from flaxnets.augment import pipeline
from flaxnets.channels import Subset
from flaxnets.evaluation import logit_metrics
from flaxnets.models.classifier import Classifier, call_on_subset
from flaxnets.runtime import devices

# A subset's own function does the least work per image, but takes seconds to compile. Beyond this many subsets, one
# function that takes the subset as a mask evaluates all of them.
MAX_COMPILED = 32

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # of a batch: index, label, mask, predictions


@dataclasses.dataclass
class SubsetResult:
  """The result of one subset.

  Attributes:
    values: the metrics from logits by name; see `flaxnets.evaluation.logit_metrics`.
    labels: (n,) int32 true class of each example.
    predictions: (n,) int32 class with the largest logit, in the order of `Evaluator.__call__`'s indices.
    num_classes: K.
  """

  values: dict[str, Any]
  labels: np.ndarray
  predictions: np.ndarray
  num_classes: int

  def summary(self, bootstrap: int = 1000) -> dict[str, Any]:
    """Accuracy, macro precision, recall and F1 with their intervals, and the metrics from logits."""
    # A class that is neither a label nor a prediction needs no row: with a row for each class, one label of 99,999
    # would make the matrix 75 GiB large.
    found, places = np.unique(np.concatenate([self.labels, self.predictions]), return_inverse=True)
    labels, predictions = np.split(places, 2)
    scores = metrics.summary(metrics.confusion_matrix(labels, predictions, len(found)), bootstrap=bootstrap)
    return {**scores, **self.values}

  @property
  def confusion(self) -> np.ndarray:
    """(K, K) int64 numbers of examples, rows are the true classes; computed on each access."""
    return metrics.confusion_matrix(self.labels, self.predictions, self.num_classes)

  @property
  def hits(self) -> np.ndarray:
    """(n,) bool, whether each example was classified correctly."""
    return self.predictions == self.labels

  @property
  def accuracy(self) -> float:
    return float(self.hits.mean())

  @property
  def loss(self) -> float:
    return self.values['loss']


class Evaluator:
  """Compiled functions that evaluate a network on subsets of its channels, for any variables and any data.

  Up to MAX_COMPILED subsets get a function each, which takes only the subset's channels. More subsets, or examples that
  can lack channels themselves, share one function that takes all channels and a mask, and so do subsets that are asked
  for later. Both give the same numbers up to rounding.

  Args:
    model: a network of `flaxnets.models`.
    subsets: the subsets that will be evaluated.
    source_index: index of each of the network's channels in the source; -1 for one that the source lacks, and that is
      in no subset.
    image_size: side of the network's input, pixels.
    resize: the shorter side goes to image_size x this before the central crop.
    fill: (C,) raw pixels of the network's channels outside the image: their means.
    has_missing_channels: whether examples can lack channels. Each is then evaluated on the channels of a subset that it
      has.
    mesh: devices to spread batches over.
  """

  def __init__(
    self,
    model: Classifier,
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
    self._mesh, self._model = mesh, model
    available, order = np.asarray(source_index) >= 0, [max(index, 0) for index in source_index]

    def view(batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
      images = pipeline.evaluation_images(
        pipeline.in_order(batch['image'], order), batch['size'], image_size=image_size, resize=resize, fill=fill
      )
      return images, pipeline.in_order(batch['present'], order) & available[None]

    batch_sharding = devices.sharded(mesh)
    self._view = jax.jit(view, in_shardings=batch_sharding, out_shardings=batch_sharding)
    self._stack = jax.jit(lambda predicted: jnp.stack(predicted, axis=1), out_shardings=batch_sharding)
    self._shared = self._compile(self._masked_logits)
    share = has_missing_channels or len(self.subsets) > MAX_COMPILED
    self._functions = {} if share else {each: self._compile(self._logits_of(each)) for each in self.subsets}

  def compilations(self, subsets: Iterable[Subset]) -> int:
    """How many functions are compiled to evaluate some subsets."""
    return len({self._functions.get(subset, self._shared) for subset in subsets})

  def _masked_logits(self, variables, inside, images, present):
    return self._model.apply(variables, images, present=present & inside[None])

  def _logits_of(self, subset: Subset):
    def logits(variables, inside, images, present):
      del inside, present
      return call_on_subset(self._model, variables, images[..., jnp.asarray(subset)], subset)

    return logits

  def _inside(self, subset: Subset) -> jax.Array | None:
    """(C,) bool on every device: the channels of a subset; None where its function does not need them."""
    if subset in self._functions:
      return None
    mask = np.zeros(self._model.num_channels, bool)
    mask[list(subset)] = True
    return jax.device_put(mask, devices.replicated(self._mesh))

  def _compile(self, logits_of):
    def evaluate(variables, inside, sums, images, present, label, mask):
      logits = logits_of(variables, inside, images, present)
      # Each device adds up its own examples, and the sums meet once at the end: a program per subset that waits for
      # other devices is slower, and on CPUs several of them at once can wait for each other's threads.
      parts = jax.tree.map(lambda x: x.reshape(self._mesh.size, -1, *x.shape[1:]), (logits, label, mask))
      return jax.vmap(logit_metrics.add)(sums, *parts), jnp.argmax(logits, axis=-1).astype(jnp.int32)

    batch, replicated = devices.sharded(self._mesh), devices.replicated(self._mesh)
    return jax.jit(
      evaluate,
      donate_argnums=2,
      in_shardings=(replicated, replicated, batch, batch, batch, batch, batch),
      out_shardings=batch,
    )

  def __call__(
    self,
    variables: Mapping[str, Any],
    batches: Iterable[Mapping[str, Any]],
    *,
    batch_stats: Mapping[Subset, Any] | None = None,
    subsets: Sequence[Subset] | None = None,
  ) -> tuple[dict[Subset, SubsetResult], np.ndarray]:
    """Evaluates every example of some batches once.

    Args:
      variables: the network's.
      batches: this host's share, as `flaxnets.data.batches.evaluation_batches` yields them.
      batch_stats: for some subsets the 'batch_stats' to use in place of the network's (recalibrated ones).
      subsets: which to evaluate, of `self.subsets` or any others; `self.subsets` if None.

    Returns:
      A result for each subset, and the (n,) indices of the examples, in the order of the predictions.
    """
    subsets = self.subsets if subsets is None else list(subsets)
    own = {subset: {**variables, 'batch_stats': stats} for subset, stats in (batch_stats or {}).items()}
    sums = {subset: self._zeros() for subset in subsets}
    inside = {subset: self._inside(subset) for subset in subsets}
    own_rows: list[Rows] = []
    waiting = None
    for batch in devices.to_devices(batches, self._mesh):
      images, present = self._view({key: batch[key] for key in ('image', 'size', 'present')})
      predicted = []
      for subset in subsets:
        function = self._functions.get(subset, self._shared)
        sums[subset], classes = function(
          own.get(subset, variables), inside[subset], sums[subset], images, present, batch['label'], batch['mask']
        )
        predicted.append(classes)
      # Results are fetched one batch late, so that the devices always have the next one to work on.
      if waiting is not None:
        own_rows.append(devices.own_share(waiting))
      waiting = (batch['index'], batch['label'], batch['mask'], self._stack(predicted))
    if waiting is not None:
      own_rows.append(devices.own_share(waiting))
    indices, labels, mask, classes = in_order_of_batches(own_rows)
    indices, labels, classes = indices[mask], labels[mask], np.ascontiguousarray(classes[mask].T)
    results_by_subset = {}
    for subset, predictions in zip(subsets, classes, strict=True):
      values = logit_metrics.finish(devices.to_host(sums[subset]), len(indices), self._model.num_classes)
      results_by_subset[subset] = SubsetResult(values, labels, predictions, self._model.num_classes)
    return results_by_subset, indices

  def _zeros(self) -> tuple[Any, ...]:
    """Sums of no examples, a part per device."""
    sharding = devices.sharded(self._mesh)
    return jax.tree.map(
      lambda value: jax.make_array_from_callback(value.shape, sharding, value.__getitem__),
      logit_metrics.zeros(self._model.num_classes, self._mesh.size),
    )


def in_order_of_batches(own_rows: Sequence[Rows]) -> Rows:
  """The rows of all hosts' batches, in the order of the batches and, in a batch, of the hosts. All hosts meet here.

  Args:
    own_rows: for each batch this host's index (b,), label (b,), mask (b,) and predictions (b, subsets).

  Returns:
    The same for all batches, on every host: (batches * hosts * b, ...).
  """
  every = multihost_utils.process_allgather([np.stack(parts) for parts in zip(*own_rows, strict=True)])
  index, label, mask, classes = (np.swapaxes(x, 0, 1).reshape(-1, *x.shape[3:]) for x in every)
  return index, label, mask, classes
