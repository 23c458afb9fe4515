"""Progressive resolution: training images that grow during a run."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.errors import InputError
from flaxnets.training import announce, loop, resolution, setup
from tests.small import small_config, train_and_cut

GROWING = {'train.image_sizes': (8, 12, 16)}


@pytest.mark.parametrize('sides', [(8, 12, 16), (12,), (8, 16, 16)])
def test_each_step_of_a_run_sees_images_of_its_size(tmp_path, sides):
  seen = []
  with contextlib.closing(setup.prepare(small_config(**{'train.image_sizes': sides}), tmp_path)) as ready:

    def noted(side, original):
      def step(state, batch):
        seen.append(side)
        return original(state, batch)

      step.lower = original.lower
      return step

    noting = {side: noted(side, step) for side, step in ready.steps.items()}
    loop.train(dataclasses.replace(ready, steps=noting))
  assert seen == (list(sides) if len(sides) == 3 else [12, 12, 12])
  assert flaxnets.load(tmp_path).config.image_size == 16


def test_a_step_at_a_smaller_size_costs_less(tmp_path):
  with contextlib.closing(setup.prepare(small_config(**GROWING), tmp_path)) as ready:
    batch = {
      key: np.concatenate([value] * 32) if len(value) == 1 else value
      for key, value in next(iter(loop._training_batches(ready, 0))).items()
      if key in ('image', 'size', 'label', 'present', 'skipped')
    }
    flops = [ready.steps[side].lower(ready.state, batch).cost_analysis()['flops'] for side in (8, 12, 16)]
  assert flops[0] < 0.7 * flops[1] and flops[1] < 0.8 * flops[2]


def test_a_run_that_is_cut_while_its_images_grow_ends_with_the_same_weights(tmp_path):
  config = small_config(**GROWING, **{'train.checkpoint_every': 1})
  loop.run(config, tmp_path / 'whole')
  train_and_cut(config, tmp_path / 'cut', steps=2)
  loop.run(config, tmp_path / 'cut')
  whole, cut = (flaxnets.load(tmp_path / name, step='latest').variables for name in ('whole', 'cut'))
  jax.tree.map(np.testing.assert_array_equal, whole, cut)


def test_cutmix_labels_are_the_shares_of_the_training_images_of_each_size():
  config = configs.default()
  config.augment.cutmix = 1.0
  batch = {
    'image': np.zeros((16, 16, 16, 3), np.uint8),
    'size': np.full((16, 2), 16),
    'label': np.arange(16, dtype=np.int32),
    'present': np.ones((16, 3), bool),
  }
  statistics = {'mean': np.zeros(3, np.float32), 'std': np.ones(3, np.float32)}
  for side in (7, 16):
    images, _ = experiment.training_view_of(config, (0, 1, 2), (16, 16), statistics, (), side)(0, batch)
    labels = experiment.training_targets_of(config, (0, 1, 2), 16, side)(0, batch)
    assert images.shape == (16, side, side, 3)
    pixels = side**2 * np.diagonal(labels)
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-3)
    assert pixels.min() < 0.9 * side**2


@pytest.mark.parametrize('sides', [(0,), (16, 5000), (12.5,), ('16',)])
def test_sizes_that_are_not_sizes_are_refused_before_anything_is_written(tmp_path, sides):
  with pytest.raises(InputError, match='train.image_sizes is .* sides in pixels from 1 to 4,096'):
    setup.prepare(small_config(**{'train.image_sizes': sides}), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_run_says_at_its_start_how_its_images_grow(tmp_path):
  with contextlib.closing(setup.prepare(small_config(**GROWING), tmp_path)) as ready:
    assert 'training images of 8, 12, 16 pixels, in equal shares of the steps; evaluation at 16' in announce.beginning(
      ready
    )


def test_epochs_may_not_grow_where_the_size_of_the_images_depends_on_them(tmp_path):
  constant = {'train.schedule': 'constant'}
  setup.prepare(small_config(**GROWING, **constant), tmp_path).close()
  with pytest.raises(InputError, match='another config'):
    setup.prepare(small_config(**GROWING, **constant, **{'train.epochs': 2.0}), tmp_path)


@pytest.mark.parametrize('steps', range(1, 12))
@pytest.mark.parametrize('sides', [(8,), (8, 16), (8, 8, 16), (8, 12, 16, 20, 24)])
def test_the_sizes_share_the_steps_evenly(sides, steps):
  parts = resolution.steps_per_side(sides, steps)
  flat = [side for side, length in parts for _ in range(length)]
  assert len(flat) == steps and flat == sorted(flat)
  assert all(resolution.sides_after(sides, steps, done)[0] == flat[done] for done in range(steps))
  counts = [flat.count(side) - steps * sides.count(side) / len(sides) for side in set(sides)]
  assert max(map(abs, counts)) < 1


def test_patience_and_growing_images_are_refused_together(tmp_path):
  with pytest.raises(InputError, match='train.patience=2 could stop a run before its images have grown'):
    setup.prepare(small_config(**GROWING, **{'train.patience': 2}), tmp_path / 'run')
  setup.check(small_config(**{'train.image_sizes': (12,), 'train.patience': 2}))


def test_images_too_small_for_the_canvas_are_refused_before_anything_is_written(tmp_path):
  with pytest.raises(InputError, match='training images of 1 pixels: a canvas of 48 x 48 shrinks up to'):
    setup.prepare(small_config(**{'train.image_sizes': (1, 16)}), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
