"""Benchmarks of networks of subsets and of other channels."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from benchmarks import channel_baselines, completion, eurosat_finetune, spectral_bands, subsets
from benchmarks.smoke import SMALL, named
from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.inference import torch_names
from tests.small import write_list


def test_subsets_are_timed_against_their_macs_and_judged_beside_their_forward_passes():
  rows = named(
    subsets.main([*SMALL, '--parts=speed,evaluation', '--subsets=RG;R', '--small_images', '--images=16', '--size=24'])
  )
  assert {name.removeprefix('subsets/resnet18/') for name in rows} == {
    *(f'{subset}/{what}' for subset in ('RG', 'R') for what in ('latency', 'throughput', 'MACs')),
    *(
      f'evaluate RG;R/{what}'
      for what in (
        'one pass over the files',
        'the same by the shared function',
        'forward passes alone',
        'reading alone',
      )
    ),
  }
  fewer, less = rows['subsets/resnet18/R/MACs'], rows['subsets/resnet18/R/throughput']
  assert fewer.ratio == less.details['macs_ratio'] > 1
  assert less.ratio == pytest.approx(less.value / rows['subsets/resnet18/RG/throughput'].value)
  forward, whole = (
    rows[f'subsets/resnet18/evaluate RG;R/{what}'] for what in ('forward passes alone', 'one pass over the files')
  )
  assert whole.ratio == pytest.approx(whole.value / forward.value)


def test_subsets_are_compiled_in_fresh_processes_without_and_with_the_cache():
  rows = named(
    subsets.main(
      [*SMALL, '--parts=compile,growth', '--subsets=R', '--small_images', '--images=8', '--starts=1']
      + ['--channels=1', '--growth=singles']
    )
  )
  assert {name.rpartition('/')[2] for name in rows} == {
    'without cache',
    'filling cache',
    'with cache',
    'shared, without cache',
    'compile singles of 1',
    'report singles of 1',
  }
  assert rows['subsets/resnet18/compile singles of 1'].details['subsets'] == 1


def test_completion_is_timed_in_the_step_and_apart(tiny_network):
  flags = ['--channels=3', '--model=tiny', '--width=8', '--image_size=16', '--batch_size=16']
  rows = named(completion.main([*flags, '--repeats=1', '--seconds=0.01']))
  assert rows.keys() == {f'completion/tiny/3/{name}' for name in ('none', 'linear', 'unit', 'apart')}
  assert all(row.value > 0 for row in rows.values())


def test_fine_tuning_on_eurosat_judges_every_image_once_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
  config = configs.named('pretrained')
  config.model.width = 8
  net = experiment.build_network(config, ChannelSet.of('RGB'), 10)
  variables = jax.jit(net.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
  weights = {name: np.asarray(value) for name, value in torch_names.to_torch(variables).items()}
  safetensors.numpy.save_file(weights, tmp_path / 'w.safetensors')
  rng, labels = np.random.default_rng(0), np.arange(20) % 2
  bands = [*(f'B{number:02}' for number in range(1, 13)), 'B8A']
  np.savez(
    tmp_path / 'bands.npz',
    X_train=rng.integers(1, 4000, (20, 13, 32, 32)).astype(np.uint16), y_train=labels, bands=np.array(bands),
  )  # fmt: skip
  flags = [f'--weights={tmp_path}/w.safetensors', f'--data={tmp_path}/bands.npz', f'--work={tmp_path}/work']
  flags += [f'--out={tmp_path}/out', '--folds=1', '--epochs=1', '--size=32', '--width=8', '--only=timm-B08;one-listed']
  result = eurosat_finetune.main(flags)
  assert result['images'] == 4
  rows = result['subsets']['B08']
  assert rows['one-listed']['less_timm'] == pytest.approx(rows['one-listed']['accuracy'] - rows['timm']['accuracy'])
  assert result['means'].keys() == {'one-listed'}
  predicted = json.loads((tmp_path / 'out' / 'timm-B08-0.json').read_text())['predicted']['timm-B08']
  assert len(predicted) == 4 and set(predicted) <= {0, 1}
  monkeypatch.setattr(eurosat_finetune, 'flax', None)  # nothing is left to do
  assert eurosat_finetune.main(flags)['subsets'] == result['subsets']


@pytest.mark.parametrize('name', channel_baselines.NETWORKS)
def test_a_baseline_is_the_same_function_of_a_subset_and_of_a_mask(name):
  net = channel_baselines.NETWORKS[name](num_channels=3, num_classes=5, width=8)
  images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
  variables = net.init(jax.random.key(1), images)
  for subset in ((1,),) if name == 'bag' else ((1,), (0, 2)):
    inside = jnp.zeros((4, 3), bool).at[:, jnp.asarray(subset)].set(True)
    masked = net.apply(variables, jnp.where(inside[:, None, None], images, jnp.nan), present=inside)
    alone = net.apply(variables, images[..., jnp.asarray(subset)], subset=subset)
    np.testing.assert_allclose(alone, masked, rtol=2e-4, atol=2e-5)


def test_a_bag_of_channels_is_the_mean_of_its_channels():
  net = channel_baselines.NETWORKS['bag'](num_channels=3, num_classes=5, width=8)
  images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
  variables = net.init(jax.random.key(1), images)
  singles = [net.apply(variables, images[..., channel : channel + 1], subset=(channel,)) for channel in (0, 2)]
  both = net.apply(variables, images[..., jnp.asarray((0, 2))], subset=(0, 2))
  np.testing.assert_allclose(both, (singles[0] + singles[1]) / 2, rtol=2e-4, atol=2e-5)


def test_baselines_are_trained_and_judged_in_one_table(tmp_path, capsys):
  for split in ('train', 'val', 'test5k'):
    write_list(tmp_path, split, 160)
  flags = [f'--root={tmp_path}', f'--test={tmp_path}', f'--out={tmp_path}/out', '--only=bag-seed1,scale-seed1']
  channel_baselines.main([*flags, '--epochs=2.4', '--width=8', '--sizes=40'])
  table = capsys.readouterr().out
  assert table.count('| done |') == 2 and table.count('| waiting |') == 10
  rows = json.loads((tmp_path / 'out' / 'table.json').read_text())['rows']
  macs = {row['name']: row.get('training_macs') for row in rows}
  assert macs['scale-seed1'] / 1.3 < macs['bag-seed1'] < macs['scale-seed1']  # of a channel each, not of three


def test_correlations_are_predicted_from_wavelengths_beside_simpler_guesses(tmp_path):
  rng = np.random.default_rng(0)
  light = rng.normal(1000, 200, (12, 1, 8, 8))
  images = {f'X_{split}': light + rng.normal(0, 50, (12, 4, 8, 8)) for split in ('train', 'test')}
  np.savez(tmp_path / 'made.npz', **images, y_test=np.zeros(12, int), bands=np.array(['B02', 'B03', 'B04', 'B08']))
  result = spectral_bands.main([f'--data={tmp_path}/made.npz', f'--out={tmp_path}/out'])
  assert json.loads((tmp_path / 'out' / 'made.json').read_text())['bands'] == result['bands']
  errors = result['root_mean_square_error']
  assert errors.keys() == {'wavelengths', 'nearest band', 'mean'} and all(0 <= error < 1 for error in errors.values())
