"""Metrics computed from logits. To add one, add a `Metric` to METRICS and a column to `flaxnets.evaluation.judge`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

TOP = 5
CALIBRATION_BINS = 15


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric that is a function of sums over examples, so that batches and devices can be added up in any order.

  Attributes:
    per_example: of logits (b, K) and labels (b,); returns an array (b, ...) or a tree of such arrays.
    finish: of the sums of these over all examples (NumPy, same tree without the first axis) and the number of examples;
      returns plain JSON values by name, as a result file holds them for each subset.
  """

  per_example: Callable[[jax.Array, jax.Array], Any]
  finish: Callable[[Any, int], dict[str, Any]]


def mean_of(name: str) -> Callable[[np.ndarray, int], dict[str, Any]]:
  """A `Metric.finish`: the mean of one number per example, under a name."""
  return lambda total, examples: {name: float(total) / max(examples, 1)}


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
  """(b,) cross-entropy in nats."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def top5_hit(logits: jax.Array, label: jax.Array) -> jax.Array:
  """(b,) int32: 1 where the label is among the five largest logits. NaN logits are misses.

  Of equal logits the lower class comes first, as in argmax.
  """
  own = jnp.take_along_axis(logits, label[:, None], axis=1)
  classes = jnp.arange(logits.shape[-1])[None]
  ahead = (logits > own) | ((logits == own) & (classes < label[:, None]))
  return ((ahead.sum(axis=-1) < TOP) & jnp.isfinite(own[:, 0])).astype(jnp.int32)


def confidence_bins(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
  """For each of 15 bins of confidence (the largest softmax output) in equal steps: (b, 15) count, confidence, hit."""
  confidence = jax.nn.softmax(logits, axis=-1).max(axis=-1)
  place = jnp.clip(jnp.ceil(confidence * CALIBRATION_BINS).astype(jnp.int32) - 1, 0, CALIBRATION_BINS - 1)
  inside = place[:, None] == jnp.arange(CALIBRATION_BINS)[None]
  hit = inside & (jnp.argmax(logits, axis=-1) == label)[:, None]
  return {
    'count': inside.astype(jnp.int32),
    'confidence': jnp.where(inside, confidence[:, None], 0.0),
    'hits': hit.astype(jnp.int32),
  }


def calibration(total: dict[str, np.ndarray], examples: int) -> dict[str, Any]:
  """The expected calibration error, and the bins that it comes from.

  C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3: the mean over examples of the
  difference between a bin's accuracy and its mean confidence.
  """
  counted = np.maximum(total['count'], 1)
  confidence, accuracy = total['confidence'] / counted, total['hits'] / counted
  error = float((total['count'] * np.abs(accuracy - confidence)).sum() / max(examples, 1))
  rows = zip(total['count'].tolist(), confidence.tolist(), accuracy.tolist(), strict=True)
  return {
    'ece': error,
    'calibration': [
      {'count': count, 'confidence': mean if count else None, 'accuracy': share if count else None}
      for count, mean, share in rows
    ],
  }


METRICS = (
  Metric(cross_entropy, mean_of('loss')),
  Metric(top5_hit, mean_of('top5')),
  Metric(confidence_bins, calibration),
)


def zeros(num_classes: int, parts: int) -> tuple[Any, ...]:
  """Sums of no examples for every metric, as (parts, ...) NumPy arrays; one part per device."""
  shapes = jax.eval_shape(
    lambda logits, label: tuple(metric.per_example(logits, label) for metric in METRICS),
    jax.ShapeDtypeStruct((1, num_classes), jnp.float32),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )
  return jax.tree.map(lambda shape: np.zeros((parts, *shape.shape[1:]), shape.dtype), shapes)


def add(sums: tuple[Any, ...], logits: jax.Array, label: jax.Array, mask: jax.Array) -> tuple[Any, ...]:
  """Adds a batch to the sums of every metric.

  Args:
    sums: one part of `zeros`, or what this function returned.
    logits: (b, K) float32.
    label: (b,) int32.
    mask: (b,) bool, False for padding, which is left out.
  """

  def masked_sum(values: jax.Array) -> jax.Array:
    kept = mask.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(kept, values, 0).sum(axis=0, dtype=values.dtype)

  added = tuple(jax.tree.map(masked_sum, metric.per_example(logits, label)) for metric in METRICS)
  return jax.tree.map(jnp.add, sums, added)


def finish(sums: tuple[Any, ...], examples: int, num_classes: int) -> dict[str, Any]:
  """The values of every metric by name, from the sums of all devices, each (parts, ...) NumPy."""

  def over_parts(part: np.ndarray) -> np.ndarray:
    return part.sum(axis=0, dtype=np.int64 if part.dtype.kind == 'i' else np.float64)

  values: dict[str, Any] = {}
  for metric, total in zip(METRICS, jax.tree.map(over_parts, sums), strict=True):
    values |= metric.finish(total, examples)
  if num_classes <= TOP:
    values['top5'] = None  # always a hit, which says nothing
  return values
