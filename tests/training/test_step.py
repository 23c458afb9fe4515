import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import serialization

from flaxnets.augment.pipeline import training_view
from flaxnets.errors import InputError
from flaxnets.runtime import devices
from flaxnets.training import optim
from flaxnets.training.step import TrainState, differentiated, initial_state, make_loss, make_train_step
from tests.networks import MEAN, tiny

STATISTICS = {'mean': MEAN, 'std': MEAN / 2}
AUGMENTATION = {
  'crop_scale': (0.5, 1.0),
  'crop_ratio': (3 / 4, 4 / 3),
  'flip': 0.5,
  'rotation': 10.0,
  'perspective': 0.2,
  'perspective_probability': 0.5,
}


def host_batch(size=16, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'image': rng.integers(0, 256, (size, 20, 20, 3), np.uint8),
    'size': np.full((size, 2), [40, 30], np.int32),
    'label': rng.integers(0, 6, size, np.int32),
    'present': np.ones((size, 3), bool),
    'skipped': np.zeros(size, bool),
  }


def view_of(mode='hierarchical', seed=0):
  return training_view(
    seed=seed,
    source_index=(0, 1, 2),
    canvas=(20, 20),
    image_size=12,
    statistics=STATISTICS,
    augmentation=AUGMENTATION,
    presence_mode=mode,
    presence_probability=0.5,
    presence_fill='absent',
  )


@functools.cache
def compiled(mesh, ema, mode, rate, accumulate, norm, smoothing, max_loss):
  model, variables = tiny(norm=norm)
  schedule = optim.schedule('constant', learning_rate=rate, steps=10)
  optimizer = optim.optimizer(schedule, momentum=0.9, nesterov=False, weight_decay=1e-4, clip_norm=0.0)
  step = make_train_step(
    model,
    optimizer,
    schedule,
    mesh,
    view_of(mode),
    masked=mode != 'none',
    ema=ema,
    label_smoothing=smoothing,
    accumulate=accumulate,
    max_loss=max_loss,
  )

  def begin():
    return jax.device_put(initial_state(variables, optimizer, ema=ema > 0), devices.replicated(mesh))

  return step, begin


def build(
  mesh, *, ema=0.9, mode='hierarchical', rate=0.1, accumulate=1, norm='batch', smoothing=0.0, max_loss=math.inf
):
  """A compiled step and a state to begin with. The step overwrites it, so its weights must not be shared."""
  step, begin = compiled(mesh, ema, mode, rate, accumulate, norm, smoothing, max_loss)
  return step, jax.tree.map(jnp.copy, begin())


def feed(mesh, *batches):
  return devices.to_devices(batches, mesh)


def trained(mesh, steps=3, **kwargs):
  step, state = build(mesh, **kwargs)
  rows = []
  for batch in feed(mesh, *(host_batch(seed=number) for number in range(steps))):
    state, metrics = step(state, batch)
    rows.append(jax.device_get(metrics))
  return jax.device_get(state), rows


def assert_close(one, other, rtol=1e-4, atol=1e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)


def test_a_step_is_pinned_to_numbers(mesh1):
  """Any change of initialisation, augmentation, sampling, model or optimiser moves these."""
  _, rows = trained(mesh1, steps=3)
  np.testing.assert_allclose([row['loss'] for row in rows], [1.86401, 1.77532, 1.83233], rtol=2e-3)


