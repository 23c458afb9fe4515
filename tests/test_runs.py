"""Whole runs on the embedded data: train, evaluate, go on, load."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import absl.flags
import jax
import numpy as np
import pytest

import flaxnets
from flaxnets.cli import evaluate
from flaxnets.data import synthetic
from flaxnets.errors import InputError
from flaxnets.evaluation import recalibrate
from flaxnets.report import tables
from flaxnets.report.gather import gather
from flaxnets.training import loop, setup
from tests.small import list_config, small_config, train_and_cut, with_step_preceded_by, write_list

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  assert loop.run(small_config(), workdir) == 0
  return workdir


def lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def weights(workdir, step='latest'):
  return jax.tree.leaves(flaxnets.load(workdir, step).variables)


def test_a_run_leaves_what_the_readme_says(run):
  assert {path.name for path in run.iterdir()} - {'eval'} == {  # other tests evaluate the run
    '.lock',
    'config.json',
    'metrics.jsonl',
    'parameters.txt',
    'tensorboard',
    'checkpoints',
  }
  trained = [line for line in lines(run) if line['split'] == 'train']
  assert [line['step'] for line in trained] == [1, 2, 3]
  assert all(np.isfinite(line['loss']) and line['images_per_second'] > 0 for line in trained)
  validated = [line for line in lines(run) if line['split'] == 'validation']
  assert [line['step'] for line in validated] == [2, 3]
  for line in validated:
    assert line['accuracy'] == pytest.approx((line['accuracy/RGB'] + line['accuracy/R']) / 2)
  assert any((run / 'tensorboard').iterdir())


def test_a_run_cut_in_the_middle_goes_on_to_the_same_weights(run, tmp_path):
  train_and_cut(small_config(), tmp_path, steps=2)
  assert max(line['step'] for line in lines(tmp_path)) == 2
  assert loop.run(small_config(), tmp_path) == 0
  for ours, theirs in zip(weights(tmp_path), weights(run), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  for line, expected in zip(lines(tmp_path), lines(run), strict=True):
    assert line['split'] == expected['split']
    for key in expected.keys() - {'split', 'images_per_second', 'digest'}:
      assert line[key] == pytest.approx(expected[key], rel=1e-4), key


def test_the_same_command_again_has_nothing_left_to_do(run):
  before = weights(run)
  assert loop.run(small_config(), run) == 0
  assert all((a == b).all() for a, b in zip(weights(run), before, strict=True))


def test_another_config_in_the_same_folder_is_refused_by_field(run):
  with pytest.raises(InputError, match='seed is 0 there and 1 here; train.learning_rate is 0.1 there and 0.2 here'):
    setup.prepare(small_config(**{'train.learning_rate': 0.2, 'seed': 1}), run)


def test_a_termination_signal_saves_first_and_says_so(tmp_path):
  with contextlib.closing(setup.prepare(small_config(), tmp_path)) as ready:
    stopped = with_step_preceded_by(ready, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(loop.Preempted, match='stopped at step 1 of 3, saved'):
      loop.train(stopped)
  assert flaxnets.load(tmp_path, 'latest').step == 1
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_evaluation_scores_every_subset_and_writes_what_the_design_says(run, capsys):
  assert evaluate.run(run, subsets='all') == 0
  scores = json.loads((run / 'eval' / 'test.json').read_text())
  assert [row['channels'] for row in scores['subsets']] == ['RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B']
  assert scores['channels'] == ['R', 'G', 'B']
  assert (scores['examples'], scores['split'], scores['model'], len(scores['classes'])) == (
    52,
    'test',
    'resattention',
    12,
  )
  assert scores['seed'] == 0 and scores['versions']['jax'] == jax.__version__ and scores['commit'] and scores['date']
  for row in scores['subsets']:
    assert {'accuracy', 'precision', 'recall', 'f1', 'top5', 'loss', 'flops', 'macs', 'params'} <= set(row)
    for name in ('accuracy', 'precision', 'recall', 'f1'):
      assert row[f'{name}_low'] <= row[name] <= row[f'{name}_high']
    assert np.sum(row['confusion']) == 52
    assert 0 <= row['ece'] <= 1 and sum(each['count'] for each in row['calibration']) == 52
  arrays = np.load(run / 'eval' / 'test.npz')
  assert arrays['id'][0] == 'test[0]' and arrays['prediction/RG'].shape == (52,)
  assert arrays['kernel/RG'].shape == (7, 7, 2, 8)
  accuracy = (arrays['prediction/R'] == arrays['label']).mean()
  assert accuracy == pytest.approx(scores['subsets'][4]['accuracy'])
  printed = capsys.readouterr().out
  assert len([line for line in printed.splitlines() if '%' in line]) == 8
  stored = flaxnets.load(run).variables['channel_stats']['stem']
  for name in ('mean', 'std'):
    np.testing.assert_allclose(scores['channel_stats'][name], stored['standardize'][name], rtol=1e-6)
  np.testing.assert_allclose(scores['channel_stats']['correlation'], stored['conv']['correlation'], rtol=1e-6)


def test_an_evaluation_is_written_before_its_latency_is_measured(run, monkeypatch):
  def interrupted(net, rows):
    raise KeyboardInterrupt

  monkeypatch.setattr(evaluate, 'add_latencies', interrupted)
  with pytest.raises(KeyboardInterrupt):
    evaluate.run(run, subsets='RG', split='train[:24]', latency=True)
  (row,) = json.loads((run / 'eval' / 'train__24_.json').read_text())['subsets']
  assert row['channels'] == 'RG' and 'latency' not in row


def test_evaluation_measures_latency_if_asked_to(run, capsys):
  flags = absl.flags.FlagValues()
  evaluate.define(flags)
  assert not flags['latency'].value
  assert evaluate.run(run, subsets='RG;R', split='train[:32]', latency=True) == 0
  scores = json.loads((run / 'eval' / 'train__32_.json').read_text())
  assert all(0 < row['latency'] < 10 for row in scores['subsets'])
  printed = capsys.readouterr().out.splitlines()
  assert printed[1].endswith('latency, ms')
  assert float(printed[2].split()[-1]) == pytest.approx(1e3 * scores['subsets'][0]['latency'], abs=0.01)
  found = gather([str(run)], result='train__32_')['runs'][0]
  table = tables.of_subsets({'runs': [found]})
  shown = [row[table.columns.index('latency, ms')].value for row in table.rows]
  assert shown == [1e3 * row['latency'] for row in scores['subsets']]
  assert found['channel_stats']['correlation'] == scores['channel_stats']['correlation']
  assert tables.of_channels(found).caption.endswith('raw pixel units')


def test_a_loaded_network_predicts_what_evaluation_saw(run):
  evaluate.run(run, subsets='RG', split='validation')
  expected = np.load(run / 'eval' / 'validation.npz')['prediction/RG']
  source = synthetic.source('validation[:40]')
  images = np.stack([np.zeros((*source.canvas, 3), np.uint8)] * 40)
  for index in range(40):
    source.read(index, images[index])
  net = flaxnets.load(run)
  np.testing.assert_array_equal(net.predict(images[..., :2], channels='RG'), expected)
  np.testing.assert_array_equal(net.predict(images[..., 1::-1], channels='GR'), expected)
  np.testing.assert_allclose(net.logits(images[:3]), net.logits(images)[:3], rtol=1e-3, atol=1e-4)
  assert net.features(images[:3]).shape == (3, 64)
  assert isinstance(jax.tree.leaves(net.variables)[0], np.ndarray)
  assert net.channels.names == ('R', 'G', 'B') and net.config.model.width == 8


@pytest.mark.parametrize(
  ('call', 'said'),
  [
    (lambda net, x: net.predict(x, channels='RGN'), "no channel 'N'; the channels are R, G, B"),
    (lambda net, x: net.predict(x, channels='RGG'), "channel 'G' is repeated in R,G,G"),
    (lambda net, x: net.predict(x, channels='RG'), r'images are \(n, height, width, 2\)'),
    (lambda net, x: net.predict(x / 255.0), 'these images reach 1, but the network was trained on 0 to 255'),
    (lambda net, x: net.predict(x.astype(np.float32) * 257), 'these images reach 6.554e\\+04'),
  ],
)
def test_input_with_wrong_names_shape_or_scale_is_an_error(run, call, said):
  with pytest.raises(InputError, match=said):
    call(flaxnets.load(run), np.full((2, 20, 20, 3), 255, np.uint8))


def test_loading_errors_name_the_cause(run, tmp_path):
  with pytest.raises(InputError, match='holds no trained network'):
    flaxnets.load(tmp_path)
  with pytest.raises(InputError, match='has no checkpoint of step 1; there are best, latest, 2, 3'):
    flaxnets.load(run, step=1)


def test_an_expert_knows_its_one_subset(tmp_path):
  config = small_config(
    **{
      'train.subset': 'RB',
      'model.stem': 'conv',
      'model.completion': 'mean',
      'presence.mode': 'none',
      'evaluate.subsets': 'all',
    }
  )
  loop.run(config, tmp_path)
  evaluate.run(tmp_path)
  scores = json.loads((tmp_path / 'eval' / 'test.json').read_text())
  assert [row['channels'] for row in scores['subsets']] == ['RB']
  net = flaxnets.load(tmp_path)
  assert net.channels.names == ('R', 'B') and net.kernels().shape == (7, 7, 2, 8)


def test_unreadable_images_stop_a_run_by_name_or_are_skipped_and_counted(tmp_path):
  root = tmp_path / 'data'
  write_list(root, 'train', 40, bad=(3,))
  write_list(root, 'val', 12)
  write_list(root, 'test', 12, bad=(5,))
  with pytest.raises(InputError, match=r'train3\.JPEG .*train\.txt, line 4'):
    loop.run(list_config(root, **{'data.statistics_examples': 40}), tmp_path / 'stops')
  loop.run(list_config(root, **{'data.on_bad_image': 'skip', 'train.epochs': 2.0}), tmp_path / 'goes')
  assert lines(tmp_path / 'goes')[-1]['step'] == 2
  assert max(line.get('replaced_images', 0) for line in lines(tmp_path / 'goes')) >= 1
  evaluate.run(tmp_path / 'goes', subsets='RGB')
  scores = json.loads((tmp_path / 'goes' / 'eval' / 'test.json').read_text())
  assert (scores['examples'], scores['unreadable']) == (11, 1)


def test_a_run_that_was_resumed_with_moved_data_is_recalibrated_and_evaluated_on_them(tmp_path):
  for split in ('train', 'val', 'test'):
    write_list(tmp_path / 'old', split, 32)
  loop.run(list_config(tmp_path / 'old', **{'evaluate.subsets': 'RGB'}), tmp_path / 'run')
  (tmp_path / 'old').rename(tmp_path / 'new')
  moved = list_config(tmp_path / 'new', **{'evaluate.subsets': 'RGB', 'data.on_bad_image': 'skip'})
  loop.run(moved, tmp_path / 'run')  # nothing is left to train, so that all checkpoints are from before
  recalibrate.run(tmp_path / 'run', subsets='RGB', images=16)
  evaluate.run(tmp_path / 'run', subsets='RGB', recalibrated=True)
  scores = json.loads((tmp_path / 'run' / 'eval' / 'test-recalibrated.json').read_text())
  assert (scores['root'], scores['examples']) == (str(tmp_path / 'new'), 32)
  assert flaxnets.load(tmp_path / 'run').config.data.on_bad_image == 'skip'
  (tmp_path / 'run' / 'config.json').unlink()
  assert flaxnets.load(tmp_path / 'run').config.data.root == str(tmp_path / 'old')


def test_a_validation_split_without_a_readable_image_stops_the_run(tmp_path):
  root = tmp_path / 'data'
  for split, bad in (('train', ()), ('val', range(12)), ('test', ())):
    write_list(root, split, 40 if split == 'train' else 12, bad=bad)
  with pytest.raises(InputError, match=r'val\.txt: none of its 12 examples'):
    loop.run(list_config(root, **{'data.on_bad_image': 'skip'}), tmp_path / 'run')


def command(*arguments, **kwargs):
  return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, **kwargs)


@pytest.mark.parametrize(
  ('argument', 'code', 'said'),
  [
    ('--config.train.epoch=3', 2, "config.train has no field 'epoch'; did you mean config.train.epochs?"),
    ('--config.train.batch_size=33', 1, 'train.batch_size of 33 cannot be spread over'),  # known once JAX has started
  ],
)
def test_a_mistake_on_the_command_line_is_one_line(argument, code, said, tmp_path):
  """As a process; tests/bad_inputs/configs.py has many more."""
  done = command(
    'train_main.py',
    '--config=configs/demo.py',
    f'--workdir={tmp_path / "w"}',
    '--config.data.train=train[:40]',
    argument,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '2'},
  )
  assert done.returncode == code and said in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1, done.stderr
  assert not (tmp_path / 'w').exists()


def test_the_commands_of_the_readme_train_and_judge(tmp_path):
  flags = [
    '--config=configs/demo.py',
    f'--workdir={tmp_path}',
    '--config.data.train=train[:64]',
    '--config.data.validation=validation[:16]',
    '--config.data.test=test[:16]',
    '--config.image_size=16',
    '--config.model.name=resattention',
    '--config.model.width=8',
    '--config.train.epochs=1',
    '--config.evaluate.subsets=RGB',
  ]
  done = command('train_main.py', *flags)
  assert done.returncode == 0, done.stderr
  done = command('eval_main.py', f'--workdir={tmp_path}', '--subsets=RGB;B')
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[0].startswith('resattention, step 1, 16 examples')
  done = command('eval_main.py', f'--workdir={tmp_path / "none"}')
  assert done.returncode == 1 and done.stderr.startswith('flaxnets eval: ') and done.stderr.count('\n') == 1
