import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxnets.analysis.covariance import channel_statistics
from flaxnets.nn.completion import COMPLETIONS, EPSILON, presence_mixing
from flaxnets.nn.dynamic_conv import DynamicConv, complete, subset_kernel
from flaxnets.nn.stem import put_statistics
from tests.nn.test_completion import random_correlation


def layer_and_variables(channels, completion='linear', dtype=None, seed=0, features=5, **kwargs):
  layer = DynamicConv(features, kwargs.pop('kernel_size', 3), channels, completion=completion, dtype=dtype, **kwargs)
  variables = layer.init(jax.random.key(seed), jnp.zeros((1, 16, 16, channels)))
  correlation = jnp.asarray(random_correlation(seed, channels), jnp.float32)
  return layer, {**variables, 'channel_stats': {'correlation': correlation}}


@settings(max_examples=16)
@given(
  st.integers(1, 14).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))),
  st.sampled_from(COMPLETIONS),
  st.integers(0, 2**31),
  st.sampled_from(
    [
      {'kernel_size': 7, 'strides': 2, 'padding': 3},
      {'kernel_size': (3, 5), 'padding': 'SAME'},
      {'kernel_size': 3, 'padding': 'VALID', 'kernel_dilation': 2},
      {'kernel_size': 1, 'use_bias': True},
      {'kernel_size': (2, 4), 'strides': (2, 1), 'padding': ((1, 0), (2, 2))},
    ]
  ),
)
def test_a_subset_and_a_mask_give_the_same_to_1e_4(members, completion, seed, spatial):
  channels, present = members
  subset = tuple(sorted(present))
  layer, variables = layer_and_variables(channels, completion, seed=seed % 1000, **spatial)
  x = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 12, 11, channels)), jnp.float32)
  mask = np.zeros((2, channels), bool)
  mask[:, list(subset)] = True
  static = layer.apply(variables, x[..., list(subset)], subset=subset)
  masked = layer.apply(variables, x, present=jnp.asarray(mask))
  assert static.shape == masked.shape
  scale = float(jnp.abs(static).max()) or 1.0
  np.testing.assert_allclose(masked / scale, static / scale, atol=1e-4)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  'spatial',
  [
    {'strides': 2, 'padding': 3, 'kernel_size': 7},
    {'padding': 'SAME', 'kernel_dilation': 2},
    {'padding': 'CIRCULAR'},
    {'padding': ((0, 1), (2, 0)), 'use_bias': True},
  ],
)
def test_with_all_channels_it_is_flax_conv_to_the_bit(dtype, spatial):
  layer, variables = layer_and_variables(4, dtype=dtype, **spatial)
  x = jax.random.normal(jax.random.key(1), (2, 15, 14, 4))
  kernel_size = (spatial.get('kernel_size', 3),) * 2
  plain = nn.Conv(
    5,
    kernel_size,
    dtype=dtype,
    **{'use_bias': False} | {key: value for key, value in spatial.items() if key != 'kernel_size'},
  )
  expected = plain.apply({'params': variables['params']}, x)
  np.testing.assert_array_equal(np.asarray(layer.apply(variables, x)), np.asarray(expected))
  np.testing.assert_array_equal(np.asarray(layer.apply(variables, x, subset=(0, 1, 2, 3))), np.asarray(expected))


@pytest.mark.parametrize('kernel_size', [(3,), (3, 3, 3)])
def test_kernels_of_other_than_two_sides_are_refused(kernel_size):
  with pytest.raises(
    ValueError, match=r'kernel_size is \(3.*\); images have two axes, so it must be \(height, width\)'
  ):
    DynamicConv(8, kernel_size, 3).init(jax.random.key(0), np.zeros((2, 8, 8, 3)))


def test_none_is_zero_filling_of_the_standardised_input():
  layer, variables = layer_and_variables(3, 'none')
  x = jax.random.normal(jax.random.key(1), (2, 9, 9, 3))
  zero_filled = layer.apply(variables, x.at[..., 1].set(0.0))
  np.testing.assert_allclose(layer.apply(variables, x[..., [0, 2]], subset=(0, 2)), zero_filled, rtol=1e-5, atol=1e-5)


