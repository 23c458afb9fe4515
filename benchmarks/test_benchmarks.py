"""Benchmarks with settings so small that their numbers mean nothing: that they run, each but those of NOT_RUN."""

import importlib
import importlib.util
import json
import math
import pathlib

import pytest

from benchmarks import (
  against,
  communication,
  digests,
  layers,
  many_classes,
  map_memory,
  predict,
  resources,
  scaling,
)
from benchmarks.smoke import SMALL, TORCH, named
from flaxnets.errors import InputError

TORCHVISION = all(importlib.util.find_spec(name) for name in ('torch', 'torchvision'))
ROOT = pathlib.Path(__file__).parents[1]
# Benchmarks that are run elsewhere, or by hand.
NOT_RUN = {
  'kill': 'tests/test_kills.py does the same with fewer kills',
  'torch_predict': 'the peer of `predict`, which runs it where PyTorch is installed',
  'torch_parity': 'needs PyTorch; tests/inference/test_torch_parity.py',
  'eurosat_bands': 'needs EuroSAT and pretrained weights',
  'pretrained_photos': 'needs photos and pretrained weights',
}


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


def test_digests_and_saves_are_timed(tmp_path):
  result = digests.main(['--megabytes=1', '--repeats=1', f'--out={tmp_path}/digests.json'])
  assert json.loads((tmp_path / 'digests.json').read_text()) == result
  assert result['megabytes'] == pytest.approx(1, rel=0.01)
  assert 0 < result['save_holds_up_training_seconds'] <= result['save_complete_seconds']


def test_a_checkout_is_compared_with_another_one_in_pairs(tmp_path, capsys):
  out = tmp_path / 'against.json'
  rows = against.main([str(ROOT), '--repeats=1', '--parts=help,import', f'--json={out}'])
  assert json.loads(out.read_text())['rows'] == rows
  assert list(rows) == ['help', 'import'] and all(row['seconds'] > 0 for row in rows.values())
  with pytest.raises(SystemExit):
    against.main([str(ROOT), '--parts=help,inputs'])
  assert '--parts: there is no inputs; there are train, evaluate, input, help, import' in capsys.readouterr().err


def test_the_memory_of_a_map_is_measured():
  pytest.importorskip('rasterio')
  row = map_memory.main(['--side=96'])
  assert row['tiles'] == 4 and row['peak_rss_mib'] > 100  # tiles of 64 pixels at a stride of 32


@pytest.mark.parametrize('name', NOT_RUN)
def test_a_benchmark_that_is_not_run_here_can_be_imported_and_shows_its_help(name, capsys, monkeypatch):
  if name.startswith('torch'):
    pytest.importorskip('torchvision' if name == 'torch_predict' else 'torch')
  monkeypatch.setattr('sys.argv', [name, '--help'])
  with pytest.raises(SystemExit) as ended:
    importlib.import_module(f'benchmarks.{name}').main()
  assert ended.value.code == 0 and 'usage: ' in capsys.readouterr().out


def test_every_benchmark_is_run_here_or_says_where_it_is():
  programs = {path.stem for path in ROOT.glob('benchmarks/*.py') if '\nif __name__ ==' in path.read_text()}
  text = '\n'.join(path.read_text() for path in ROOT.glob('benchmarks/test_*.py'))
  run = {name for name in programs if any(f'{name}.{entry}(' in text for entry in ('main', 'benchmark'))}
  assert programs - run == NOT_RUN.keys()
