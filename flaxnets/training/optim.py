"""Learning-rate schedules, and SGD with PyTorch's order of operations, built from Optax."""

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
    name: 'piecewise': learning_rate, multiplied by drop_factor at step round(share x steps) for each share in `drops`.
      'cosine': half a cosine wave from learning_rate to 0 at `steps`.
      'onecycle': optax's cosine_onecycle_schedule (L. Smith, N. Topin, Super-Convergence, 2018). The rate rises from
      learning_rate / 25 to learning_rate over the first 30 % of the steps and falls to learning_rate / 250,000.
      'constant': learning_rate.
    learning_rate: the highest rate.
    steps: number of training steps, at least 1.
    warmup_steps: number of initial steps over which the rate rises linearly from 0 to the first rate of the schedule.
      'cosine' and 'onecycle' span the remaining steps; warm-up does not move drops.
    drops: for 'piecewise', shares of `steps` in 0..1.
    drop_factor: for 'piecewise', the factor of each drop.

  Raises:
    InputError: for an unknown name, a drop outside 0..1, or a warm-up that is negative or leaves no steps.
  """
  if not 0 <= warmup_steps < steps:
    raise InputError(f'the warm-up is {warmup_steps} steps; it must be from 0 to below the {steps} steps of training')
  remaining = steps - warmup_steps
  if name == 'piecewise':
    main = _piecewise(learning_rate, steps, warmup_steps, drops, drop_factor)
  elif name == 'cosine':
    main = optax.cosine_decay_schedule(learning_rate, remaining)
  elif name == 'onecycle':
    main = optax.cosine_onecycle_schedule(remaining, learning_rate)
  elif name == 'constant':
    main = optax.constant_schedule(learning_rate)
  else:
    raise InputError(f'unknown schedule {name!r}; train.schedule must be one of {", ".join(SCHEDULES)}')
  if not warmup_steps:
    return main
  return optax.join_schedules([optax.linear_schedule(0.0, main(0), warmup_steps), main], [warmup_steps])


def _piecewise(
  learning_rate: float, steps: int, warmup_steps: int, drops: Sequence[float], factor: float
) -> optax.Schedule:
  """See `schedule`. Optax's version keeps drops in a dict and loses one of two that fall on the same step."""
  for share in drops:
    if not 0 <= share <= 1:
      raise InputError(f'train.drops contains {share}; each drop must be a share of all steps, from 0 to 1')
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
  """SGD in the order of torch.optim.SGD: clipping, weight decay, momentum, learning rate.

  Args:
    learning_rate: a number, or a function of the step.
    momentum: from 0 (none) to below 1.
    nesterov: whether to use Nesterov momentum.
    weight_decay: factor of a parameter that is added to its gradient; for kernels only, see `decayed`.
    clip_norm: maximum norm of the gradient of all parameters, before weight decay; 0 for no clipping.

  Raises:
    InputError: for a number outside its range.
  """
  if not 0 <= momentum < 1:
    raise InputError(f'train.momentum is {momentum}; it must be from 0 to below 1')
  for name, value in (('weight_decay', weight_decay), ('clip_norm', clip_norm)):
    if value < 0:
      raise InputError(f'train.{name} is {value}; it must be 0 or more')
  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    optax.add_decayed_weights(weight_decay, mask=decayed),
    optax.sgd(learning_rate, momentum or None, nesterov),
  )


def decayed(params: Any) -> Any:
  """Which parameters weight decay applies to: those with two or more dimensions that are not named 'bias'.

  These are the kernels. The name matters because biases of Flax's attention layers have two dimensions.

  Args:
    params: nested dicts of arrays.

  Returns:
    The same structure with a bool for each array.
  """

  def kernel(path: tuple, leaf: jax.Array) -> bool:
    return leaf.ndim >= 2 and jax.tree_util.keystr(path[-1:], simple=True) != 'bias'

  return jax.tree.map_with_path(kernel, params)
