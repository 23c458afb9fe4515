"""Which layers of a network are trained, and how fast each is: frozen parts, and a learning rate per depth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import optax

from flaxnets.errors import InputError
from flaxnets.models.classifier import HEAD
from flaxnets.nn.stem import STEM

# What train.frozen names: the top-level modules that are trained, None for all of them.
TRAINED: dict[str, tuple[str, ...] | None] = {'': None, 'trunk': (HEAD,), 'body': (STEM, HEAD)}
_TRAINED, _FROZEN = 'trained', 'frozen'


def check(frozen: str, layer_decay: float) -> None:
  """Raises InputError for values outside their range."""
  if frozen not in TRAINED:
    raise InputError(f"train.frozen is {frozen!r}; it must be '', 'trunk' or 'body'")
  if not 0 < layer_decay <= 1:
    raise InputError(f'train.layer_decay is {layer_decay}; it must be above 0 and at most 1')


def labels(params: Mapping[str, Any], frozen: str) -> dict[str, Any]:
  """'trained' or 'frozen' for every parameter.

  Args:
    params: of a network of `flaxnets.models`.
    frozen: '' trains all, 'trunk' the head only (a linear probe), 'body' the stem and the head.
  """
  trained = TRAINED[frozen]
  return {
    module: jax.tree.map(lambda _, module=module: _TRAINED if trained is None or module in trained else _FROZEN, tree)
    for module, tree in params.items()
  }


def without_gradient(params: Mapping[str, Any], frozen: str) -> dict[str, Any]:
  """The parameters, those that are frozen without a gradient, so that the backward pass ends where none is needed."""
  return jax.tree.map(
    lambda value, label: jax.lax.stop_gradient(value) if label == _FROZEN else value,
    dict(params),
    labels(params, frozen),
  )


def depths(params: Mapping[str, Any]) -> dict[str, int]:
  """The depth of each top-level module: 0 for the stem, then one more for each block; the head's is the highest."""

  def place(module: str) -> tuple[int, tuple[int, ...], bool]:
    numbers = tuple(int(number) for number in re.findall(r'\d+', module))
    # A ResAttentionNet ends with a norm without a number, and its attention follows the block of the same number.
    rank = 0 if module == STEM else 3 if module == HEAD else 1 if numbers else 2
    return rank, numbers, module.endswith('attention')

  return {module: depth for depth, module in enumerate(sorted(params, key=place))}


def by_layer(
  optimizer: optax.GradientTransformation, *, frozen: str = '', layer_decay: float = 1.0
) -> optax.GradientTransformation:
  """An optimiser that leaves frozen parameters as they are and slows the others down by their depth.

  Args:
    optimizer: for the parameters that are trained. It holds no state for the others.
    frozen: see `labels`.
    layer_decay: the rate of a module d steps below the head is `layer_decay`^d of the head's: K. Clark et al., ELECTRA,
      ICLR 2020, appendix A. 1 for one rate.

  Raises:
    InputError: see `check`.
  """
  check(frozen, layer_decay)
  if layer_decay < 1:
    optimizer = optax.chain(optimizer, optax.stateless(lambda updates, _: _slowed(updates, layer_decay)))
  if not frozen:
    return optimizer
  return optax.partition({_TRAINED: optimizer, _FROZEN: optax.set_to_zero()}, lambda params: labels(params, frozen))


def _slowed(updates: Mapping[str, Any], decay: float) -> dict[str, Any]:
  steps = depths(updates)
  head = max(steps.values())
  return {
    module: jax.tree.map(lambda update, rate=decay ** (head - steps[module]): rate * update, tree)
    for module, tree in updates.items()
  }
