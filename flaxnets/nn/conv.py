"""Convolutions padded and initialised as in the PyTorch recipes, in formulations that XLA runs fast.

Initialisation: K. He et al., Delving Deep into Rectifiers, ICCV 2015 (normal, fan out).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

_Convolution = Callable[[jax.Array, jax.Array], jax.Array]

conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')

# Training on CPUs computes convolutions with outputs of at most this height and width by `by_taps`.
BY_TAPS_UP_TO = 3


class Conv(nn.Module):
  """nn.Conv with symmetric padding of (size - 1) / 2 and no bias, in the formulation that XLA runs fastest.

  Flax's 'SAME' pads a stride-2 convolution of an even-sized map on the far side only; PyTorch's recipes pad both sides.
  See `conv_general_dilated`, `convolve_pointwise` and `convolve_small`. All of them define their own gradient rules, so
  forward mode (`jax.jvp`, `jax.jacfwd`) raises; `jax.grad`, and `jax.jvp` of a gradient, work. Inside `jax.shard_map`,
  give check_vma=False and sum the gradients over the devices, as inside `jax.pmap`.
  """

  features: int
  size: int
  strides: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(b, h, w, inputs) -> (b, ceil(h / strides), ceil(w / strides), features); the size is odd."""
    kernel = self.param('kernel', conv_init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if self.size == 1:
      return convolve_pointwise(x[:, :: self.strides, :: self.strides], kernel[0, 0])
    if max(x.shape[1:3]) <= BY_TAPS_UP_TO * self.strides:
      return convolve_small(x, kernel, self.strides)
    return convolve(x, kernel, self.strides)


def convolve(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
  """(b, h, w, inputs), (size, size, inputs, features) -> (b, ceil(h / strides), ceil(w / strides), features)."""
  return conv_general_dilated(x, kernel, **_window(kernel, strides))


def _window(kernel: jax.Array, strides: int) -> dict[str, Any]:
  """The arguments of `jax.lax.conv_general_dilated` for a convolution padded on both sides."""
  padding = [((kernel.shape[0] - 1) // 2,) * 2] * 2
  return {'window_strides': (strides,) * 2, 'padding': padding, 'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] = (1, 1),
  rhs_dilation: Sequence[int] = (1, 1),
  **options: Any,
) -> jax.Array:
  """`jax.lax.conv_general_dilated` in two dimensions, whose kernel gradient is fast on CPUs.

  XLA on CPUs hands convolutions to YNNPACK, which is fast for forward passes and for the gradients of inputs. For the
  gradients of kernels, it takes up to ten times as long as Eigen, to which XLA hands the convolutions that YNNPACK does
  not support. Among them are those of an image with gaps between its pixels. This kernel gradient therefore puts a gap
  between the columns of the image and moves along them in double steps, which gives the same sums.

  The arguments are those of `jax.lax.conv_general_dilated`, with the padding as numbers. Forward mode raises, see
  `Conv`.
  """

  def with_columns(apart: int) -> _Convolution:
    def wider(rows: Any, columns: Any) -> tuple[Any, Any]:
      return rows, columns * apart

    return functools.partial(
      jax.lax.conv_general_dilated,
      window_strides=wider(*window_strides),
      padding=(padding[0], (apart * padding[1][0], apart * padding[1][1])),
      lhs_dilation=wider(*lhs_dilation),
      rhs_dilation=wider(*rhs_dilation),
      **options,
    )

  return _convolution(with_columns(1), with_columns(2), lhs, rhs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolution(convolution: _Convolution, with_gaps: _Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`convolution`; on CPUs, its kernel gradient is that of `with_gaps`, which computes the same."""
  return convolution(x, kernel)


def _convolution_forward(convolution, with_gaps, x, kernel):
  return convolution(x, kernel), (x, kernel)


def _convolution_backward(convolution, with_gaps, saved, cotangent):
  def to_kernel(function: _Convolution, x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    return jax.vjp(functools.partial(function, x), kernel)[1](cotangent)[0]

  x, kernel = saved
  (to_x,) = jax.vjp(lambda x: convolution(x, kernel), x)[1](cotangent)
  cpu, default = (functools.partial(to_kernel, function) for function in (with_gaps, convolution))
  return to_x, jax.lax.platform_dependent(x, kernel, cotangent, cpu=cpu, default=default)


_convolution.defvjp(_convolution_forward, _convolution_backward)


@jax.custom_vjp
def convolve_pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 1 x 1 convolution as the matrix product that it is: (b, h, w, inputs), (inputs, features) -> (b, h, w, features).

  XLA on CPUs computes the gradient of a 1 x 1 convolution's kernel as a convolution with a window of the whole map,
  several times slower. Computed as a product, XLA transposes the first factor. JAX's rule puts the cotangent there,
  which takes up to 80 ms for 64 x 24 x 24 x 512 on two cores; here the smaller of the two comes first.
  """
  return _product(x, kernel)


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return jax.lax.dot_general(x, kernel, (((3,), (0,)), ((), ())))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _product(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  positions = (((0, 1, 2), (0, 1, 2)), ((), ()))
  if x.shape[3] <= cotangent.shape[3]:
    to_kernel = jax.lax.dot_general(x, cotangent, positions)
  else:
    to_kernel = jax.lax.dot_general(cotangent, x, positions).T
  return jax.lax.dot_general(cotangent, kernel, (((3,), (1,)), ((), ()))), to_kernel


convolve_pointwise.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_small(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
  """`convolve`; in training on CPUs by `by_taps`, which takes half the time or less for 3 x 3 maps of 512 features.

  Evaluation does without: XLA takes 40 ms to compile each product, and every subset of channels has a program. The
  choice is made when the program is lowered, for the platform that it is lowered for.
  """
  return convolve(x, kernel, strides)


def _small_forward(x: jax.Array, kernel: jax.Array, strides: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  taps, whole = functools.partial(by_taps, strides=strides), _whole(kernel, strides)
  return jax.lax.platform_dependent(x, kernel, cpu=taps, default=whole), (x, kernel)


def _whole(kernel: jax.Array, strides: int) -> _Convolution:
  """`convolve` with JAX's own gradient: a branch with another one could not be differentiated in forward mode."""
  return functools.partial(jax.lax.conv_general_dilated, **_window(kernel, strides))


def _small_backward(
  strides: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  def by_convolutions(x, kernel, cotangent):
    return jax.vjp(_whole(kernel, strides), x, kernel)[1](cotangent)

  def by_products(x, kernel, cotangent):
    # In float32 or float64, in which the contributions of all taps are summed.
    dtype = jnp.result_type(x, jnp.float32)
    inputs = x.astype(dtype), kernel.astype(dtype)
    to_x, to_kernel = jax.vjp(functools.partial(by_taps, strides=strides), *inputs)[1](cotangent.astype(dtype))
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype)

  return jax.lax.platform_dependent(*saved, cotangent, cpu=by_products, default=by_convolutions)


convolve_small.defvjp(_small_forward, _small_backward)


def by_taps(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
  """`convolve` as a sum of matrix products, one per tap, over the positions where the tap meets no padding.

  On a 3 x 3 map this skips 32 of 81 products.
  """
  size = kernel.shape[0]
  rows, columns = ([_where_tap_meets(length, size, tap, strides) for tap in range(size)] for length in x.shape[1:3])
  outputs, dtype = [], jnp.result_type(x, jnp.float32)
  for i, j in itertools.product(range(size), range(size)):
    row, column = rows[i], columns[j]
    if row and column:
      (from_rows, pad_rows), (from_columns, pad_columns) = row, column
      product = jax.lax.dot_general(
        x[:, from_rows, from_columns], kernel[i, j], (((3,), (0,)), ((), ())), preferred_element_type=dtype
      )
      outputs.append(jnp.pad(product, ((0, 0), pad_rows, pad_columns, (0, 0))))
  return functools.reduce(jnp.add, outputs).astype(x.dtype)


def _where_tap_meets(length: int, size: int, tap: int, strides: int) -> tuple[slice, tuple[int, int]] | None:
  """Along one axis: the inputs that a tap meets, and how many outputs lie before and behind; None for no inputs."""
  offset, outputs = tap - (size - 1) // 2, -(-length // strides)  # output o meets input strides * o + offset
  first, behind = max(0, -(offset // strides)), min(outputs, -(-(length - offset) // strides))
  if first >= behind:
    return None
  return slice(strides * first + offset, strides * (behind - 1) + offset + 1, strides), (first, outputs - behind)