def test_linear_completion_equals_predicting_the_absent_channel_first():
  layer, variables = layer_and_variables(3)
  correlation = np.asarray(variables['channel_stats']['correlation'], np.float64)
  x = jax.random.normal(jax.random.key(1), (2, 9, 9, 3))
  weights = correlation[1, [0, 2]] @ np.linalg.inv(correlation[np.ix_([0, 2], [0, 2])] + 1e-3 * np.eye(2))
  guessed = x.at[..., 1].set(x[..., [0, 2]] @ jnp.asarray(weights, jnp.float32))
  np.testing.assert_allclose(
    layer.apply(variables, x[..., [0, 2]], subset=(0, 2)), layer.apply(variables, guessed), rtol=1e-4, atol=1e-4
  )


def test_each_example_of_a_batch_follows_its_own_mask():
  layer, variables = layer_and_variables(3)
  x = jax.random.normal(jax.random.key(1), (3, 9, 9, 3))
  subsets = [(0,), (1, 2), (0, 1, 2)]
  mask = np.zeros((3, 3), bool)
  for row, subset in enumerate(subsets):
    mask[row, list(subset)] = True
  together = layer.apply(variables, x, present=jnp.asarray(mask))
  for row, subset in enumerate(subsets):
    alone = layer.apply(variables, x[row : row + 1][..., list(subset)], subset=subset)
    np.testing.assert_allclose(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('completion', COMPLETIONS)
def test_a_mask_keeps_nan_in_absent_channels_out(completion):
  layer, variables = layer_and_variables(3, completion)
  x = jax.random.normal(jax.random.key(1), (2, 9, 9, 3))
  with_nan = jnp.where(MASK[:, None, None, :], x, jnp.nan)
  np.testing.assert_array_equal(layer.apply(variables, with_nan, present=MASK), layer.apply(variables, x, present=MASK))


def mixing_in_float64(subset, correlation):
  """The prediction of every channel from those of the subset, (C, m)."""
  system = correlation[np.ix_(subset, subset)] + EPSILON * np.eye(len(subset))
  matrix = correlation[:, subset] @ np.linalg.inv(system)
  matrix[list(subset)] = np.eye(len(subset))
  return matrix


def test_a_bfloat16_bank_is_mixed_in_float32_and_rounded_once():
  correlation, subset = random_correlation(0, 6), (0, 2, 3, 5)
  bank = jax.random.normal(jax.random.key(1), (3, 3, 6, 5), jnp.bfloat16)
  kernel = subset_kernel(bank, 'linear', subset, jnp.asarray(correlation, jnp.float32))
  assert kernel.dtype == jnp.bfloat16
  expected = np.einsum('hwcf,cs->hwsf', np.asarray(bank, np.float64), mixing_in_float64(subset, correlation))
  np.testing.assert_allclose(np.asarray(kernel, np.float64), expected, rtol=2**-8, atol=1e-5)


def test_a_bfloat16_input_is_completed_in_float32_and_rounded_once():
  correlation, subset = random_correlation(0, 6), (0, 2, 3, 5)
  x = jax.random.normal(jax.random.key(1), (2, 9, 9, 6), jnp.bfloat16)
  present = jnp.zeros((2, 6), bool).at[:, jnp.asarray(subset)].set(True)
  completed = complete(x, presence_mixing('linear', present, jnp.asarray(correlation, jnp.float32)))
  assert completed.dtype == jnp.bfloat16
  expected = np.asarray(x, np.float64)[..., list(subset)] @ mixing_in_float64(subset, correlation).T
  np.testing.assert_allclose(np.asarray(completed, np.float64), expected, rtol=2**-8, atol=1e-5)


def test_an_integer_input_is_completed_as_the_same_numbers_in_float32_are():
  layer, variables = layer_and_variables(3)
  x = jax.random.randint(jax.random.key(1), (2, 9, 9, 3), -3, 4)
  ours = layer.apply(variables, x, present=MASK)
  np.testing.assert_array_equal(ours, layer.apply(variables, x.astype(jnp.float32), present=MASK))


@pytest.mark.parametrize('call', [{'subset': (0, 2, 3)}, {'present': np.asarray([[True, False, True, True]] * 2)}])
def test_a_layer_in_float64_is_exact_to_float64(call):
  with jax.enable_x64(True):
    layer = DynamicConv(5, 1, 4, param_dtype=jnp.float64)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 6, 6, 4)))
    correlation, x = random_correlation(0, 4), np.random.default_rng(0).normal(size=(2, 6, 6, 4))
    variables = put_statistics(variables, {'correlation': correlation})
    output = layer.apply(variables, x[..., [0, 2, 3]] if 'subset' in call else x, **call)
  assert output.dtype == jnp.float64
  bank = np.asarray(variables['params']['kernel'])[0, 0]
  expected = x[..., [0, 2, 3]] @ mixing_in_float64((0, 2, 3), correlation).T @ bank
  np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-12)


