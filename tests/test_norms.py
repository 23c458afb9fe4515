"""Our BatchNorm is Flax's function, gradient and running statistics; by size it is one for each group of examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxnets.nn.norms import BatchNorm, BatchNormBySize, batch_norm_by_size


def pair(train, **options):
  return (BatchNorm(train, momentum=0.7, **options),
          nn.BatchNorm(use_running_average=not train, momentum=0.7, epsilon=1e-5, **options))


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


GROUP = np.asarray([0, 2, 0, 2, 2])  # of three, and none of group 1


def by_size(train=True, group=GROUP, seen=(1, 1, 1)):
  """A module of three groups, and variables whose statistics differ from group to group."""
  (stirred_one, x), factors = stirred((len(GROUP), 6, 4, 7)), jnp.asarray([[1.0], [2.0], [3.0]])
  statistics = {name: factors * value for name, value in stirred_one['batch_stats'].items()}
  variables = {'params': stirred_one['params'],
               'batch_stats': {**statistics, 'seen': jnp.asarray(seen, jnp.float32)[:, None]}}
  return BatchNormBySize(train, momentum=0.7, groups=3, group=jnp.asarray(group)), variables, x


@pytest.mark.parametrize('train', [True, False])
def test_every_group_is_normalised_as_by_a_batch_norm_that_sees_nothing_else(train):
  module, variables, x = by_size(train)
  weights = jax.random.normal(jax.random.key(9), x.shape)

  def ours(params, x):
    out, changed = module.apply({**variables, 'params': params}, x, mutable=['batch_stats'])
    return (out * weights).sum(), (out, changed['batch_stats'])

  def theirs(params, x):
    outs, changes = jnp.zeros_like(x), {}
    for group in (0, 2):
      statistics = {name: variables['batch_stats'][name][group] for name in ('mean', 'var')}
      out, changed = BatchNorm(train, momentum=0.7).apply(
        {'params': params, 'batch_stats': statistics}, x[group == GROUP], mutable=['batch_stats'])
      outs, changes[group] = outs.at[group == GROUP].set(out), changed['batch_stats']
    return (outs * weights).sum(), (outs, changes)

  (_, (out, changed)), gradients = jax.value_and_grad(ours, argnums=(0, 1), has_aux=True)(variables['params'], x)
  (_, (expected, changes)), their_gradients = jax.value_and_grad(theirs, argnums=(0, 1), has_aux=True)(
    variables['params'], x)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-4)
  jax.tree.map(close, (out, gradients), (expected, their_gradients))
  for name in ('mean', 'var'):
    for group in (0, 2):
      close(changed[name][group], changes[group][name])
    np.testing.assert_array_equal(changed[name][1], variables['batch_stats'][name][1])  # nobody was of this group


def test_a_group_that_training_never_showed_has_the_statistics_of_all_examples():
  module, variables, x = by_size(seen=(0, 0, 1))
  changed = module.apply(variables, x, mutable=['batch_stats'])[1]['batch_stats']
  np.testing.assert_array_equal(changed['seen'][:, 0], [1, 0, 1])
  of_all = BatchNorm(True, momentum=0.7).apply(
    {'params': variables['params'], 'batch_stats': {key: variables['batch_stats'][key][1] for key in ('mean', 'var')}},
    x, mutable=['batch_stats'])[1]['batch_stats']
  for name in ('mean', 'var'):
    np.testing.assert_allclose(changed[name][1], of_all[name], rtol=1e-5)


def test_one_group_for_all_is_the_same_group_for_each():
  for group in range(3):
    module, variables, x = by_size(train=False, group=[group] * len(GROUP))
    static = module.clone(group=group)
    np.testing.assert_allclose(static.apply(variables, x), module.apply(variables, x), rtol=1e-6, atol=1e-6)


def test_up_to_four_channels_each_number_is_a_group_and_beyond_neighbours_share_one():
  def groups(channels):
    modules = [batch_norm_by_size(train=True, size=size, channels=channels) for size in range(1, channels + 1)]
    assert {module.groups for module in modules} == {min(channels, 4)}
    masks = batch_norm_by_size(train=True, size=jnp.arange(1, channels + 1), channels=channels)
    np.testing.assert_array_equal(masks.group, [module.group for module in modules])
    return [module.group for module in modules]

  assert [groups(channels) for channels in (1, 2, 3, 4)] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
  assert groups(13) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
