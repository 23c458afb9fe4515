"""Every benchmark but those of NOT_RUN, with settings so small that its numbers mean nothing: that it runs at all."""

import importlib.util
import json
import math
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import simplejpeg

from benchmarks import (
  against,
  channel_baselines,
  communication,
  completion,
  digests,
  eurosat_finetune,
  input_pipeline,
  layers,
  many_classes,
  map_memory,
  photos,
  predict,
  resources,
  scaling,
  spectral_bands,
  structure,
  subsets,
)
from benchmarks.children import Child, in_turns, pace
from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.inference import torch_names
from tests.small import write_list

TORCHVISION = all(importlib.util.find_spec(name) for name in ('torch', 'torchvision'))
TORCH = importlib.util.find_spec('torch') is not None
ROOT = pathlib.Path(__file__).parents[1]
# Benchmarks that are run elsewhere, or by hand.
NOT_RUN = {
  'kill': 'tests/test_kills.py does the same with fewer kills',
  'train_step': 'test_benchmarks_train_step.py',
  'torch_predict': 'the peer of `predict`, which runs it where PyTorch is installed',
  'torch_parity': 'needs PyTorch; tests/inference/test_torch_parity.py',
  'eurosat_bands': 'needs EuroSAT and pretrained weights',
  'pretrained_photos': 'needs photos and pretrained weights',
}
SMALL = ['--repeats=1', '--seconds=0.01', '--width=8', '--image_size=16', '--batch_size=8']


def named(rows):
  found = {row.name: row for row in rows}
  assert len(found) == len(rows)
  assert all(math.isfinite(row.value) and row.value > 0 for row in rows)
  return found


def test_input_is_measured_beside_the_peer_and_written_with_versions_and_machine(tmp_path, capsys):
  rows = named(
    input_pipeline.main(
      [
        *SMALL,
        '--parts=files',
        '--sizes=20x16',
        '--images=8',
        '--canvas=24',
        '--cores=1',
        '--modes=threads,threads+warp',
        f'--json={tmp_path}/rows.json',
      ]
    )
  )
  ours = {f'input/{case}/1core/{mode}' for case in ('20x16px', 'array_record') for mode in ('threads', 'threads+warp')}
  peers = {f'input/20x16px/1core/DataLoader {how}' for how in ('without workers', 'of 1 workers')}
  assert rows.keys() == (ours | peers if TORCH else ours)
  fair, prepared = rows['input/20x16px/1core/threads+warp'], rows['input/array_record/1core/threads+warp']
  assert prepared.ratio is None
  if TORCH:
    assert fair.ratio == pytest.approx(fair.value / max(rows[name].value for name in peers))
  else:
    assert fair.ratio is None
    assert 'the peer is missing' in capsys.readouterr().out
  written = json.loads((tmp_path / 'rows.json').read_text())
  assert [row['name'] for row in written] == list(rows)
  assert all(row['versions']['jax'] and row['machine']['cores'] and row['per_core'] == row['value'] for row in written)


def test_training_from_files_is_measured_beside_its_step_and_memory_over_an_epoch():
  rows = named(
    input_pipeline.main([*SMALL, '--parts=training', '--train_size=20', '--images=16', '--canvas=24', '--epoch=3'])
  )
  fed, alone = rows['resnet18/train/from files'], rows['resnet18/train/step alone']
  assert fed.ratio == pytest.approx(fed.value / alone.value)
  memory = [rows[f'resnet18/train/host memory/{when}'] for when in ('start', 'middle', 'end')]
  assert [row.value for row in memory] == memory[0].details['every_step']


def test_the_prediction_command_is_timed_beside_the_peers(tmp_path, capsys):
  rows = named(
    predict.main(
      ['--repeats=1', '--images=8', '--size=20', '--image_size=16', '--width=8', '--batch_size=4']
      + [f'--json={tmp_path}/rows.json']
    )
  )
  modes = {name.rpartition('/')[2] for name in rows}
  assert rows.keys() == {f'predict/{what}/{mode}' for what in ('command', 'images') for mode in modes}
  command, images = rows['predict/command/flaxnets'], rows['predict/images/flaxnets']
  if TORCHVISION:
    assert len(modes) == 5
    peers = [row for name, row in rows.items() if row.name.startswith('predict/command/torch')]
    assert command.ratio == pytest.approx(min(row.value for row in peers) / command.value)
    assert images.ratio == pytest.approx(images.value / rows[f'predict/images/{images.peer}'].value)
  else:
    assert modes == {'flaxnets'} and command.ratio is None and images.ratio is None
    assert 'the peer is missing' in capsys.readouterr().out
  assert [row['name'] for row in json.loads((tmp_path / 'rows.json').read_text())] == list(rows)
  with pytest.raises(InputError, match='has 0 JPEGs, fewer than --images=1000'):
    predict.main([f'--root={tmp_path}'])


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