def test_one_and_eight_devices_agree_to_rounding(mesh1, mesh8):
  one, rows_one = trained(mesh1)
  eight, rows_eight = trained(mesh8)
  assert_close([row['loss'] for row in rows_one], [row['loss'] for row in rows_eight])
  assert_close(one.batch_stats, eight.batch_stats, rtol=1e-3, atol=1e-4)
  assert_close(one.params, eight.params, rtol=1e-3, atol=1e-4)
  assert_close(one.ema, eight.ema, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings('ignore:.*pmap.*:DeprecationWarning')
def test_the_step_is_what_pmap_with_synchronised_batchnorm_computes(mesh8):
  """The old way, written out: one program a device, means of gradients and statistics between them."""
  model, variables = tiny()
  batch = host_batch(16)
  images, present = jax.jit(view_of())(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, batch))
  synchronised = model.clone(
    norm=lambda train, **options: nn.BatchNorm(
      use_running_average=not train, momentum=0.9, epsilon=1e-5, axis_name='devices', **options
    )
  )

  def device_step(params, images, present, labels):
    def loss_of(params):
      logits, changed = synchronised.apply(
        {**variables, 'params': params}, images, present=present, train=True, mutable=['batch_stats']
      )
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed['batch_stats']

    (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return jax.lax.pmean((loss, gradients, stats), 'devices')

  split = jax.tree.map(lambda x: np.asarray(x).reshape(8, 2, *x.shape[1:]), (images, present[:, 0], batch['label']))
  loss, gradients, stats = jax.tree.map(
    lambda x: np.asarray(x[0]), jax.pmap(device_step, 'devices', in_axes=(None, 0, 0, 0))(variables['params'], *split)
  )

  step, state = build(mesh8, rate=1.0)
  before = jax.device_get(state.params)
  after, metrics = step(state, next(iter(feed(mesh8, batch))))
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics['gradient_norm'], optax.tree.norm(gradients), rtol=1e-3)
  assert_close(jax.device_get(after.batch_stats), stats, rtol=1e-3, atol=1e-4)
  decay = jax.tree.map(lambda p: 1e-4 * p if p.ndim > 1 else 0 * p, before)
  expected = jax.tree.map(lambda p, g, d: p - g - d, before, gradients, decay)
  assert_close(jax.device_get(after.params), expected, rtol=2e-3, atol=2e-4)


def test_images_that_replace_unreadable_ones_are_counted_over_all_devices_and_hosts(mesh8):
  step, state = build(mesh8)
  batch = host_batch()
  batch['skipped'][[0, 1, 15]] = True
  _, metrics = step(state, next(iter(feed(mesh8, batch))))
  assert metrics['replaced'] == 3 and metrics['replaced'].is_fully_replicated


def assert_only_counted(after, before):
  assert after.step == before.step + 1 and after.skipped == before.skipped + 1
  for name in ('params', 'batch_stats', 'opt_state', 'ema'):
    jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))


def test_a_loss_that_is_not_finite_changes_nothing_but_the_counts(mesh8):
  step, state = build(mesh8)
  before = jax.device_get(state)
  poisoned = host_batch()
  poisoned['image'] = poisoned['image'].astype(np.float32)
  poisoned['image'][3] = np.nan
  state, metrics = step(state, next(iter(feed(mesh8, poisoned))))
  assert not np.isfinite(metrics['loss']) and metrics['skipped'] == 1
  assert_only_counted(jax.device_get(state), before)
  healthy = host_batch()
  healthy['image'] = healthy['image'].astype(np.float32)
  state, metrics = step(state, next(iter(feed(mesh8, healthy))))
  assert np.isfinite(metrics['loss']) and metrics['skipped'] == 1
  assert any((a != b).any() for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(before.params), strict=True))


def test_the_reported_rate_is_the_applied_one_after_a_skipped_step_too(mesh1):
  """Plain SGD: the applied rate is how far the parameters moved over the length of the gradient."""
  model, variables = tiny()
  schedule = optim.schedule('piecewise', learning_rate=0.1, steps=4, drops=(0.5,))
  optimizer = optim.optimizer(schedule, momentum=0.0)
  step = make_train_step(model, optimizer, schedule, mesh1, view_of('none'), masked=False)
  state = jax.device_put(
    jax.tree.map(jnp.copy, initial_state(variables, optimizer, ema=False)), devices.replicated(mesh1)
  )
  rows = [
    {**host_batch(seed=number), 'image': host_batch(seed=number)['image'].astype(np.float32)} for number in range(4)
  ]
  rows[0]['image'][3] = np.nan
  reported, applied = [], []
  for batch in feed(mesh1, *rows):
    before = jax.device_get(state.params)
    state, metrics = step(state, batch)
    moved = optax.tree.norm(jax.tree.map(np.subtract, jax.device_get(state.params), before))
    reported.append(float(metrics['learning_rate']))
    applied.append(float(moved / metrics['gradient_norm']))
  np.testing.assert_allclose(applied[1:], [0.1, 0.1, 0.01], rtol=1e-2)  # the skipped step does not count
  np.testing.assert_allclose(reported[1:], applied[1:], rtol=1e-2)


