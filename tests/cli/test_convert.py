"""`flaxnets convert` as a user runs it: the folder serves all commands, and mistakes are one line."""

import csv
import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import flaxnets
from flaxnets.cli import main
from tests.inference.torch_reference import make
from tests.small import write_list

pytestmark = pytest.mark.usefixtures('devices_started')

SMALL = [
  '--config.model.width=8',
  '--config.image_size=32',
  '--config.data.canvas=32',
  '--config.augment.evaluation_resize=1.0',
]


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
  safetensors.numpy.save_file(make.tensors('resnet18'), path)
  return str(path)


def convert(weights, out, *flags):
  given = {flag.partition('=')[0] for flag in flags}
  small = [flag for flag in SMALL if flag.partition('=')[0] not in given]
  return main.run('convert', [weights, '--model=resnet18', f'--out={out}', *small, *flags])


@pytest.mark.slow
def test_a_converted_network_is_judged_used_exported_and_trained_from(weights, tmp_path, capsys):
  for split in ('train', 'val', 'test'):
    write_list(tmp_path / 'data', split, 8)
  data = f'--config.data.root={tmp_path}/data'
  assert convert(weights, tmp_path / 'run', '--num_classes=4', data) == 0
  said = capsys.readouterr().out
  assert '102 tensors of float32, each accounted for; head new, 4 classes' in said
  run = str(tmp_path / 'run')
  assert main.run('eval', [f'--workdir={run}', '--subsets=R']) == 0
  assert main.run('eval', [f'--workdir={run}', '--subsets=R', '--completion=none']) == 0
  assert "'test', completion none" in capsys.readouterr().out
  own, none = (json.loads((tmp_path / 'run' / 'eval' / f'test{end}.json').read_text()) for end in ('', '-none'))
  assert own['subsets'][0]['loss'] != none['subsets'][0]['loss'] and none['completion'] == 'none'

  Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / 'photo.png')
  assert main.run('predict', [run, str(tmp_path / 'photo.png'), f'--out={tmp_path}/classes.csv']) == 0
  (row,) = csv.DictReader((tmp_path / 'classes.csv').read_text().splitlines())
  converted = flaxnets.load(run)
  assert row['class'] == converted.classes[converted.predict(str(tmp_path / 'photo.png'))[0]]
  assert main.run('export', [run, '--format=torch', f'--out={tmp_path}/again.safetensors']) == 0
  again = safetensors.numpy.load_file(tmp_path / 'again.safetensors')
  for name, value in make.tensors('resnet18').items():
    if not name.startswith('fc.'):
      np.testing.assert_array_equal(again[name], value, err_msg=name)
  capsys.readouterr()

  train = ['--config=pretrained', *SMALL, data, '--config.train.epochs=1', '--config.train.batch_size=8']
  train += ['--config.evaluate.subsets=RGB', f'--config.train.init_from={run}']
  assert main.run('train', [*train, f'--workdir={tmp_path}/tuned']) == 0
  tuned = flaxnets.load(tmp_path / 'tuned')
  kernel, before = (net.variables['params']['stem']['conv']['kernel'] for net in (tuned, converted))
  assert tuned.step == 1 and 0.9 < np.corrcoef(kernel.ravel(), before.ravel())[0, 1] < 1
  capsys.readouterr()
  assert main.run('train', [*train[:-1], '--config.data.train=train.txt', f'--workdir={run}']) == 1
  said = capsys.readouterr().err
  assert 'holds a run with another config' in said and said.count('\n') == 1


def test_training_does_not_resume_a_folder_that_was_converted(weights, tmp_path, capsys):
  for split in ('train', 'val'):
    write_list(tmp_path / 'data', split, 8)
  data = f'--config.data.root={tmp_path}/data'
  assert convert(weights, tmp_path / 'run', '--num_classes=4', data) == 0
  flags = ['--config=pretrained', *SMALL, data, f'--workdir={tmp_path}/run']
  assert main.run('train', flags) == 1
  assert 'start from it with train.init_from' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('flags', 'code', 'said'),
  [
    (['--classes=/nowhere.txt'], 1, 'cannot read the class file /nowhere.txt'),
    (['--keep=1,two'], 1, '--keep=1,two must be numbers'),
    (['--mean=0.5'], 1, 'mean is 0.5; give 3 values'),
    (['--config.model.width=64'], 1, 'does not fit: '),
    (['--num_classes=-1'], 2, '--num_classes'),
    (['--keeps=1'], 2, 'did you mean --keep?'),
  ],
)
def test_mistakes_are_one_line(weights, tmp_path, capsys, flags, code, said):
  assert convert(weights, tmp_path / 'run', *flags) == code
  error = capsys.readouterr().err
  assert said in error and error.count('\n') == 1
  assert not (tmp_path / 'run').exists()


def test_a_second_conversion_does_not_replace_the_first(weights, tmp_path, capsys):
  (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
  assert convert(weights, tmp_path / 'run') == 1
  assert 'holds a network already; choose another folder (--out)' in capsys.readouterr().err
