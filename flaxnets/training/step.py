"""One training step: a pure function of a state and a batch, compiled once for all devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import serialization, struct
from jax.sharding import Mesh

from flaxnets.augment.pipeline import Batch, Targets, View
from flaxnets.errors import InputError, first_line
from flaxnets.runtime import devices
from flaxnets.training import layers

Loss = Callable[..., tuple[jax.Array, tuple[Any, jax.Array]]]


@struct.dataclass
class TrainState:
  """Everything that training changes, and the channel statistics.

  Attributes:
    step: () int32, number of steps taken.
    skipped: () int32, how many of them changed nothing, because their loss was too high, or their loss, gradients or
      running statistics were not finite.
    params, batch_stats, channel_stats: the network's variables.
    opt_state: Optax's.
    ema: running averages of 'params' and 'batch_stats', or None.
  """

  step: jax.Array
  skipped: jax.Array
  params: Any
  batch_stats: Any
  channel_stats: Any
  opt_state: Any
  ema: Any = None

  @classmethod
  def from_saved(cls, shapes: TrainState, saved: Mapping[str, Any]) -> TrainState:
    """A state from nested dicts of arrays, as `flaxnets.runtime.checkpoint` restores them.

    Raises:
      InputError: where they don't fit the shapes of this run's own state.
    """
    if 'opt_state' not in saved:
      raise InputError(
        'the checkpoint holds no optimiser: the network was not trained here; '
        'start from it with train.init_from=DIR and another --workdir'
      )
    try:
      state = serialization.from_state_dict(shapes, {**saved, 'opt_state': _nested_sgd(saved['opt_state'])})
      differing = jax.tree.map(
        lambda ours, theirs: (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype), shapes, state
      )
    except (ValueError, KeyError, TypeError) as error:
      raise InputError(f'the checkpoint is of another network: {first_line(error)}') from None
    if wrong := [path for path, differs in jax.tree.leaves_with_path(differing) if differs]:
      name = jax.tree_util.keystr(wrong[0])
      raise InputError(f'the checkpoint is of another network: {name} has another shape or type')
    return state

  def variables(self) -> dict[str, Any]:
    """The variables to evaluate: the averages where they are kept, else the weights of the last step."""
    kept = self.ema or {'params': self.params, 'batch_stats': self.batch_stats}
    return {**kept, 'channel_stats': self.channel_stats}


def _nested_sgd(opt_state: Mapping[str, Any]) -> Mapping[str, Any]:
  """Moves the momentum and the count of a checkpoint of version 0.1.0 to where `optax.sgd` keeps them."""
  if '3' not in opt_state:
    return opt_state
  return {'0': opt_state['0'], '1': opt_state['1'], '2': {'0': opt_state['2'], '1': opt_state['3']}}


def initial_state(variables: Mapping[str, Any], optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
  """The state before the first step, from a network's initial variables."""
  params, batch_stats = variables['params'], variables.get('batch_stats', {})
  # A copy: the step donates its state, and one buffer cannot be donated twice.
  kept = jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats}) if ema else None
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    skipped=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    channel_stats=variables['channel_stats'],
    opt_state=optimizer.init(params),
    ema=kept,
  )


def make_loss(
  model: nn.Module,
  *,
  masked: bool,
  label_smoothing: float,
  class_weights: np.ndarray | None = None,
  frozen: str = '',
  freeze_statistics: bool = False,
) -> Loss:
  """The loss of a batch.

  Where there are several passes it is their mean: the first one's on the labels, the others' half on the labels and
  half on the first one's soft labels (no gradient).

  Args:
    model: a network of `flaxnets.models`.
    masked: whether channels can be absent; if not, the network is called without a mask, and mixes nothing.
    label_smoothing: the share of each label that is spread over all classes, 0..1.
    class_weights: (K,) factors of the losses of each class's examples; None for 1.
    frozen: the layers without a gradient, see `flaxnets.training.layers.labels`.
    freeze_statistics: whether BatchNorm normalises by its running statistics, which then don't change.

  Returns:
    A function of (params, variables, images (b, h, w, C), present (b, P, C), labels (b,) int or (b, K) distributions)
    that gives the loss, and the new 'batch_stats' and the accuracy of the first pass beside it. `variables` are all
    collections but 'params'. Where labels are distributions, the accuracy counts the likeliest class.
  """

  def loss(params, variables, images, present, labels):
    params = layers.without_gradient(params, frozen)

    def logits_of(mask):
      return model.apply(
        {'params': params, **variables},
        images,
        present=mask if masked else None,
        train=not freeze_statistics,
        mutable=['batch_stats'],
      )

    # Only the first pass, which has the most channels, moves the running statistics.
    logits, changed = logits_of(present[:, 0])
    classes = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(classes, label_smoothing)
    losses = [optax.softmax_cross_entropy(logits, targets)]
    taught = 0.5 * targets + 0.5 * jax.lax.stop_gradient(jax.nn.softmax(logits))
    for number in range(1, present.shape[1]):
      losses.append(optax.softmax_cross_entropy(logits_of(present[:, number])[0], taught))
    expected = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
    accuracy = (jnp.argmax(logits, axis=-1) == expected).mean()
    # No matrix product, for which TPUs would round the weights to bfloat16.
    weights = 1.0 if class_weights is None else (classes * jnp.asarray(class_weights, jnp.float32)[None]).sum(-1)[None]
    return (jnp.stack(losses) * weights).mean(), (changed.get('batch_stats', {}), accuracy)

  return loss