def test_a_finite_loss_whose_gradient_is_not_finite_changes_nothing_either(mesh8):
  step, state = build(mesh8)
  state.params['head']['dense']['kernel'] *= 1e25  # the gradient's squares are beyond float32, the loss is not
  before = jax.device_get(state)
  state, metrics = step(state, next(iter(feed(mesh8, host_batch()))))
  assert np.isfinite(metrics['loss']) and not np.isfinite(metrics['gradient_norm'])
  assert_only_counted(jax.device_get(state), before)


def test_running_statistics_that_are_not_finite_change_nothing_either(mesh1):
  model, variables = tiny()
  variables = jax.tree.map(jnp.copy, variables)
  variables['params']['stem']['conv']['kernel'] *= 1e25  # the variance is beyond float32
  optimizer = optim.optimizer(optax.constant_schedule(0.1))
  # No gradient of what is before the head; and XLA on CPUs computes the relu(NaN) in front of it as 0.
  step = make_train_step(
    model, optimizer, optax.constant_schedule(0.1), mesh1, view_of(), masked=True, ema=0.9, frozen='trunk'
  )
  state = jax.device_put(initial_state(variables, optimizer, ema=True), devices.replicated(mesh1))
  before = jax.device_get(state)
  state, _ = step(state, next(iter(feed(mesh1, host_batch()))))
  assert_only_counted(jax.device_get(state), before)


def test_a_loss_above_the_highest_that_counts_changes_nothing_either(mesh8):
  step, state = build(mesh8)
  loss = float(step(state, next(iter(feed(mesh8, host_batch()))))[1]['loss'])
  step, state = build(mesh8, max_loss=0.999 * loss)
  before = jax.device_get(state)
  state, metrics = step(state, next(iter(feed(mesh8, host_batch()))))
  assert float(metrics['loss']) == pytest.approx(loss, rel=1e-5) and metrics['skipped'] == 1
  assert_only_counted(jax.device_get(state), before)


def test_microbatches_average_their_gradients(mesh1):
  """With GroupNorm, which does not depend on the batch, microbatches and the complete batch are the same step."""
  whole, rows_whole = trained(mesh1, steps=1, norm='group')
  parts, rows_parts = trained(mesh1, steps=1, norm='group', accumulate=4)
  assert rows_whole[0]['loss'] == pytest.approx(rows_parts[0]['loss'], rel=1e-4)
  assert_close(whole.params, parts.params, rtol=1e-3, atol=1e-5)


def test_microbatches_are_the_same_on_one_and_eight_devices(mesh1, mesh8):
  one, _ = trained(mesh1, steps=1, accumulate=2)
  eight, _ = trained(mesh8, steps=1, accumulate=2)
  assert_close(one.params, eight.params, rtol=1e-3, atol=1e-4)


def test_more_microbatches_take_no_more_memory():
  def loss(params, variables, images, present, labels):
    return ((images @ params['kernel']) ** 2).mean(), (variables['batch_stats'], jnp.zeros(()))

  inputs = np.ones((32, 256), np.float32), np.ones((32, 1, 3), bool), np.zeros(32, np.int32)
  variables = {'params': {'kernel': np.ones((256, 1024), np.float32)}, 'channel_stats': {}}  # 1 MiB
  state = initial_state(variables, optax.sgd(0.1), ema=False)

  def temporary(accumulate):
    step = jax.jit(lambda state, inputs: differentiated(loss, state, inputs, accumulate))
    return step.lower(state, inputs).compile().memory_analysis().temp_size_in_bytes

  assert temporary(16) < 2 * temporary(2)


