"""Learning-rate schedules, and SGD in the order of operations that PyTorch uses, from Optax's parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxnets.errors import InputError

SCHEDULES = ('piecewise', 'cosine', 'onecycle', 'constant')


def schedule(
  name: str,
  *,
  learning_rate: float,
  steps: int,
  warmup_steps: int = 0,
  drops: Sequence[float] = (),
  drop_factor: float = 0.1,
) -> optax.Schedule:
  """The learning rate as a function of the step, counted from 0.

  Args:
    name: 'piecewise': learning_rate, times drop_factor from step round(share x steps) on for each of drops.
      'cosine': half a cosine wave, from learning_rate to 0 at `steps`.
      'onecycle': optax's cosine_onecycle_schedule (L. Smith, N. Topin, Super-Convergence, 2018): from
      learning_rate / 25 to learning_rate over the first 30 %, then to a 250,000th of it.
      'constant': learning_rate.
    learning_rate: the highest rate.
    steps: of the whole training, at least 1.
    warmup_steps: the first ones, over which the rate rises evenly from 0 to what then follows. A cosine and
      a cycle fill the steps that remain; drops stay where they are.
    drops: in 0..1, for 'piecewise'.
    drop_factor: for 'piecewise'.

  Raises:
    InputError: for an unknown name, a drop outside 0..1, or a warm-up that leaves no step.
  """
  if not 0 <= warmup_steps < steps:
    raise InputError(f'a warm-up of {warmup_steps} steps does not fit into {steps} steps of training')
  remaining = steps - warmup_steps
  if name == 'piecewise':
    after = _piecewise(learning_rate, steps, warmup_steps, drops, drop_factor)
  elif name == 'cosine':
    after = optax.cosine_decay_schedule(learning_rate, remaining)
  elif name == 'onecycle':
    after = optax.cosine_onecycle_schedule(remaining, learning_rate)
  elif name == 'constant':
    after = optax.constant_schedule(learning_rate)
  else:
    raise InputError(f'no schedule {name!r}; train.schedule is one of {", ".join(SCHEDULES)}')
  if not warmup_steps:
    return after
  return optax.join_schedules([optax.linear_schedule(0.0, after(0), warmup_steps), after], [warmup_steps])


def _piecewise(
  learning_rate: float, steps: int, warmup_steps: int, drops: Sequence[float], factor: float
) -> optax.Schedule:
  """Not optax's, whose dict of boundaries loses one of two drops that a short run rounds to the same step."""
  for share in drops:
    if not 0 <= share <= 1:
      raise InputError(f'train.drops holds {share}; a drop is a share of all steps, 0 to 1')
  boundaries = np.array([round(share * steps) - warmup_steps for share in drops], np.int32)
  return lambda step: learning_rate * factor ** jnp.sum(step >= boundaries)


def optimizer(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
) -> optax.GradientTransformation:
  """SGD in the order of torch.optim.SGD: clip the gradient, add weight decay, then momentum, then the rate.

  Args:
    learning_rate: a number, or a function of the step.
    momentum: in 0..1 (below 1); 0 for none.
    nesterov: the look-ahead form of momentum.
    weight_decay: times the parameter, added to its gradient; kernels only (`decayed`).
    clip_norm: the longest that the whole raw gradient may be; 0 for any.

  Raises:
    InputError: for a number outside its range.
  """
  if not 0 <= momentum < 1:
    raise InputError(f'train.momentum is {momentum}; it is from 0 to below 1')
  for name, value in (('weight_decay', weight_decay), ('clip_norm', clip_norm)):
    if value < 0:
      raise InputError(f'train.{name} is {value}; it is 0 or more')
  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    optax.add_decayed_weights(weight_decay, mask=decayed),
    optax.sgd(learning_rate, momentum or None, nesterov),
  )


def decayed(params: Any) -> Any:
  """Which parameters weight decay applies to: those of two or more dimensions, unless named 'bias'.

  So kernels, not BatchNorm's vectors, and no biases: those of Flax's attention layers have two dimensions.
  """

  def kernel(path: tuple, leaf: jax.Array) -> bool:
    return leaf.ndim >= 2 and jax.tree_util.keystr(path[-1:], simple=True) != 'bias'

  return jax.tree.map_with_path(kernel, params)