def test_a_layer_in_bfloat16_mixes_its_own_float32_bank():
  layer, variables = layer_and_variables(6, dtype=jnp.bfloat16, kernel_size=1, features=64)
  correlation, subset = np.asarray(variables['channel_stats']['correlation'], np.float64), (0, 2, 3, 5)
  kernel = layer.apply(variables, jnp.eye(4)[None, None], subset=subset)[0, 0]  # what each channel alone comes to
  assert kernel.dtype == jnp.bfloat16
  bank = np.asarray(variables['params']['kernel'], np.float64)[0, 0]
  expected = mixing_in_float64(subset, correlation).T @ bank
  np.testing.assert_allclose(np.asarray(kernel, np.float64), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
  ('kwargs', 'said'),
  [
    ({'subset': (1, 0)}, 'sorted, distinct'),
    ({'subset': (0, 0)}, 'sorted, distinct'),
    ({'subset': (0, 7)}, 'sorted, distinct'),
    ({'subset': ()}, 'sorted, distinct'),
    ({'subset': (0, 1, 2)}, 'the input has 2 channels'),
    ({}, 'the input has 2 channels'),
    ({'present': jnp.ones((2, 2), bool)}, 'the mask of present channels'),
    ({'present': jnp.ones((2, 3), bool), 'subset': (0, 1)}, 'not both'),
    ({'present': jnp.ones((2, 3))}, 'must be a bool array, but it is float32'),
    ({'present': np.ones((2, 3), np.uint8)}, 'must be a bool array, but it is uint8'),
    ({'present': [[True, False, True]] * 2}, 'must be a bool array, but it is list'),
  ],
)
def test_what_does_not_fit_together_is_refused(kwargs, said):
  layer, variables = layer_and_variables(3)
  with pytest.raises(ValueError, match=said):
    layer.apply(variables, jnp.zeros((2, 9, 9, 2)), **kwargs)


def test_an_unknown_completion_is_refused():
  with pytest.raises(ValueError, match='there are none, scale, linear, unit'):
    DynamicConv(4, 3, 3, completion='cubic').init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


MASK = jnp.asarray([[True, False, True], [False, True, True]])


def fresh(completion='linear'):
  """A layer as `init` leaves it, without statistics, and two images."""
  layer, images = DynamicConv(4, 3, 3, completion=completion), jax.random.normal(jax.random.key(1), (2, 9, 9, 3))
  return layer, layer.init(jax.random.key(0), images), images