def test_a_sandwich_teaches_the_incomplete_views_by_the_full_one_and_by_smoothed_labels(mesh1):
  model, variables = tiny()
  batch = host_batch()
  images, present = jax.jit(view_of('sandwich'))(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, batch))
  (full, stats), (single, _), (random, _) = (
    model.apply(variables, images, present=present[:, number], train=True, mutable=['batch_stats'])
    for number in range(3)
  )
  labels = 0.7 * np.eye(6)[batch['label']] + 0.3 / 6
  soft = jax.nn.softmax(full)
  expected = np.mean(
    [
      -(target * jax.nn.log_softmax(logits)).sum(-1).mean()
      for logits, target in ((full, labels), (single, (labels + soft) / 2), (random, (labels + soft) / 2))
    ]
  )
  step, state = build(mesh1, mode='sandwich', smoothing=0.3)
  after, metrics = step(state, next(iter(feed(mesh1, batch))))
  assert metrics['loss'] == pytest.approx(expected, rel=1e-4)
  assert_close(jax.device_get(after.batch_stats), stats['batch_stats'], rtol=1e-3, atol=1e-4)


def test_class_weights_multiply_the_loss_of_each_example():
  model, variables = tiny()
  images, present, labels = np.full((4, 12, 12, 3), 99, np.float32), np.ones((4, 1, 3), bool), np.array([0, 1, 1, 5])
  images += np.random.default_rng(0).normal(0, 30, images.shape).astype(np.float32)
  weights = np.array([2.0, 0.5, 1, 1, 1, 0], np.float32)
  loss = make_loss(model, masked=False, label_smoothing=0.0, class_weights=weights)
  rest = {name: value for name, value in variables.items() if name != 'params'}
  value, _ = jax.jit(loss)(variables['params'], rest, images, present, labels)
  logits, _ = model.apply(variables, images, train=True, mutable=['batch_stats'])
  each = -np.asarray(jax.nn.log_softmax(logits))[np.arange(4), labels]
  assert value == pytest.approx((2.0 * each[0] + 0.5 * each[1] + 0.5 * each[2]) / 4, rel=1e-4)


def test_class_weights_take_no_matrix_product_which_tpus_would_round():
  model, variables = tiny()
  rest = {name: value for name, value in variables.items() if name != 'params'}
  batch = np.zeros((4, 12, 12, 3), np.float32), np.ones((4, 1, 3), bool), np.zeros(4, np.int32)

  def products(class_weights):
    loss = make_loss(model, masked=False, label_smoothing=0.0, class_weights=class_weights)
    return str(jax.make_jaxpr(loss)(variables['params'], rest, *batch)).count('dot_general')

  assert products(np.ones(6, np.float32)) == products(None) > 0


def test_averages_follow_the_weights(mesh1):
  step, state = build(mesh1)
  before = jax.device_get(state.params)
  state, _ = step(state, next(iter(feed(mesh1, host_batch()))))

  def kernel(tree):
    return np.asarray(tree['stem']['conv']['kernel'])

  expected = 0.1 * kernel(before) + 0.9 * kernel(state.params)  # at first (1 + 0) / (10 + 0)
  np.testing.assert_allclose(kernel(state.ema['params']), expected, rtol=1e-4, atol=1e-6)
  assert state.variables()['params'] is state.ema['params']


def test_averages_warm_up_to_their_decay_and_skip_what_is_skipped(mesh1):
  step, state = build(mesh1, ema=0.3)
  poisoned = host_batch()
  poisoned['image'] = np.full_like(poisoned['image'], np.nan, np.float32)
  rows = [host_batch(seed=number) for number in range(5)]
  rows = [{**row, 'image': row['image'].astype(np.float32)} for row in rows]
  expected = np.asarray(state.params['stem']['conv']['kernel'], np.float64)
  for number, batch in enumerate(feed(mesh1, *rows[:3], poisoned, *rows[3:])):
    state, _ = step(state, batch)
    decay = min(0.3, (1 + number) / (10 + number))
    if number != 3:
      expected = decay * expected + (1 - decay) * np.asarray(state.params['stem']['conv']['kernel'])
    np.testing.assert_allclose(state.ema['params']['stem']['conv']['kernel'], expected, rtol=1e-4, atol=1e-6)


