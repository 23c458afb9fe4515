"""What a network costs on each subset of channels: parameters, MACs (the paper's count) and FLOPs (XLA's).

The two counts are different things. MACs: multiply-accumulates of convolutions and matrix products, taps on padding
included, biases left out, and one for every output element of a norm layer and of global average pooling. FLOPs:
what XLA's cost analysis says of the lowered program: two for a multiply-accumulate, taps on padding left out, all
elementwise work included, and so standardising the input and mixing the kernel too.
"""

from __future__ import annotations

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxnets.channels import Subset
from flaxnets.nn.blocks import GlobalAveragePool
from flaxnets.nn.norms import BatchNorm

_COUNTED_OUTPUTS = (BatchNorm, nn.GroupNorm, nn.LayerNorm, GlobalAveragePool)


def initial_shapes(model: nn.Module, image_size: int) -> Any:
  """The model's variables as shapes and dtypes, without computing any."""
  images = jax.ShapeDtypeStruct((1, image_size, image_size, model.num_channels), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def parameters(variables: Any) -> int:
  """How many trained numbers there are."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))


def macs(model: nn.Module, subset: Subset, image_size: int) -> dict[str, int]:
  """Counts one image's work by tracing the network on a subset.

  Returns:
    'macs', the network's own; 'mixing_macs', spent once a call (not per pixel) on the kernels of the subset.
  """
  counts: collections.Counter[str] = collections.Counter()

  def count_outputs(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if context.method_name == '__call__' and isinstance(context.module, _COUNTED_OUTPUTS):
      counts['macs'] += math.prod(result.shape)
    return result

  variables, images = initial_shapes(model, image_size), _images(subset, image_size)
  with nn.intercept_methods(count_outputs):
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, subset=subset))(variables, images)
  _count_products(program.jaxpr, counts, mixing=False)
  return {'macs': counts['macs'], 'mixing_macs': counts['mixing_macs']}


def flops(model: nn.Module, subset: Subset, image_size: int) -> int:
  """XLA's count for one image in evaluation, from the lowered (not yet compiled or partitioned) program."""
  variables, images = initial_shapes(model, image_size), _images(subset, image_size)
  lowered = jax.jit(lambda v, x: model.apply(v, x, subset=subset)).lower(variables, images)
  return int(lowered.cost_analysis()['flops'])


def of_subset(model: nn.Module, subset: Subset, image_size: int) -> dict[str, int]:
  """'params', 'macs', 'mixing_macs' and 'flops' of one subset."""
  counted = macs(model, subset, image_size)
  params = parameters(initial_shapes(model, image_size))
  return {'params': params, **counted, 'flops': flops(model, subset, image_size)}


def _images(subset: Subset, image_size: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((1, image_size, image_size, len(subset)), jnp.float32)


def _count_products(jaxpr: Any, counts: collections.Counter[str], mixing: bool, times: int = 1) -> None:
  """Adds up convolutions and matrix products, into 'mixing_macs' for those under the scope that DynamicConv names.

  The body of a scan counts as often as it runs; that of a while loop, which cannot be known, once.
  """
  for equation in jaxpr.eqns:
    inside = mixing or 'mixing' in str(equation.source_info.name_stack).split('/')
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