def differentiated(
  loss: Loss, state: TrainState, inputs: tuple[jax.Array, jax.Array, jax.Array], accumulate: int
) -> tuple[Any, Any, dict[str, jax.Array]]:
  """The new 'batch_stats', the gradients, and the metrics 'loss' and 'accuracy', of a batch split into microbatches."""

  def part(batch_stats, inputs):
    variables = {'batch_stats': batch_stats, 'channel_stats': state.channel_stats}
    (value, (batch_stats, accuracy)), gradients = jax.value_and_grad(loss, has_aux=True)(
      state.params, variables, *inputs
    )
    return batch_stats, (gradients, {'loss': value, 'accuracy': accuracy})

  if accumulate == 1:
    batch_stats, (gradients, metrics) = part(state.batch_stats, inputs)
    return batch_stats, gradients, metrics
  # Microbatch j takes every accumulate-th example from j on, so that each device splits its own shard.
  parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), inputs)

  def add(carried, inputs):
    batch_stats, sums = carried
    batch_stats, values = part(batch_stats, inputs)
    return (batch_stats, jax.tree.map(jnp.add, sums, values)), None

  # A running sum: to stack the gradients of all microbatches would take memory for each.
  zeros = jax.tree.map(jnp.zeros_like, state.params), {'loss': jnp.zeros(()), 'accuracy': jnp.zeros(())}
  (batch_stats, sums), _ = jax.lax.scan(add, (state.batch_stats, zeros), parts)
  return batch_stats, *jax.tree.map(lambda x: x / accumulate, sums)


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
  view: View,
  targets: Targets | None = None,
  *,
  masked: bool,
  label_smoothing: float = 0.0,
  class_weights: np.ndarray | None = None,
  accumulate: int = 1,
  ema: float = 0.0,
  max_loss: float = float('inf'),
  frozen: str = '',
  freeze_statistics: bool = False,
) -> jax.stages.Wrapped:
  """The compiled step over a mesh: the batch is sharded, the state replicated and donated.

  Args:
    model: a network of `flaxnets.models`. Its BatchNorm sees the global batch, or one microbatch of it.
    optimizer, schedule: from `flaxnets.training.optim`; the schedule only to report the rate.
    view: see `flaxnets.augment.pipeline.training_view`.
    targets: see `flaxnets.augment.pipeline.training_targets`; None for the labels of the batch.
    masked, label_smoothing, class_weights, frozen, freeze_statistics: see `make_loss`.
    accumulate: number of microbatches that the batch is split into (gradient accumulation).
    ema: decay of the running averages, 0 for none. It warms up as (1 + step) / (10 + step) until it is reached.
    max_loss: the highest loss of a step that counts.

  Returns:
    A function of (state, batch) giving the next state and metrics: loss, accuracy, gradient_norm, learning_rate,
    usable, skipped and replaced, scalars. A step is usable if its loss, gradients and running statistics are finite and
    its loss is at most `max_loss`. One that is not changes only `step` and `skipped` of the state. `replaced` is the
    number of examples of the batch, over all hosts, that stand for an unreadable one.
  """
  loss = make_loss(
    model,
    masked=masked,
    label_smoothing=label_smoothing,
    class_weights=class_weights,
    frozen=frozen,
    freeze_statistics=freeze_statistics,
  )

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    images, present = view(state.step, batch)
    labels = batch['label'] if targets is None else targets(state.step, batch)
    batch_stats, gradients, metrics = differentiated(loss, state, (images, present, labels), accumulate)
    norm = optax.tree.norm(gradients)
    usable = jnp.isfinite(metrics['loss']) & (metrics['loss'] <= max_loss) & jnp.isfinite(norm)
    # NaN in a layer may leave the loss and the gradients finite: XLA on CPUs may compute relu(NaN) as 0.
    usable &= all_finite(batch_stats)
    # Optax counts only the steps that it applied, and its count decides the rate.
    metrics |= {'gradient_norm': norm, 'learning_rate': schedule(state.step - state.skipped)}

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages = _average(state, {'params': params, 'batch_stats': batch_stats}, ema)
    after = dataclasses.replace(state, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=averages)
    after = jax.tree.map(lambda new, old: jnp.where(usable, new, old), after, state)
    after = dataclasses.replace(after, step=state.step + 1, skipped=state.skipped + ~usable)
    return after, metrics | {'usable': usable, 'skipped': after.skipped, 'replaced': batch['skipped'].sum()}

  whole = devices.replicated(mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(whole, devices.sharded(mesh)),
    out_shardings=(whole, whole),
  )


def all_finite(tree: Any) -> jax.Array:
  """Whether all arrays of a tree are free of NaN and infinity, () bool; True for a tree without arrays."""
  return jnp.asarray([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)], bool).all()


def _average(state: TrainState, new: Mapping[str, Any], decay: float) -> Any:
  if state.ema is None:
    return None
  warmed_up = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
  return optax.incremental_update(dict(new), state.ema, 1.0 - warmed_up)