def test_a_step_is_its_convolutions_and_the_rest(tiny_network):
  *rows, rest = layers.benchmark(layers.parse([*SMALL, '--model=tiny']))
  assert rest.value == pytest.approx(rows[-1].value - rows[-2].value)  # so small, fusion can make that negative
  rows = named(rows)
  name = 'layers/tiny/'
  parts = [row for row in rows.values() if '->' in row.name]
  # The stem's, two in each of two blocks, and a shortcut; nobody asks for the gradient of the images.
  assert sum(row.details['count'] for row in parts if row.name.endswith('/forward')) == 6
  assert sum(row.details['count'] for row in parts if row.name.endswith('/input gradient')) == 5
  assert rows[name + 'all convolutions'].value == pytest.approx(sum(row.value for row in parts))
  assert sum(rows[name + part].value for part in layers.PARTS) == pytest.approx(rows[name + 'all convolutions'].value)
  for row in rows.values():
    assert (row.ratio == pytest.approx(row.details['torch_ms'] / row.value)) if TORCH else row.ratio is None


def test_devices_and_processes_give_the_same_losses(capsys):
  rows = named(scaling.main([*SMALL, '--devices=2', '--processes=2', '--small_images', '--steps=2']))
  assert list(rows) == [f'scaling/resnet18/{what}' for what in ('2 devices', '2 processes')]
  assert 'losses over 2 devices, 2 processes are the same' in capsys.readouterr().out


def test_losses_that_differ_are_an_error():
  scaling.check_losses({'1 device': [3.0, 2.0], '2 devices': [3.0, 2.0001]})
  for wrong in ([3.0, 2.1], [3.0, math.nan]):
    with pytest.raises(InputError, match='over 2 devices the losses are'):
      scaling.check_losses({'1 device': [3.0, 2.0], '2 devices': wrong})


def test_a_wrong_size_of_images_or_number_of_cores_is_named(tmp_path):
  with pytest.raises(InputError, match="'0x20' is not an image size; write 84 or 500x375"):
    photos.write_sized(tmp_path, 1, '0x20')
  with pytest.raises(InputError, match='--cores=4096, but this process may use'):
    input_pipeline.main(['--cores=4096'])


def test_photos_are_the_same_for_the_same_seed_and_as_large_as_photographs(tmp_path):
  first = photos.photo(np.random.default_rng(5), 375, 500)
  assert np.array_equal(first, photos.photo(np.random.default_rng(5), 375, 500))
  assert not np.array_equal(first, photos.photo(np.random.default_rng(6), 375, 500))
  photos.write(tmp_path, 4, 375, 500)
  files = [(tmp_path / line.split()[0]).read_bytes() for line in (tmp_path / 'train.txt').read_text().splitlines()]
  assert len(files) == 4
  for file in files:
    assert simplejpeg.decode_jpeg(file).shape == (375, 500, 3)
    assert 2 < 8 * len(file) / (375 * 500) < 4


def serve_environment(start):
  def answer(what):
    if what == 'fail':
      raise InputError('no such thing')
    if what == 'break':
      raise KeyError('broken')
    return start, os.environ.get('FLAXNETS_TEST'), len(os.sched_getaffinity(0))

  return answer


def test_a_child_has_its_own_cores_and_variables_and_tells_of_its_errors(monkeypatch):
  monkeypatch.delenv('FLAXNETS_TEST', raising=False)
  before = os.sched_getaffinity(0)
  with Child(serve_environment, 7, cores=1, environment={'FLAXNETS_TEST': 'set'}) as child:
    assert 'FLAXNETS_TEST' not in os.environ
    assert os.sched_getaffinity(0) == before
    assert child.ask('look') == (7, 'set', 1)
    with pytest.raises(InputError, match='no such thing'):
      child.ask('fail')
    with pytest.raises(RuntimeError, match="KeyError: 'broken'"):
      child.ask('break')
    assert child.ask('look') == (7, 'set', 1)


def test_contenders_take_turns():
  calls = []
  timings = in_turns({name: lambda name=name: calls.append(name) or len(calls) for name in 'ab'}, 3)
  assert calls == ['a', 'b'] * 3
  assert timings['a'].each == [1, 3, 5]
  assert timings['b'].median == 4
  with pytest.raises(InputError, match='--repeats is 0'):
    in_turns({}, 0)


def test_results_made_ahead_do_not_count():
  made = []

  def results():
    for number in range(100):
      made.append(number)
      yield number

  waited = []
  assert pace(results(), waited.append, warm=5, seconds=0) > 0
  assert len(made) == 8
  assert waited == [4, 5, 6, 7]


