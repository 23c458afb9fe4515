"""Every formulation of a convolution is Flax's own function, and so is its gradient."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxnets.nn import conv
from flaxnets.nn.conv import by_taps, convolve
from flaxnets.nn.stem import Stem

NORM = functools.partial(nn.BatchNorm, use_running_average=True)


def random(seed, *shape, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


@pytest.mark.parametrize('strides', [1, 2])
@pytest.mark.parametrize('size', [1, 3, 7])
@pytest.mark.parametrize('side', [3, 16])
def test_a_convolution_is_flax_own(size, strides, side):
  x = random(0, 2, side, side, 5)
  ours = conv.Conv(3, size, strides)
  theirs = nn.Conv(3, (size, size), strides, (size - 1) // 2, use_bias=False)
  variables = ours.init(jax.random.key(1), x)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, theirs.init(jax.random.key(1), x))
  weights = random(2, *theirs.apply(variables, x).shape)
  values = [
    jax.value_and_grad(lambda v, x, m=module: (m.apply(v, x) * weights).sum(), argnums=(0, 1))(variables, x)
    for module in (ours, theirs)
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *values)


def lowered(platform, side, gradient):
  """The program of a 3 x 3 convolution of a side x side map, or of its gradient, lowered for a platform."""
  module, x = conv.Conv(3, 3), random(0, 1, side, side, 2)
  params = module.init(jax.random.key(0), x)
  function = jax.grad(lambda *args: module.apply(*args).sum()) if gradient else module.apply
  return jax.jit(function).trace(params, x).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize(
  ('platform', 'side', 'gradient', 'convolutions'),
  [
    ('cpu', 3, True, 0),
    ('cpu', 3, False, 1),
    ('cpu', 4, True, 1),
    ('cuda', 3, True, 1),
    ('cuda', 3, False, 1),
    ('tpu', 3, True, 1),
  ],
)
def test_only_small_maps_in_training_on_cpus_go_by_taps(platform, side, gradient, convolutions):
  text = lowered(platform, side, gradient).as_text()
  # The gradient of a sum needs no value: what is left is one convolution, or none and products in its place.
  assert text.count('stablehlo.convolution') == convolutions
  assert ('stablehlo.dot_general' in text) == (not convolutions)


def test_the_compiled_training_program_of_a_cpu_has_no_convolution_of_small_maps():
  text = lowered('cpu', 3, gradient=True).compile().as_text()
  assert not re.search(r'\b(convolution|conditional)\(', text) and re.search(r'\bdot\(', text)


@given(
  st.tuples(st.integers(1, 9), st.integers(1, 9)),
  st.tuples(st.integers(1, 4), st.integers(1, 4)),
  st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=3, max_size=3),
  st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=2),
)
@settings(max_examples=20)
def test_kernel_gradients_are_those_of_lax_for_all_its_windows(side, size, steps, padding):
  names = ('window_strides', 'lhs_dilation', 'rhs_dilation')
  options = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), 'padding': padding, **dict(zip(names, steps, strict=True))}
  x, kernel = random(0, 2, *side, 3), random(1, *size, 3, 5)
  values = [
    jax.vjp(lambda x, kernel, f=function: f(x, kernel, **options), x, kernel)
    for function in (conv.conv_general_dilated, jax.lax.conv_general_dilated)
  ]
  weights = random(2, *values[0][0].shape)
  for ours, theirs in zip(*((out, *transposed(weights)) for out, transposed in values), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_xla_computes_kernel_gradients_on_cpus_without_the_library_that_is_slow_at_them():
  def program(convolution):
    def gradient(x, kernel, cotangent):
      how = {'padding': [(1, 1), (1, 1)], 'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
      return jax.vjp(lambda kernel: convolution(x, kernel, (1, 1), **how), kernel)[1](cotangent)

    maps, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 24, 24, 64), (3, 3, 64, 64)))
    return jax.jit(gradient).lower(maps, kernel, maps).compile().as_text()

  ours, theirs = program(conv.conv_general_dilated), program(jax.lax.conv_general_dilated)
  if '__ynn_fusion' not in theirs:
    pytest.skip('XLA does not use YNNPACK here, with the XLA_FLAGS of this session')
  assert '__ynn_fusion' not in ours


@pytest.mark.parametrize('module', [conv.Conv(8, 3), Stem(3, 8, NORM), Stem(3, 8, NORM, 'conv', 'mean')])
@pytest.mark.parametrize(('platform', 'gaps'), [('cpu', 1), ('cuda', 0), ('tpu', 0)])
def test_only_the_kernel_gradients_of_cpus_look_at_an_image_with_gaps(module, platform, gaps):
  x = random(0, 2, 16, 16, 3)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  program = jax.jit(jax.grad(lambda v, x: module.apply(v, x).sum())).trace(variables, x)
  text = program.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('lhs_dilate = [1, 2]') == gaps


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_gradient_by_taps_is_that_of_the_convolution_and_keeps_its_types(dtype):
  x, kernel = random(0, 2, 3, 3, 4, dtype=dtype), random(1, 3, 3, 4, 5, dtype=dtype)
  weights = random(2, 2, 3, 3, 5)
  ours, theirs = (
    jax.grad(lambda x, kernel, f=f: (f(x, kernel, 1) * weights).sum(), argnums=(0, 1))(x, kernel)
    for f in (conv.convolve_small, convolve)
  )
  tolerance = 1e-4 if dtype == jnp.float32 else 0.05
  for a, b in zip(ours, theirs, strict=True):
    assert a.dtype == dtype
    np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance)


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 3, 5, 7]), st.integers(1, 4))
@settings(max_examples=12)
def test_by_taps_is_a_convolution_for_any_map_kernel_and_stride(height, width, size, strides):
  x, kernel = random(0, 1, height, width, 2), random(1, size, size, 2, 3)
  np.testing.assert_allclose(by_taps(x, kernel, strides), convolve(x, kernel, strides), rtol=1e-4, atol=1e-4)


def test_by_taps_adds_up_in_float32():
  x, kernel = random(0, 2, 3, 3, 256, dtype=jnp.bfloat16), random(1, 3, 3, 256, 8, dtype=jnp.bfloat16)
  weights = random(2, 2, 3, 3, 8)

  def results(x, kernel):
    out, transposed = jax.vjp(lambda x, kernel: conv.convolve_small(x, kernel, 1), x, kernel)
    return out, *transposed(weights.astype(jnp.bfloat16).astype(out.dtype))

  exact = results(x.astype(jnp.float32), kernel.astype(jnp.float32))
  for ours, expected in zip(results(x, kernel), exact, strict=True):
    assert ours.dtype == jnp.bfloat16
    # Rounded once, at the end: half of bfloat16's last place is 2^-9.
    np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize('size', [1, 3])
def test_products_of_hessian_and_vector_are_there_in_the_way_that_jax_advises(size):
  module, x = conv.Conv(3, size), random(0, 2, 3, 3, 5)
  params = module.init(jax.random.key(1), x)
  direction = jax.tree.map(lambda leaf: random(2, *leaf.shape), params)

  def loss(params):
    return (module.apply(params, x) ** 3).sum()

  _, product = jax.jvp(jax.grad(loss), (params,), (direction,))
  step = 1e-2
  before, after = (
    jax.grad(loss)(jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction)) for sign in (-1, 1)
  )
  jax.tree.map(
    lambda p, a, b: np.testing.assert_allclose(p, (a - b) / (2 * step), rtol=1e-2, atol=1e-1), product, after, before
  )


@pytest.mark.parametrize('side', [3, 8])
def test_products_of_hessian_and_vector_are_there_in_batches_and_on_other_platforms(side):
  module, x = conv.Conv(3, 3), random(0, 2, side, side, 5)
  params = module.init(jax.random.key(1), x)

  def product(direction):
    return jax.jvp(jax.grad(lambda params: (module.apply(params, x) ** 3).sum()), (params,), (direction,))[1]

  directions = jax.tree.map(lambda leaf: random(2, 4, *leaf.shape), params)
  together = jax.jit(jax.vmap(product))(directions)
  alone = jax.jit(product)(jax.tree.map(lambda leaf: leaf[1], directions))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-3), together, alone)
  jax.jit(product).trace(params).lower(lowering_platforms=('cuda',))


def test_a_small_map_in_float64_is_convolved_and_differentiated_in_float64():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, 3, 3, 4)), rng.normal(size=(3, 3, 4, 5))

  def loss(function):
    return jax.grad(lambda x, kernel: jnp.square(function(x, kernel, 1)).sum(), argnums=(0, 1))

  with jax.enable_x64(True):
    ours, expected = loss(conv.convolve_small)(x, kernel), loss(convolve)(x, kernel)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, expected)
