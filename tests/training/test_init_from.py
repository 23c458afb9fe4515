"""train.init_from: a run that starts from the weights of another."""

import contextlib

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets.errors import InputError
from flaxnets.training import setup
from tests.small import list_config, save_untrained, small_config, write_list


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """The folder of a run that has saved once."""
  folder = tmp_path_factory.mktemp('saved')
  save_untrained(small_config(**{'seed': 7}), folder)
  return folder


def test_a_run_starts_from_the_weights_of_another_and_measures_its_own_statistics(saved, tmp_path):
  config = small_config(**{'train.init_from': str(saved), 'data.train': 'train[96:192]', 'train.ema': 0.9})
  net = flaxnets.load(saved)
  with contextlib.closing(setup.prepare(config, tmp_path)) as ready:
    state = jax.device_get(ready.state)
  for ours in (state.params, state.ema['params']):
    jax.tree.map(np.testing.assert_array_equal, ours, net.variables['params'])
  jax.tree.map(np.testing.assert_array_equal, state.batch_stats, net.variables['batch_stats'])
  means = [stats['stem']['standardize']['mean'] for stats in (state.channel_stats, net.variables['channel_stats'])]
  assert (means[0] != means[1]).all() and int(state.step) == 0


def test_a_network_of_another_width_is_refused_with_both_shapes(saved, tmp_path):
  said = r'(batch_stats|params)/.* is \(.*\) there and \(.*\) here; take a run with the same'
  with pytest.raises(InputError, match=said):
    setup.prepare(small_config(**{'train.init_from': str(saved), 'model.width': 16}), tmp_path / 'run')


def test_a_head_with_another_number_of_classes_is_refused_by_name(saved, tmp_path):
  for split in ('train', 'val', 'test'):
    write_list(tmp_path / 'data', split, 16)
  config = list_config(tmp_path / 'data', **{'train.init_from': str(saved)})
  with pytest.raises(InputError, match=r'^train\.init_from=.*: its head has 12 classes, but this run has 4; '):
    setup.prepare(config, tmp_path / 'run')