@pytest.mark.skipif(not TORCH, reason='PyTorch is not installed')
def test_the_peer_draws_boxes_within_the_image_and_tilts_it_inwards():
  from benchmarks import torch_pipeline

  for _ in range(100):
    left, top, right, bottom = torch_pipeline.random_box((50, 37), (0.25, 1.0), (3 / 4, 4 / 3))
    assert 0 <= left < right <= 50
    assert 0 <= top < bottom <= 37
  assert torch_pipeline.perspective(96, 0.0) == pytest.approx([1, 0, 0, 0, 1, 0, 0, 0], abs=1e-9)
  _, _, c, _, _, f, _, _ = torch_pipeline.perspective(96, 0.2)
  # What the output shows at its own corner lies beyond the input's.
  assert c <= 0
  assert f <= 0


def test_a_step_sums_each_gradient_once_over_the_devices_and_little_else():
  (row,) = communication.main(['--models=resnet18', '--devices=2', '--width=8', '--image_size=64'])
  assert 1 <= row.ratio <= 1.1
  assert row.details['all-reduce'] == row.value * 1e6  # no other kind of collective


def test_many_classes_are_measured_as_a_user_would_judge_them():
  rows = named(many_classes.main(['--classes=12', '--channels=2', '--images=24']))
  assert {name.removeprefix('many_classes/12 classes x 3 subsets/') for name in rows} == {
    f'{command}/{what}' for command in ('eval', 'report') for what in ('peak memory', 'time', 'files')
  }


def test_resources_are_sampled_over_training_evaluations_and_predictions():
  rows = named(resources.main(['--steps=9', '--saves=3', '--evaluations=2', '--predictions=8']))
  assert rows.keys() == {
    f'resources/{name}' for name in ('training steps', 'checkpoints', 'evaluations', 'predictions')
  }
  assert [len(row.details['memory']) for row in rows.values()] == [9, 3, 2, 8]
  assert all(count > 0 for row in rows.values() for count in (*row.details['files'], *row.details['threads']))


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


def test_digests_and_saves_are_timed(tmp_path):
  assert digests.main(['digests', '--megabytes=1', '--repeats=1', f'--out={tmp_path}/digests.json']) == 0
  result = json.loads((tmp_path / 'digests.json').read_text())
  assert result['megabytes'] == pytest.approx(1, rel=0.01)
  assert 0 < result['save_holds_up_training_seconds'] <= result['save_complete_seconds']


def test_the_structure_of_a_checkout_is_counted():
  numbers = structure.report(ROOT)
  files = [path.read_text().count('\n') for path in (ROOT / 'flaxnets').rglob('*.py')]
  assert (numbers['modules'], numbers['lines'], numbers['longest file']) == (len(files), sum(files), max(files))
  assert numbers['imports in a cycle'] == 0
  assert 0 < numbers['imports between packages'] < numbers['imports between modules']


def test_a_checkout_is_compared_with_another_one_in_pairs(tmp_path, monkeypatch):
  out = tmp_path / 'against.json'
  monkeypatch.setattr(sys, 'argv', ['against', str(ROOT), '--repeats=1', '--parts=help,import', f'--json={out}'])
  against.main()
  rows = json.loads(out.read_text())['rows']
  assert list(rows) == ['help', 'import'] and all(row['seconds'] > 0 for row in rows.values())


def test_the_memory_of_a_map_is_measured(tmp_path, monkeypatch):
  pytest.importorskip('rasterio')
  out = tmp_path / 'map.json'
  monkeypatch.setattr(sys, 'argv', ['map_memory', '--side=96', f'--json={out}'])
  map_memory.main()
  row = json.loads(out.read_text())
  assert row['tiles'] == 4 and row['peak_rss_mib'] > 100  # tiles of 64 pixels at a stride of 32


def test_correlations_are_predicted_from_wavelengths_beside_simpler_guesses(tmp_path):
  rng = np.random.default_rng(0)
  light = rng.normal(1000, 200, (12, 1, 8, 8))
  images = {f'X_{split}': light + rng.normal(0, 50, (12, 4, 8, 8)) for split in ('train', 'test')}
  np.savez(tmp_path / 'made.npz', **images, y_test=np.zeros(12, int), bands=np.array(['B02', 'B03', 'B04', 'B08']))
  result = spectral_bands.main([f'--data={tmp_path}/made.npz', f'--out={tmp_path}/out'])
  assert json.loads((tmp_path / 'out' / 'made.json').read_text())['bands'] == result['bands']
  errors = result['root_mean_square_error']
  assert errors.keys() == {'wavelengths', 'nearest band', 'mean'} and all(0 <= error < 1 for error in errors.values())


def test_every_benchmark_is_run_here_or_says_where_it_is():
  programs = {path.stem for path in ROOT.glob('benchmarks/*.py') if '\nif __name__ ==' in path.read_text()}
  text = pathlib.Path(__file__).read_text()
  run = {name for name in programs if any(f'{name}.{entry}(' in text for entry in ('main', 'benchmark', 'report'))}
  assert programs - run == NOT_RUN.keys()
