"""Schedules and SGD against plain formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from flaxnets.errors import InputError
from flaxnets.training import optim

DROPS = (0.5, 0.75, 0.85)


def rates(name: str, **options) -> np.ndarray:
  function = jax.jit(optim.schedule(name, **options))
  return np.array([function(jnp.int32(step)) for step in range(options['steps'])])


@pytest.mark.parametrize('steps', [1, 2, 7, 20, 101])
@pytest.mark.parametrize('warmup', [0, 5])
def test_piecewise_drops_at_shares_of_all_steps(steps, warmup):
  warmup = min(warmup, steps - 1)
  expected = []
  for step in range(steps):
    rate = 0.4
    for share in DROPS:
      if step >= round(share * steps):
        rate = rate / 10
    first = 0.4 * 0.1 ** sum(warmup >= round(share * steps) for share in DROPS)
    expected.append(first * step / warmup if step < warmup else rate)
  ours = rates('piecewise', learning_rate=0.4, steps=steps, warmup_steps=warmup, drops=DROPS)
  # Where a drop falls into the warm-up, the way up leads to the dropped rate: no jump follows it.
  np.testing.assert_allclose(ours, np.array(expected), rtol=1e-5, atol=1e-9)


def test_no_drops_are_a_constant():
  ours = rates('piecewise', learning_rate=0.4, steps=9, drops=())
  np.testing.assert_allclose(ours, rates('constant', learning_rate=0.4, steps=9), rtol=1e-6)
  np.testing.assert_allclose(ours, 0.4, rtol=1e-6)


def test_cosine_falls_from_the_rate_to_zero_after_the_warm_up():
  ours = rates('cosine', learning_rate=0.2, steps=30, warmup_steps=10)
  np.testing.assert_allclose(ours[:10], 0.2 * np.arange(10) / 10, atol=1e-7)
  np.testing.assert_allclose(ours[10:], 0.1 * (1 + np.cos(np.pi * np.arange(20) / 20)), atol=1e-7)
  assert optim.schedule('cosine', learning_rate=0.2, steps=30)(30) == pytest.approx(0, abs=1e-7)


def test_onecycle_rises_over_three_tenths_and_falls_to_nearly_nothing():
  def between(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2

  expected = [between(0.5 / 25, 0.5, step / 30) for step in range(30)]
  expected += [between(0.5, 0.5 / 250_000, step / 70) for step in range(70)]
  np.testing.assert_allclose(rates('onecycle', learning_rate=0.5, steps=100), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'options', 'words'),
  [
    ('cosin', {}, "unknown schedule 'cosin'; train.schedule must be one of piecewise, cosine, onecycle, constant"),
    ('cosine', {'warmup_steps': 10}, 'the warm-up is 10 steps; it must be from 0 to below the 10 steps'),
    ('cosine', {'warmup_steps': -1}, 'the warm-up is -1 steps'),
    ('piecewise', {'drops': (0.5, 75)}, 'train.drops contains 75'),
  ],
)
def test_an_invalid_schedule_is_an_error_that_says_what_is_valid(name, options, words):
  with pytest.raises(InputError, match=words):
    optim.schedule(name, learning_rate=0.1, steps=10, **options)


@pytest.mark.parametrize(
  ('momentum', 'nesterov', 'weight_decay', 'clip_norm'),
  [
    (0.0, False, 0.0, 0.0),
    (0.9, False, 0.0, 0.0),
    (0.9, True, 0.0, 0.0),
    (0.9, False, 0.05, 0.0),
    (0.9, True, 0.05, 1.5),
    (0.0, False, 0.05, 1.5),
  ],
)
def test_sgd_steps_in_pytorchs_order(momentum, nesterov, weight_decay, clip_norm):
  random = np.random.default_rng(0)
  params = {'kernel': random.normal(size=(3, 4)), 'scale': random.normal(size=4)}
  gradients = [{name: random.normal(size=value.shape) for name, value in params.items()} for _ in range(5)]
  schedule = optim.schedule('piecewise', learning_rate=0.1, steps=5, drops=(0.6,))
  optimizer = optim.optimizer(
    schedule, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, clip_norm=clip_norm
  )
  ours = jax.tree.map(jnp.asarray, params)
  state, step = optimizer.init(ours), jax.jit(optimizer.update)

  velocity = {name: np.zeros_like(value) for name, value in params.items()}
  for number, gradient in enumerate(gradients):
    updates, state = step(jax.tree.map(jnp.asarray, gradient), state, ours)
    ours = optax.apply_updates(ours, updates)

    norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
    shorter = min(1.0, clip_norm / norm) if clip_norm else 1.0
    for name in params:
      d = gradient[name] * shorter + (weight_decay * params[name] if name == 'kernel' else 0)
      velocity[name] = momentum * velocity[name] + d
      d = d + momentum * velocity[name] if nesterov else velocity[name]
      params[name] = params[name] - (0.1 if number < 3 else 0.01) * d
      np.testing.assert_allclose(ours[name], params[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_updates_are_bit_equal_to_those_of_the_chain_of_single_transformations(momentum):
  random = np.random.default_rng(0)
  schedule = optim.schedule('cosine', learning_rate=0.1, steps=6)
  chain = optax.chain(
    optax.clip_by_global_norm(1.5),
    optax.add_decayed_weights(0.05, mask=optim.decayed),
    optax.trace(momentum, nesterov=True) if momentum else optax.identity(),
    optax.scale_by_learning_rate(schedule),
  )
  ours = optim.optimizer(schedule, momentum=momentum, nesterov=True, weight_decay=0.05, clip_norm=1.5)
  params = {'kernel': jnp.asarray(random.normal(size=(3, 4)), jnp.float32), 'scale': jnp.ones(4)}
  states, steps = [ours.init(params), chain.init(params)], [jax.jit(ours.update), jax.jit(chain.update)]
  for _ in range(5):
    gradient = jax.tree.map(lambda value: jnp.asarray(random.normal(size=value.shape), jnp.float32), params)
    (one, states[0]), (other, states[1]) = (
      step(gradient, state, params) for step, state in zip(steps, states, strict=True)
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    params = optax.apply_updates(params, one)


def test_weight_decay_is_for_kernels_only():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x))
      return nn.Dense(2)(nn.MultiHeadDotProductAttention(2)(x.reshape(1, -1, 4)))

  params = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))['params']
  flat = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(optim.decayed(params))
  }
  assert {name for name, on in flat.items() if on} == {name for name in flat if name.endswith('kernel')}
  assert params['MultiHeadDotProductAttention_0']['query']['bias'].ndim == 2 and len(flat) == 14


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'momentum': 1.0}, 'train.momentum is 1.0'),
    ({'weight_decay': -1.0}, 'train.weight_decay is -1.0'),
    ({'clip_norm': -0.5}, 'train.clip_norm is -0.5'),
  ],
)
def test_an_invalid_optimizer_is_an_error_that_names_the_field(options, words):
  with pytest.raises(InputError, match=words):
    optim.optimizer(0.1, **options)
