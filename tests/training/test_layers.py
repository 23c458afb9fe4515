"""Fine-tuning: layers that are frozen, rates per depth, and BatchNorm's statistics."""

import contextlib

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxnets.errors import InputError
from flaxnets.models import build, cost
from flaxnets.training import layers, optim, setup
from flaxnets.training.step import make_loss
from tests.networks import tiny
from tests.small import small_config

PARAMS = {'stem': {'a': jnp.ones(2)}, 'stage1_block1': {'a': jnp.ones(2)}, 'head': {'a': jnp.ones(2)}}
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def moved(frozen='', layer_decay=1.0, steps=2):
  """How far each module has moved after some steps with a gradient of one everywhere."""
  optimizer = layers.by_layer(
    optim.optimizer(0.1, momentum=0.9, weight_decay=0.1), frozen=frozen, layer_decay=layer_decay
  )
  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(steps):
    updates, state = optimizer.update(ONES, state, params)
    params = optax.apply_updates(params, updates)
  return {module: float(1 - params[module]['a'][0]) for module in params}


def test_frozen_layers_keep_their_weights_and_the_others_train_as_without_freezing():
  all_, probe, body = moved(), moved('trunk'), moved('body')
  assert probe == {'stem': 0, 'stage1_block1': 0, 'head': all_['head']}
  assert body == {**all_, 'stage1_block1': 0}


def test_each_step_down_from_the_head_multiplies_the_rate():
  fast, slow = moved(), moved(layer_decay=0.5)
  for module, factor in (('head', 1), ('stage1_block1', 0.5), ('stem', 0.25)):
    assert slow[module] == pytest.approx(factor * fast[module], rel=1e-5)


@pytest.mark.parametrize(
  ('name', 'order'),
  [
    ('resnet50', ['stem', 'stage1_block1', 'stage1_block2', 'stage1_block3', 'stage2_block1', 'stage4_block3', 'head']),
    ('resattention', ['stem', 'layer2_block', 'layer2_attention', 'layer3_block', 'norm', 'head']),
  ],
)
def test_depth_follows_the_order_in_which_images_pass_the_network(name, order):
  shapes = cost.initial_shapes(build(name, num_channels=3, num_classes=2, width=8), 64)
  found = layers.depths(shapes['params'])
  places = [found[module] for module in order]
  assert places == sorted(places) and found['stem'] == 0 and found['head'] == len(found) - 1


def test_the_state_of_an_optimiser_with_frozen_layers_can_be_saved_and_restored():
  optimizer = layers.by_layer(optim.optimizer(0.1), frozen='trunk', layer_decay=0.5)
  state = optimizer.init(PARAMS)
  saved = flax.serialization.to_state_dict(state)
  restored = flax.serialization.from_state_dict(state, saved)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  # Momentum is kept for the head alone.
  assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2


def test_frozen_statistics_normalise_as_in_evaluation_and_do_not_change():
  model, variables = tiny()
  others = {name: value for name, value in variables.items() if name != 'params'}
  images = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3)).astype(np.float32)
  inputs = images, np.ones((8, 1, 3), bool), np.arange(8) % 6
  frozen, free = (
    jax.jit(
      jax.value_and_grad(
        make_loss(model, masked=False, label_smoothing=0.0, frozen='trunk', freeze_statistics=freeze), has_aux=True
      )
    )(variables['params'], others, *inputs)
    for freeze in (True, False)
  )
  (loss, (statistics, _)), gradients = frozen
  logits = jax.jit(model.apply)(variables, images)
  expected = optax.softmax_cross_entropy_with_integer_labels(logits, inputs[2]).mean()
  assert float(loss) == pytest.approx(float(expected), rel=1e-5)
  jax.tree.map(np.testing.assert_array_equal, statistics, others['batch_stats'])
  changed = jax.tree.leaves(jax.tree.map(lambda new, old: np.abs(new - old).max(), free[0][1][0], statistics))
  assert max(changed) > 0
  assert not any(
    np.any(leaf) for module in gradients if module != 'head' for leaf in jax.tree.leaves(gradients[module])
  )
  assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients['head']))


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'train.frozen': 'stem'}, "train.frozen is 'stem'; it must be '', 'trunk' or 'body'"),
    ({'train.layer_decay': 0.0}, 'train.layer_decay is 0.0; it must be above 0'),
    ({'train.freeze_statistics': True}, 'train.freeze_statistics needs train.init_from, the run whose'),
    (
      {'train.freeze_statistics': True, 'train.init_from': 'run', 'model.norm': 'group'},
      'train.freeze_statistics has no effect with model.norm=group',
    ),
  ],
)
def test_values_out_of_range_are_refused(changes, said):
  with pytest.raises(InputError, match=said):
    setup.check(small_config(**changes))


@pytest.mark.slow
def test_a_linear_probe_resumes_and_leaves_the_trunk_and_its_statistics_as_they_were(tmp_path):
  from flaxnets.training import loop

  first = small_config(**{'train.epochs': 0.3})
  assert loop.run(first, tmp_path / 'start') == 0
  probe = {'train.init_from': str(tmp_path / 'start'), 'train.frozen': 'trunk', 'train.freeze_statistics': True}
  config = small_config(**probe)
  with contextlib.closing(setup.prepare(config, tmp_path / 'probe')) as ready:
    before = jax.device_get(ready.state)
    loop.train(ready)
  with contextlib.closing(setup.prepare(config, tmp_path / 'probe')) as ready:
    after = jax.device_get(ready.state)
  assert int(after.step) == 3
  jax.tree.map(np.testing.assert_array_equal, before.batch_stats, after.batch_stats)
  for module in before.params:
    same = jax.tree.leaves(jax.tree.map(np.array_equal, before.params[module], after.params[module]))
    assert all(same) != (module == 'head')
