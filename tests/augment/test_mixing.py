"""Mixup and cutmix against their definition, with absent channels, and in a training step on one and eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.augment.mixing import mix_images, mix_labels
from flaxnets.errors import InputError
from flaxnets.runtime import devices
from flaxnets.training.step import initial_state, make_loss, make_train_step
from tests.networks import MEAN, tiny

KEY = jax.random.key(3)
ROWS, SIZE = 400, 16
# Row i is i everywhere, so the pixels of a mixed image tell the weight of its partner.
NUMBERED = np.broadcast_to(np.arange(ROWS, dtype=np.float32)[:, None, None, None], (ROWS, SIZE, SIZE, 3))
PRESENT = np.ones((ROWS, 3), bool)
PARTNER = np.roll(np.arange(ROWS), 1)


def partner_weights(present=PRESENT, **options):
  """(rows, S, S, C) weight of the partner in each pixel."""
  mixed = np.asarray(mix_images(KEY, NUMBERED, present, **options))
  return (mixed - NUMBERED) / (PARTNER - np.arange(ROWS))[:, None, None, None]


def labels_of(present=PRESENT, **options):
  """(rows, rows) soft labels, where the class of each row is its own number."""
  return np.asarray(mix_labels(KEY, np.arange(ROWS), present, num_classes=ROWS, image_size=SIZE, **options), np.float64)


def test_mixup_weights_have_the_moments_of_the_beta_distribution():
  for alpha in (0.2, 1.0):
    weights = partner_weights(mixup=alpha)
    drawn = weights.mean((1, 2, 3))
    np.testing.assert_allclose(weights, np.broadcast_to(drawn[:, None, None, None], weights.shape), atol=1e-4)
    assert drawn.mean() == pytest.approx(0.5, abs=0.06)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.02)


def test_cutmix_takes_one_box_from_the_partner():
  weights = np.round(partner_weights(cutmix=1.0), 5)
  assert set(np.unique(weights)) == {0, 1}
  for weight in weights[..., 0]:
    rows, columns = weight.any(1), weight.any(0)
    np.testing.assert_array_equal(weight, np.outer(rows, columns))
    for side in (rows, columns):
      assert np.abs(np.diff(side.astype(int))).sum() <= 2  # one interval
  # Uniform area and centre; the part beyond the border is lost. The expectation from a million draws with NumPy.
  random = np.random.default_rng(0)
  half, centre = np.sqrt(random.uniform(size=1_000_000)) / 2, random.uniform(size=(2, 1_000_000))
  visible = np.prod(np.clip(centre + half, 0, 1) - np.clip(centre - half, 0, 1), axis=0)
  assert weights.mean() == pytest.approx(visible.mean(), abs=0.03)


@pytest.mark.parametrize('options', [{'mixup': 0.4}, {'cutmix': 1.0}, {'mixup': 1.0, 'cutmix': 1.0}])
def test_labels_have_the_weight_of_the_pixels(options):
  weight = partner_weights(**options).mean((1, 2, 3))
  expected = np.diag(1 - weight)
  expected[np.arange(ROWS), PARTNER] = weight
  np.testing.assert_allclose(labels_of(**options), expected, atol=1e-4)


def test_with_both_each_example_gets_one_of_them_with_even_odds():
  boxed = [set(np.round(np.unique(weight), 3)) <= {0, 1} for weight in partner_weights(mixup=1.0, cutmix=1.0)]
  assert np.mean(boxed) == pytest.approx(0.5, abs=0.1)


def test_an_example_whose_partner_lacks_one_of_its_channels_stays_as_it_is():
  present = np.random.default_rng(0).random((ROWS, 3)) < 0.7
  options = {'mixup': 1.0}
  weight = partner_weights(present, **options).mean((1, 2, 3))
  covered = (present[PARTNER] >= present).all(1)
  assert 0.3 < covered.mean() < 0.7
  assert (weight[~covered] == 0).all() and (weight[covered] > 0).all()
  labels = labels_of(present, **options)
  np.testing.assert_array_equal(labels[~covered], np.eye(ROWS)[~covered])
  np.testing.assert_allclose(labels[covered, PARTNER[covered]], weight[covered], atol=1e-4)


def test_absent_planes_of_partners_never_reach_a_present_channel():
  present = np.random.default_rng(0).random((ROWS, 3)) < 0.7
  filled = np.where(present[:, None, None], NUMBERED, 1e9)
  ours = np.asarray(mix_images(KEY, NUMBERED, present, mixup=1.0, cutmix=1.0))
  theirs = np.asarray(mix_images(KEY, filled, present, mixup=1.0, cutmix=1.0))
  seen = np.broadcast_to(present[:, None, None], ours.shape)
  np.testing.assert_array_equal(ours[seen], theirs[seen])


@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
def test_a_negative_parameter_is_refused_by_name(name):
  with pytest.raises(InputError, match=f'{name} is -1; it must be the parameter of a beta distribution'):
    mix_images(KEY, NUMBERED, PRESENT, **{name: -1})


def test_with_both_off_nothing_is_computed():
  assert mix_images(KEY, NUMBERED, PRESENT) is NUMBERED
  assert experiment.training_targets_of(configs.default(), (0, 1, 2), 6) is None
  np.testing.assert_array_equal(labels_of(), np.eye(ROWS))


def test_the_loss_of_soft_labels_is_their_cross_entropy_and_accuracy_counts_the_likeliest_class():
  model, variables = tiny()
  images = np.random.default_rng(0).uniform(0, 255, (8, 12, 12, 3)).astype(np.float32)
  present = np.ones((8, 1, 3), bool)
  soft = np.random.default_rng(1).dirichlet(np.full(6, 0.3), 8).astype(np.float32)
  params, others = variables['params'], {name: value for name, value in variables.items() if name != 'params'}
  loss = make_loss(model, masked=False, label_smoothing=0.2)
  value, (_, accuracy) = loss(params, others, images, present, soft)
  logits, _ = model.apply(variables, images, train=True, mutable=['batch_stats'])
  smoothed = 0.8 * soft + 0.2 / 6
  assert value == pytest.approx(float(-(smoothed * jax.nn.log_softmax(logits)).sum(-1).mean()), rel=1e-5)
  assert accuracy == np.mean(logits.argmax(-1) == soft.argmax(-1))
  hard, (_, same) = loss(params, others, images, present, soft.argmax(-1))
  as_soft, (_, equal) = loss(params, others, images, present, np.eye(6, dtype=np.float32)[soft.argmax(-1)])
  assert hard == pytest.approx(float(as_soft), rel=1e-6) and same == equal == accuracy


@functools.cache
def step_on(mesh, accumulate=1):
  model, variables = tiny(norm='group')
  config = configs.default()
  config.image_size = 12
  config.augment.mixup, config.augment.cutmix = 0.5, 1.0
  view = experiment.training_view_of(config, (0, 1, 2), (20, 20), {'mean': MEAN, 'std': MEAN / 2})
  targets = experiment.training_targets_of(config, (0, 1, 2), 6)
  optimizer = optax.sgd(0.1)
  step = make_train_step(model, optimizer, lambda _: 0.1, mesh, view, targets, masked=True, accumulate=accumulate)
  state = jax.device_put(initial_state(variables, optimizer, ema=False), devices.replicated(mesh))
  return step, jax.tree.map(jnp.copy, state), view, targets


def test_mixed_steps_agree_on_one_and_eight_devices_and_in_microbatches(mesh1, mesh8):
  random = np.random.default_rng(0)
  batch = {
    'image': random.integers(0, 256, (16, 20, 20, 3), np.uint8),
    'size': np.full((16, 2), [40, 30], np.int32),
    'label': random.integers(0, 6, 16, np.int32),
    'present': random.random((16, 3)) < 0.9,
    'skipped': np.zeros(16, bool),
  }
  batch['present'][:, 0] = True
  results = []
  for mesh, accumulate in ((mesh1, 1), (mesh8, 1), (mesh1, 4)):
    step, state, _, _ = step_on(mesh, accumulate)
    state, metrics = step(state, next(iter(devices.to_devices([batch], mesh))))
    results.append(jax.device_get((state.params, metrics['loss'])))
  for other in results[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), results[0], other)


def test_mixing_depends_on_the_step(mesh1):
  _, _, view, targets = step_on(mesh1)
  batch = {
    'image': jnp.zeros((16, 20, 20, 3), jnp.uint8),
    'size': jnp.full((16, 2), 20),
    'label': jnp.arange(16) % 6,
    'present': jnp.ones((16, 3), bool),
  }
  first, again, next_step = (np.asarray(targets(jnp.asarray(step), batch)) for step in (5, 5, 6))
  np.testing.assert_array_equal(first, again)
  assert (first != next_step).any()
  np.testing.assert_allclose(first.sum(1), 1, rtol=1e-6)
