"""Every field of a config about training changes the step that is compiled, or is tested by what else it does."""

import contextlib
import functools
import types

import jax
import numpy as np
import pytest

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.models import cost
from flaxnets.runtime import devices
from flaxnets.training import loop, setup
from flaxnets.training.step import initial_state
from tests.networks import MEAN, tiny
from tests.small import small_config

AVERAGED, NESTEROV = {'train.ema': 0.5}, {'train.nesterov': True}
PIECEWISE = {'train.schedule': 'piecewise', 'train.drops': (0.5,), 'train.drop_factor': 0.1}
# Another value of each field, and the fields that it has an effect with.
CHANGES = {
  'train.accumulate': (2, {}),
  'train.class_weights': ('balanced', {}),
  'train.clip_norm': (1.0, {}),
  'train.drop_factor': (0.5, PIECEWISE),
  'train.drops': ((0.25,), PIECEWISE),
  'train.ema': (0.9, AVERAGED),
  'train.freeze_statistics': (True, {}),
  'train.frozen': ('trunk', {}),
  'train.label_smoothing': (0.1, {}),
  'train.layer_decay': (0.5, {}),
  'train.learning_rate': (0.02, {}),
  'train.max_loss': (10.0, {}),
  'train.momentum': (0.5, {}),
  'train.nesterov': (False, NESTEROV),
  'train.schedule': ('cosine', {}),
  'train.warmup_epochs': (0.5, {}),
  'train.weight_decay': (0.1, {}),
}
# How long a run is and what it does besides steps: tests/test_runs.py and test_loop.py, test_resolution.py,
# test_init_from.py and test_recalibrate.py.
NOT_OF_THE_STEP = {
  f'train.{name}'
  for name in ('batch_size', 'epochs', 'image_sizes', 'subset', 'init_from', 'recalibrate', 'patience', 'max_skipped',
               'log_every', 'checkpoint_every')
}  # fmt: skip


@functools.cache
def program(fields=()):
  """The text of a run's training step, before it is compiled."""
  config = small_config(**{'data.train': 'train[:32]', **dict(fields)})
  train = experiment.open_source(config, 'train')
  data = types.SimpleNamespace(train=train, channels=train.channels, listed=[])
  schedule, optimizer = setup._optimizer(config, setup.Lengths.of(config, 320))
  model = tiny(12)[0]
  state = jax.eval_shape(
    lambda variables: initial_state(variables, optimizer, ema=config.train.ema > 0), cost.initial_shapes(model, 16)
  )
  statistics = {'mean': MEAN, 'std': MEAN / 2}
  (step,) = setup._train_steps(config, data, model, optimizer, schedule, devices.data_mesh(), statistics).values()
  batch = {
    'image': jax.ShapeDtypeStruct((32, *train.canvas, 3), np.uint8),
    'size': jax.ShapeDtypeStruct((32, 2), np.int32),
    'label': jax.ShapeDtypeStruct((32,), np.int32),
    'present': jax.ShapeDtypeStruct((32, 3), bool),
    'skipped': jax.ShapeDtypeStruct((32,), bool),
  }
  return step.lower(state, batch).as_text()


def test_every_field_has_another_value_or_a_test_of_its_own():
  assert {f'train.{name}' for name in configs.default().train} == CHANGES.keys() | NOT_OF_THE_STEP


def test_the_same_fields_are_the_same_program():
  assert program.__wrapped__() == program()


@pytest.mark.parametrize('field', CHANGES)
def test_another_value_of_a_field_is_another_program(field):
  value, base = CHANGES[field]
  same = program(tuple({**base, field: value}.items())) == program(tuple(base.items()))
  assert not same


def test_validation_resizes_images_as_the_field_of_evaluation_says():
  def seen(resize):
    config = small_config(**{'augment.evaluation_resize': resize})
    source = experiment.open_source(config, 'validation')
    data = types.SimpleNamespace(validation=source, channels=source.channels, subsets=[(0, 1, 2)])
    evaluator = setup._evaluator(config, data, tiny(12)[0], devices.data_mesh(), MEAN)
    batch = {
      'image': jax.ShapeDtypeStruct((32, *source.canvas, 3), np.uint8),
      'size': jax.ShapeDtypeStruct((32, 2), np.int32),
      'present': jax.ShapeDtypeStruct((32, 3), bool),
    }
    return evaluator._view.lower(batch).as_text()

  assert seen(1.0) == seen(1.0)
  different = seen(1.0) != seen(1.5)
  assert different


def test_the_seed_chooses_the_weights_the_order_the_augmentation_and_the_images_that_are_measured(tmp_path):
  def begun(seed, folder):
    with contextlib.closing(setup.prepare(small_config(seed=seed, **{'data.statistics_examples': 8}), folder)) as ready:
      with contextlib.closing(loop._training_batches(ready, 0)) as batches:
        order = next(batches)['index']
      state = jax.device_get(ready.state)
    return state.params['stem']['conv']['kernel'], order, state.channel_stats['stem']['standardize']['mean']

  one, again, other = (begun(seed, tmp_path / str(number)) for number, seed in enumerate((0, 0, 1)))
  for first, same, another in zip(one, again, other, strict=True):
    np.testing.assert_array_equal(first, same)
    assert (first != another).any()
  different = program((('seed', 1),)) != program()
  assert different
