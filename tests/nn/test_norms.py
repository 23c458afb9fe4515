"""Our BatchNorm is Flax's function, gradient and running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxnets.nn.norms import BatchNorm


def pair(train, **options):
  return (
    BatchNorm(train, momentum=0.7, **options),
    nn.BatchNorm(use_running_average=not train, momentum=0.7, epsilon=1e-5, **options),
  )


def stirred(shape):
  """Variables that differ from feature to feature, and inputs whose mean is far from zero."""
  keys = jax.random.split(jax.random.key(0), 5)
  values = [jax.random.uniform(key, shape[-1:], minval=0.5, maxval=2.0) for key in keys[:4]]
  variables = {'params': {'scale': values[0], 'bias': values[1]}, 'batch_stats': {'mean': values[2], 'var': values[3]}}
  return variables, 3.0 + 0.5 * jax.random.normal(keys[4], shape)


@pytest.mark.parametrize('train', [True, False])
def test_values_gradients_and_running_statistics_are_flax_own(train):
  variables, x = stirred((4, 6, 5, 7))
  weights = jax.random.normal(jax.random.key(9), x.shape)

  def results(module):
    def loss(params, x):
      out, changed = module.apply({**variables, 'params': params}, x, mutable=['batch_stats'])
      return (out * weights).sum(), (out, changed)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables['params'], x)

  ours, theirs = map(results, pair(train))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), ours, theirs)


def test_it_begins_as_flax_own_and_initialising_moves_nothing():
  ours, theirs = (module.init(jax.random.key(0), jnp.ones((2, 3, 3, 4))) for module in pair(True))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_bfloat16_is_normalised_in_float32():
  variables, x = stirred((4, 6, 5, 7))
  ours, _ = pair(True, dtype=jnp.bfloat16)
  out, changed = ours.apply(variables, x.astype(jnp.bfloat16), mutable=['batch_stats'])
  rounded = x.astype(jnp.bfloat16).astype(jnp.float32)
  exact, moved = BatchNorm(True, momentum=0.7).apply(variables, rounded, mutable=['batch_stats'])
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), changed, moved)
