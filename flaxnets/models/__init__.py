"""The networks by name."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from absl import logging

from flaxnets.errors import InputError
from flaxnets.models.classifier import Classifier
from flaxnets.models.resattention import ResAttentionNet
from flaxnets.models.resnet import ResNet
from flaxnets.nn.blocks import BasicBlock, Bottleneck
from flaxnets.nn.norms import NORMS
from flaxnets.runtime import machine

# Any: a type checker does not take a partial of a subclass for a partial[Classifier].
MODELS: dict[str, functools.partial[Any]] = {
  'resnet18': functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock, expansion=1),
  'resnet34': functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock, expansion=1),
  'resnet50': functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck, expansion=4),
  'resattention': functools.partial(ResAttentionNet),
}
DTYPES = ('float32', 'bfloat16')


def build(
  name: str, *, num_channels: int, num_classes: int, norm: str = 'batch', dtype: str = 'float32', **options: Any
) -> Classifier:
  """A network from names and numbers, as a config holds them.

  Args:
    name: one of MODELS.
    num_channels: size of the channel set.
    num_classes: number of logits.
    norm: 'batch' or 'group'.
    dtype: of activations, 'float32' or 'bfloat16'.
    **options: other attributes of the network's class; see `flaxnets.models.classifier.Classifier` and the classes in
      this package. An option that only another network has is ignored at its default, so that one config group serves
      all networks.

  Returns:
    A module called with raw pixels (b, h, w, m) and `subset=`, `present=` and `train=`; it returns logits
    (b, num_classes) in float32.

  Raises:
    InputError: for a name, option or value that does not exist.
  """
  for what, value, known in (('model', name, MODELS), ('norm', norm, NORMS), ('dtype', dtype, DTYPES)):
    if value not in known:
      raise InputError(f'no {what} {value!r}; there are {", ".join(known)}')
  if dtype == 'bfloat16' and (reason := machine.bfloat16_warning()):
    logging.log_first_n(logging.WARNING, '%s', 1, reason)
  own = {option: value for option, value in options.items() if _has_option(name, option, value)}
  try:
    return MODELS[name](num_channels=num_channels, num_classes=num_classes, norm=NORMS[norm], dtype=dtype, **own)
  except ValueError as error:
    raise InputError(str(error)) from None


def defaults(name: str) -> dict[str, Any]:
  """The options of a network with their defaults, without those that `build` names itself."""
  network = MODELS[name]
  fixed = {'num_channels', 'num_classes', 'norm', 'dtype', 'parent', 'name', *network.keywords}
  parameters = inspect.signature(network.func).parameters
  return {option: parameter.default for option, parameter in parameters.items() if option not in fixed}


def _has_option(name: str, option: str, value: Any) -> bool:
  """Whether a network has an option; InputError if it doesn't, unless the value is another network's default."""
  if option in defaults(name):
    return True
  others = {other: defaults(other)[option] for other in MODELS if option in defaults(other)}
  if not others:
    raise InputError(f'no model option {option!r}; {name} has {", ".join(["norm", "dtype", *defaults(name)])}')
  if value not in others.values():
    raise InputError(f'{name} has no option {option!r}, which belongs to {", ".join(others)}, but it is {value!r}')
  return False
