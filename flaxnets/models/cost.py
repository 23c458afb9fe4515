"""The cost of a network on each subset of channels: parameters, MACs (counted as in docs/paper.md) and FLOPs (XLA's).

The two counts are different things. MACs: multiply-accumulates of convolutions and matrix products, taps on padding
included, biases left out, and one for every output element of a norm layer and of global average pooling. FLOPs:
XLA's cost analysis of the lowered program: two for a multiply-accumulate, taps on padding left out, all elementwise
work included, so also standardising the input and mixing the kernel.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxnets.channels import Subset
from flaxnets.nn.blocks import GlobalAveragePool
from flaxnets.nn.dynamic_conv import MIXING
from flaxnets.nn.norms import BatchNorm

_COUNTED_OUTPUTS = (BatchNorm, nn.GroupNorm, nn.LayerNorm, GlobalAveragePool)


def initial_shapes(model: nn.Module, image_size: int) -> Any:
  """The model's variables as shapes and dtypes, without computing any."""
  images = jax.ShapeDtypeStruct((1, image_size, image_size, model.num_channels), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def parameters(variables: Any) -> int:
  """The number of trained values."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))


def macs(model: nn.Module, subset: Subset, image_size: int) -> dict[str, int]:
  """Counts the work on one image by tracing the network on a subset.

  Returns:
    'macs', the network's own; 'mixing_macs', spent once per call (not per pixel) on the kernels of the subset.
  """
  return _macs(*_traced(model, initial_shapes(model, image_size), subset, image_size))


def flops(model: nn.Module, subset: Subset, image_size: int) -> int:
  """XLA's count for one image in evaluation, from the lowered (not yet compiled or partitioned) program."""
  traced, _ = _traced(model, initial_shapes(model, image_size), subset, image_size)
  return _flops(traced)


def of_subsets(model: nn.Module, subsets: Collection[Subset], image_size: int) -> dict[Subset, dict[str, int]]:
  """'params', 'macs', 'mixing_macs' and 'flops' of each subset.

  The counts depend on the shapes in the traced program, and so on the size of a subset but not on its members. The
  network is traced once per size, which matters for hundreds of subsets.

  Args:
    model: a network of `flaxnets.models`.
    subsets: which.
    image_size: side of the network's input, pixels.
  """
  return {subset: dict(_of_size(model, len(subset), image_size)) for subset in subsets}


@functools.lru_cache(maxsize=1024)
def _of_size(model: nn.Module, size: int, image_size: int) -> dict[str, int]:
  """What `of_subsets` gives for the subsets of so many channels, counted on the first ones."""
  variables = _cached_shapes(model, image_size)
  traced, norm_outputs = _traced(model, variables, tuple(range(size)), image_size)
  return {'params': parameters(variables), **_macs(traced, norm_outputs), 'flops': _flops(traced)}


@functools.lru_cache(maxsize=32)
def _cached_shapes(model: nn.Module, image_size: int) -> Any:
  return initial_shapes(model, image_size)


def _traced(model: nn.Module, variables: Any, subset: Subset, image_size: int) -> tuple[Any, int]:
  """The traced program of the network on a subset, and the number of output elements of norm and pooling layers."""
  outputs = 0

  def count_outputs(call, args, kwargs, context):
    nonlocal outputs
    result = call(*args, **kwargs)
    if context.method_name == '__call__' and isinstance(context.module, _COUNTED_OUTPUTS):
      outputs += math.prod(result.shape)
    return result

  images = jax.ShapeDtypeStruct((1, image_size, image_size, len(subset)), jnp.float32)
  with nn.intercept_methods(count_outputs):
    traced = jax.jit(lambda v, x: model.apply(v, x, subset=subset)).trace(variables, images)
  return traced, outputs


def _macs(traced: Any, norm_outputs: int) -> dict[str, int]:
  counts = collections.Counter(macs=norm_outputs)
  _count_products(traced.jaxpr.jaxpr, counts, mixing=False)
  return {'macs': counts['macs'], 'mixing_macs': counts['mixing_macs']}


def _flops(traced: Any) -> int:
  return int(traced.lower().cost_analysis()['flops'])


def _count_products(jaxpr: Any, counts: collections.Counter[str], mixing: bool, times: int = 1) -> None:
  """Adds up convolutions and matrix products, into 'mixing_macs' for those under DynamicConv's scope MIXING.

  The body of a scan counts as often as it runs. The body of a while loop counts once: its number of runs is unknown.
  """
  for equation in jaxpr.eqns:
    inside = mixing or MIXING in str(equation.source_info.name_stack).split('/')
    output = equation.outvars[0].aval
    if equation.primitive.name == 'conv_general_dilated':
      kernel = equation.invars[1].aval
      spec = equation.params['dimension_numbers'].rhs_spec
      counts['mixing_macs' if inside else 'macs'] += (
        times * math.prod(output.shape) * math.prod(kernel.shape) // kernel.shape[spec[0]]
      )
    elif equation.primitive.name == 'dot_general':
      left, (contracting, _) = equation.invars[0].aval, equation.params['dimension_numbers'][0]
      counts['mixing_macs' if inside else 'macs'] += (
        times * math.prod(output.shape) * math.prod(left.shape[axis] for axis in contracting)
      )
    each = times * equation.params['length'] if equation.primitive.name == 'scan' else times
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
      if _is_jaxpr(inner):
        _count_products(getattr(inner, 'jaxpr', inner), counts, inside, each)


def _is_jaxpr(value: Any) -> bool:
  return hasattr(value, 'eqns') or hasattr(value, 'jaxpr')