@pytest.mark.parametrize('completion', ['linear', 'unit'])
@pytest.mark.parametrize('stored', [True, False], ids=['as initialised', 'collection left out'])
def test_a_prediction_without_statistics_is_an_error_that_says_what_to_call(stored, completion):
  layer, variables, images = fresh(completion)
  variables = variables if stored else {'params': variables['params']}
  for call in ({'x': images[..., [0, 2]], 'subset': (0, 2)}, {'x': images, 'present': MASK}):
    said = rf"completion='{completion}' needs .* flaxnets\.put_statistics\(variables, flaxnets\.channel_statistics"
    with pytest.raises(ValueError, match=said):
      layer.apply(variables, **call)


@pytest.mark.parametrize('completion', ['linear', 'unit'])
@pytest.mark.parametrize('subset', [(0,), (0, 2)])
def test_a_subset_without_statistics_gives_nan_where_jit_hides_the_values(subset, completion):
  layer, variables, images = fresh(completion)
  on_subset = jax.jit(lambda v, x: layer.apply(v, x, subset=subset))(variables, images[..., list(subset)])
  assert jnp.isnan(on_subset).all()


@pytest.mark.parametrize('completion', ['linear', 'unit'])
@pytest.mark.parametrize('mask', [MASK, jnp.ones((2, 3), bool), jnp.eye(3, dtype=bool)[:2], jnp.zeros((2, 3), bool)])
def test_a_mask_without_statistics_gives_nan_where_jit_hides_the_values(mask, completion):
  layer, variables, images = fresh(completion)
  assert jnp.isnan(jax.jit(lambda v, x: layer.apply(v, x, present=mask))(variables, images)).all()


def test_a_layer_is_initialised_and_called_on_all_channels_under_debug_nans():
  with jax.debug_nans(True):
    layer, variables, images = fresh()
    layer.apply(variables, images)


def test_jit_over_unmeasured_constants_is_the_same_error():
  layer, variables, images = fresh()
  with pytest.raises(ValueError, match=r'flaxnets\.put_statistics'):
    jax.jit(lambda x: layer.apply(variables, x, subset=(0, 2)))(images[..., [0, 2]])


@pytest.mark.parametrize('stored', [True, False], ids=['as initialised', 'collection left out'])
def test_all_channels_need_no_statistics(stored):
  layer, variables, images = fresh()
  expected = nn.Conv(4, (3, 3), use_bias=False).apply({'params': variables['params']}, images)
  variables = variables if stored else {'params': variables['params']}
  np.testing.assert_array_equal(layer.apply(variables, images), expected)
  np.testing.assert_array_equal(layer.apply(variables, images, subset=(0, 1, 2)), expected)


@pytest.mark.parametrize('completion', ['none', 'scale'])
def test_the_other_completions_need_no_statistics(completion):
  layer, variables, images = fresh(completion)
  assert jnp.isfinite(layer.apply(variables, images[..., [0, 2]], subset=(0, 2))).all()
  assert jnp.isfinite(layer.apply(variables, images, present=MASK)).all()


@pytest.mark.parametrize('call', [{'subset': (0, 2)}, {'present': MASK}])
def test_a_layer_can_be_initialised_with_any_call(call):
  layer, _, images = fresh()
  x = images[..., [0, 2]] if 'subset' in call else images
  output, variables = layer.init_with_output(jax.random.key(0), x, **call)
  assert jnp.isfinite(output).all()
  assert variables['channel_stats']['correlation'].shape == (3, 3)
  shapes = jax.eval_shape(lambda key: layer.init(key, x, **call), jax.random.key(0))
  assert shapes['channel_stats']['correlation'].shape == (3, 3)


@pytest.mark.parametrize('completion', ['linear', 'unit'])
def test_measured_statistics_make_predictions_work_in_and_out_of_jit(completion):
  layer, variables, images = fresh(completion)
  variables = put_statistics(variables, channel_statistics(np.asarray(images)))
  plain = layer.apply(variables, images[..., [0, 2]], subset=(0, 2))
  compiled = jax.jit(lambda v, x: layer.apply(v, x, subset=(0, 2)))(variables, images[..., [0, 2]])
  assert jnp.isfinite(plain).all()
  np.testing.assert_allclose(plain, compiled, rtol=1e-5, atol=1e-5)
