"""ResNets under torchvision's names: which tensor of a PyTorch state dict is which of our variables.

timm's resnet18, resnet34 and resnet50 have the same names. Kernels (h, w, in, out) are (out, in, h, w) there, and the
head's (in, out) is (out, in).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from flaxnets import models
from flaxnets.analysis.text import counted
from flaxnets.errors import InputError
from flaxnets.models import cost

RESNETS = ('resnet18', 'resnet34', 'resnet50')
HEAD = ('fc.weight', 'fc.bias')
FIRST = 'conv1.weight'

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # axes of kernels, of the head's and of vectors
_COUNTER = 'num_batches_tracked'  # the number of training steps of a BatchNorm, which nothing here needs


def torch_name(path: tuple[str, ...]) -> str:
  """The name in a state dict of one of a ResNet's variables.

  Example:
    >>> torch_name(('params', 'stage2_block1', 'shortcut_conv', 'kernel'))
    'layer2.0.downsample.0.weight'

  Args:
    path: in 'params' or 'batch_stats'.
  """
  _, module, layer, leaf = path
  if module == 'head':
    return f'fc.{_LEAVES[leaf]}'
  if module == 'stem':
    return f'{"conv1" if layer == "conv" else "bn1"}.{_LEAVES[leaf]}'
  stage, block = (int(number) for number in re.findall(r'\d+', module))
  layer = {'shortcut_conv': 'downsample.0', 'shortcut_norm': 'downsample.1'}.get(layer, layer.replace('norm', 'bn'))
  return f'layer{stage}.{block - 1}.{layer}.{_LEAVES[leaf]}'


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """A ResNet's 'params' and 'batch_stats' as a state dict, float32."""
  flat = traverse_util.flatten_dict({name: variables[name] for name in ('params', 'batch_stats')})
  return {torch_name(path): np.ascontiguousarray(_to_torch_axes(np.asarray(leaf))) for path, leaf in flat.items()}


def from_torch(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Any], where: str) -> dict[str, Any]:
  """A state dict as a ResNet's 'params' and 'batch_stats', float32. Every tensor is accounted for.

  Args:
    tensors: by their names in PyTorch; float16, bfloat16, float32 or float64. BatchNorm's `num_batches_tracked` is
      left aside.
    shapes: of the network's variables, from `jax.eval_shape`.
    where: the file, for messages.

  Raises:
    InputError: naming tensors that are missing, surplus, of another shape, of another type or not finite.
  """
  flat = traverse_util.flatten_dict({name: shapes[name] for name in ('params', 'batch_stats')})
  paths = {torch_name(path): path for path in flat}
  expected = {name: _to_torch_shape(flat[path].shape) for name, path in paths.items()}
  held = {name: value for name, value in tensors.items() if not name.endswith(_COUNTER)}
  if wrong := _mismatches({name: value.shape for name, value in held.items()}, expected):
    fitting = _fitting({name: value.shape for name, value in held.items()})
    raise InputError(f'{where} does not fit: {wrong}' + (f'; its tensors are those of {fitting}' if fitting else ''))
  found = {}
  for name, path in paths.items():
    value = held[name]
    if value.dtype.kind not in 'fV':  # NumPy's kind of bfloat16 is V
      raise InputError(f'{where}: {name} is {value.dtype}; floats of 16, 32 or 64 bits are read')
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
      raise InputError(f'{where}: {name} has values that are not finite in float32')
    found[path] = np.ascontiguousarray(_from_torch_axes(value))
  return traverse_util.unflatten_dict(found)


def _mismatches(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
  """What is missing, surplus or misshapen, in one line; '' for nothing."""
  groups = {
    'missing': [name for name in expected if name not in found],
    'surplus': [f'{name} {found[name]}' for name in found if name not in expected],
    'misshapen': [
      f'{name} is {found[name]}, {shape} was expected'
      for name, shape in expected.items()
      if name in found and found[name] != shape
    ],
  }
  return '; '.join(
    f'{counted(len(names), "tensor")} {kind} ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})'
    for kind, names in groups.items()
    if names
  )


def _fitting(found: Mapping[str, tuple[int, ...]]) -> str | None:
  """The ResNet whose tensors these are, of any number of channels and classes; None if there is none."""
  if FIRST not in found:
    return None
  ends = (FIRST, *HEAD)
  inner = {name: shape for name, shape in found.items() if name not in ends}
  for model in RESNETS:
    shapes = cost.initial_shapes(models.build(model, num_channels=3, num_classes=1), 64)
    flat = traverse_util.flatten_dict({name: shapes[name] for name in ('params', 'batch_stats')})
    theirs = {torch_name(path): _to_torch_shape(leaf.shape) for path, leaf in flat.items()}
    if inner == {name: shape for name, shape in theirs.items() if name not in ends}:
      return model
  return None


def _to_torch_axes(value: np.ndarray) -> np.ndarray:
  return value.transpose(_TO_TORCH[value.ndim])


def _from_torch_axes(value: np.ndarray) -> np.ndarray:
  return value.transpose(np.argsort(_TO_TORCH[value.ndim]))


def _to_torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(shape[axis] for axis in _TO_TORCH[len(shape)])