def test_the_state_of_the_optimiser_of_version_0_1_0_is_read():
  _, variables = tiny()
  schedule = optim.schedule('constant', learning_rate=0.1, steps=10)
  state = initial_state(variables, optim.optimizer(schedule), ema=False)
  saved = serialization.to_state_dict(state)
  trace = jax.tree.map(jnp.ones_like, saved['params'])
  saved['opt_state'] = {'0': {}, '1': {'inner_state': {}}, '2': {'trace': trace}, '3': {'count': jnp.asarray(7)}}
  restored = TrainState.from_saved(state, saved)
  assert [int(leaf) for leaf in jax.tree.leaves(restored.opt_state) if leaf.ndim == 0] == [7]
  assert all((leaf == 1).all() for leaf in jax.tree.leaves(restored.opt_state) if leaf.ndim)


@pytest.mark.parametrize(
  ('params', 'said'),
  [
    ({'kernel': np.ones((2, 4), np.float32)}, r"\.params\['kernel'\] has another shape or type$"),
    ({'kernel': np.ones((2, 3), np.int32)}, r"\.params\['kernel'\] has another shape or type$"),
    ({'bias': np.ones(3, np.float32)}, 'kernel'),
  ],
)
def test_a_checkpoint_of_another_network_is_refused_by_the_first_array_that_differs(params, said):
  variables = {'params': {'kernel': np.ones((2, 3), np.float32)}, 'channel_stats': {}}
  state = initial_state(variables, optax.sgd(0.1), ema=False)
  saved = {**serialization.to_state_dict(state), 'params': params}
  with pytest.raises(InputError, match=f'^the checkpoint is of another network: .*{said}'):
    TrainState.from_saved(state, saved)


def test_a_view_depends_on_seed_step_and_place_alone():
  batch = jax.tree.map(jnp.asarray, host_batch())
  view = jax.jit(view_of())
  images, present = view(jnp.asarray(5), batch)
  again, same = view(jnp.asarray(5), batch)
  np.testing.assert_array_equal(images, again)
  np.testing.assert_array_equal(present, same)
  changed = {**batch, 'image': batch['image'].at[0].set(0), 'label': batch['label'] * 0}
  np.testing.assert_array_equal(view(jnp.asarray(5), changed)[0][1:], images[1:])
  assert (np.asarray(view(jnp.asarray(6), batch)[0]) != np.asarray(images)).any()
  assert (np.asarray(jax.jit(view_of(seed=1))(jnp.asarray(5), batch)[0]) != np.asarray(images)).any()


def test_channels_and_their_presence_come_in_the_order_of_the_network_whatever_the_sources():
  batch = host_batch()
  batch['present'][::2] = [False, True, True]
  turned = {**batch, 'image': np.roll(batch['image'], 1, -1), 'present': np.roll(batch['present'], 1, -1)}
  kwargs = {
    'seed': 0,
    'canvas': (20, 20),
    'image_size': 12,
    'augmentation': AUGMENTATION,
    'presence_mode': 'none',
    'presence_probability': 0.0,
    'presence_fill': 'absent',
  }
  straight = training_view(source_index=(0, 1, 2), statistics=STATISTICS, **kwargs)(
    jnp.asarray(0), jax.tree.map(jnp.asarray, batch)
  )
  reordered = training_view(source_index=(1, 2, 0), statistics=STATISTICS, **kwargs)(
    jnp.asarray(0), jax.tree.map(jnp.asarray, turned)
  )
  jax.tree.map(np.testing.assert_array_equal, straight, reordered)
  np.testing.assert_array_equal(reordered[1][:, 0], batch['present'])
