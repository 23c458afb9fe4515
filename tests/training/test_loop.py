"""How runs begin, resume and end."""

import contextlib
import json
import os
import pathlib
import shutil
import time
import types
from unittest import mock

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets.channels import ChannelSet
from flaxnets.cli import main
from flaxnets.data import batches
from flaxnets.data.source import ArraySource
from flaxnets.errors import InputError
from flaxnets.runtime.workdir import WorkdirLock, has_checkpoint
from flaxnets.training import announce, loop, setup
from flaxnets.training.data import balanced_weights
from flaxnets.training.divergence import Divergence
from flaxnets.training.metric_logger import MetricLogger
from tests.small import flags, list_config, small_config, with_step_preceded_by, write_list


def lines(workdir, split='train'):
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [row for row in rows if row['split'] == split]


def test_a_folder_that_another_training_uses_is_refused_and_left_alone(tmp_path):
  holder = WorkdirLock(tmp_path)
  with pytest.raises(InputError, match='is in use by process'):
    loop.run(small_config(), tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']
  holder.close()


def test_a_run_whose_folder_is_deleted_ends_and_does_not_make_it_again(tmp_path):
  with contextlib.closing(setup.prepare(small_config(), tmp_path / 'run')) as ready:
    gone = with_step_preceded_by(ready, lambda: shutil.rmtree(tmp_path / 'run', ignore_errors=True))
    with pytest.raises(InputError, match='run was deleted, moved or replaced since this run began'):
      loop.train(gone)
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_a_run_that_is_refused_or_ends_gives_its_folder_free(tmp_path):
  with contextlib.closing(setup.prepare(small_config(), tmp_path)):
    pass
  with pytest.raises(InputError, match='another config'):
    setup.prepare(small_config(**{'train.learning_rate': 0.3}), tmp_path)
  WorkdirLock(tmp_path).close()


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'presence.mode': 'listed', 'presence.subsets': 'full;RGX'}, "^presence.subsets: no channel 'X'"),
    ({'evaluate.batch_size': 12}, 'evaluate.batch_size of 12 cannot be spread over 8 devices'),
    ({'augment.flip': 2.0}, '^augment: flip is 2.0; it must be a probability'),
    ({'augment.mixup': -1.0}, '^augment: mixup is -1.0; it must be the parameter of a beta distribution'),
    ({'train.nesterov': True, 'train.momentum': 0.0}, 'train.momentum is 0.0; it must be above 0 with train.nesterov'),
  ],
)
def test_a_mistake_leaves_no_folder_behind(tmp_path, changes, said):
  """tests/bad_inputs/configs.py has those that are one flag."""
  with pytest.raises(InputError, match=said):
    setup.prepare(small_config(**changes), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_run_that_a_corrupt_image_ended_at_its_start_can_be_told_to_skip_it(tmp_path):
  for split, bad in (('train', (3,)), ('val', ()), ('test', ())):
    write_list(tmp_path / 'data', split, 32, bad)
  with pytest.raises(InputError, match=r'train3\.JPEG'):
    setup.prepare(list_config(tmp_path / 'data'), tmp_path / 'run')
  setup.prepare(list_config(tmp_path / 'data', **{'data.on_bad_image': 'skip'}), tmp_path / 'run').close()


def bands(path, **changed):
  """A config of three bands in an .npz; `changed` replaces arrays of the validation split."""
  rng = np.random.default_rng(0)
  arrays = {}
  for split in ('train', 'val'):
    images = rng.integers(0, 3000, (32, 16, 16, 3), np.uint16)
    arrays |= {f'X_{split}': images, f'y_{split}': np.arange(32) % 2}
  np.savez(path, **arrays | changed, bands=['B02', 'B03', 'B08'])
  fields = {'source': 'arrays', 'root': str(path), 'channels': '', 'train': 'train', 'validation': 'val', 'test': 'val'}
  return small_config(**{f'data.{key}': value for key, value in fields.items()}, **{'evaluate.subsets': 'full'})


def test_validation_images_that_are_too_large_are_refused_before_anything_is_written(tmp_path):
  config = bands(tmp_path / 'bands.npz', X_val=np.zeros((32, 600, 600, 3), np.uint16))
  with pytest.raises(InputError, match=r'val.*a canvas of 600 x 600 shrinks up to'):
    setup.prepare(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_validation_images_on_another_scale_are_an_error(tmp_path):
  config = bands(tmp_path / 'bands.npz', X_val=np.random.default_rng(0).random((32, 16, 16, 3), np.float32))
  with pytest.raises(InputError, match=r'X_val in .*: these images reach .* but the network was trained on'):
    loop.run(config, tmp_path / 'run')


def test_other_examples_with_the_same_labels_are_other_examples(tmp_path):
  root = tmp_path / 'data'
  for split in ('train', 'val', 'test'):
    write_list(root, split, 32)
  with contextlib.closing(setup.prepare(list_config(root), tmp_path / 'run')) as ready:
    ready.checkpoints.save(1, ready.state, {'metadata': ready.metadata.to_json(), **ready.data.digests})
  setup.prepare(list_config(root), tmp_path / 'run').close()
  rows = (root / 'train.txt').read_text().splitlines()
  rows[0], rows[4] = rows[4], rows[0]  # of one class
  assert rows[0].split()[1] == rows[4].split()[1]
  (root / 'train.txt').write_text('\n'.join(rows) + '\n')
  with pytest.raises(InputError, match='has other examples now than when the run began'):
    setup.prepare(list_config(root), tmp_path / 'run')


def test_a_run_whose_data_were_moved_goes_on_and_its_config_names_the_new_folder(tmp_path):
  root, moved = tmp_path / 'data', tmp_path / 'moved'
  for split in ('train', 'val', 'test'):
    write_list(root, split, 32)
  with contextlib.closing(setup.prepare(list_config(root), tmp_path / 'run')) as ready:
    ready.checkpoints.save(1, ready.state, {'metadata': ready.metadata.to_json(), **ready.data.digests})
  root.rename(moved)
  with contextlib.closing(setup.prepare(list_config(moved), tmp_path / 'run')) as ready:
    assert ready.saved
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['data']['root'] == str(moved)

  other = tmp_path / 'other'
  shutil.copytree(moved, other)
  rows = (other / 'train.txt').read_text().splitlines()
  (other / 'train.txt').write_text('\n'.join(reversed(rows)) + '\n')
  with pytest.raises(InputError, match='has other examples now than when the run began'):
    setup.prepare(list_config(other), tmp_path / 'run')
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['data']['root'] == str(moved)


def test_more_epochs_at_a_constant_rate_end_like_one_long_run_and_others_are_told_of_init_from(tmp_path):
  constant = {'train.schedule': 'constant'}
  loop.run(small_config(**constant), tmp_path / 'longer')
  for name in ('longer', 'whole'):
    loop.run(small_config(**constant, **{'train.epochs': 2.0}), tmp_path / name)
  longer, whole = (flaxnets.load(tmp_path / name, step='latest') for name in ('longer', 'whole'))
  jax.tree.map(np.testing.assert_array_equal, longer.variables, whole.variables)
  assert json.loads((tmp_path / 'longer' / 'config.json').read_text())['train']['epochs'] == 2.0

  with pytest.raises(InputError, match=r'train.schedule is .* add --config.train.init_from=.*longer'):
    setup.prepare(small_config(**{'train.epochs': 3.0}), tmp_path / 'longer')
  with pytest.raises(InputError, match='6 steps were trained already, and train.epochs=1 are 3; it may only be raised'):
    setup.prepare(small_config(**constant), tmp_path / 'longer')


@pytest.mark.skipif(not os.path.exists('/proc/self/fd'), reason='the system does not list open files')
def test_an_error_before_the_first_step_closes_the_files(tmp_path, monkeypatch):
  def opened():
    links = (os.path.realpath(link) for link in pathlib.Path('/proc/self/fd').iterdir())
    return [path for path in links if path.startswith(os.path.realpath(tmp_path))]

  def failing(*_, **__):
    assert opened()
    raise InputError('no batches')

  monkeypatch.setattr(batches, 'train_batches', failing)
  with pytest.raises(InputError, match='no batches') as caught:
    loop.run(small_config(), tmp_path)
  assert not opened(), caught  # which refers to the loop, so that files are not closed for being forgotten


def test_compiling_does_not_count_as_training_time(tmp_path):
  small, large = (mock.Mock() for _ in range(2))
  small.lower().compile.side_effect = large.lower().compile.side_effect = lambda: time.sleep(0.5)
  fake = types.SimpleNamespace(state=types.SimpleNamespace(step=3), steps_after={3: [small, large, large]}.__getitem__)
  names = ('loss', 'accuracy', 'gradient_norm', 'learning_rate', 'usable', 'skipped', 'replaced')
  metrics = {name: np.float32(1) for name in names}
  with contextlib.closing(MetricLogger(tmp_path, 0, 10, batch_size=100)) as logger:
    feed = loop._compiled_first(fake, iter([{'a': 1}, {'a': 2}]), logger)
    for step, _ in enumerate(feed, 1):
      logger.dispatched(step, metrics, every=2)
  assert lines(tmp_path)[0]['images_per_second'] > 2 * 100 / 0.9
  assert small.lower().compile.call_count == large.lower().compile.call_count == 1


def test_a_run_says_what_it_does_and_what_comes_next_and_so_does_a_finished_one(tmp_path, capsys):
  assert loop.run(small_config(), tmp_path) == 0
  out, bar = capsys.readouterr()
  begin, end = out[: out.index('step 2: mean validation')], out[out.index('step 3: mean validation') :]
  for said in (
    'training:   synthetic train[:96]: 96 examples, 12 classes of 8 each',
    'validation: synthetic validation[:40]: 40 examples, 12 classes; smallest',
    'channels:   R, G, B; validation on 2 subsets',
    'model:      resattention, ',
    'devices:    8 x cpu',
    'steps:      3 of 32 examples (1 epoch); validation every 2 steps',
  ):
    assert said in begin
  assert 'compiling the training step' in bar and 'compiling the validation of 2 subsets' in bar
  assert 'validating, batch 2 of 2' in bar
  best = max(lines(tmp_path, 'validation'), key=lambda line: (line['accuracy'], line['step']))
  assert f'best validation accuracy: {best["accuracy"]:.1%} at step {best["step"]}' in end
  assert f'next: flaxnets eval --workdir={tmp_path}' in end
  overview = (tmp_path / 'parameters.txt').read_text()
  assert 'head/dense/kernel' in overview and len(overview.splitlines()) > len(begin.splitlines())

  assert loop.run(small_config(), tmp_path) == 0
  again = capsys.readouterr().out
  assert 'this run has already finished; nothing was trained\nfinished after 3 steps' in again
  assert f'best validation accuracy: {best["accuracy"]:.1%} at step {best["step"]}' in again
  assert f'--config.train.init_from={tmp_path}' in again


@pytest.mark.parametrize(
  ('count', 'said'),
  [
    (1, 'step 1,200: mean validation accuracy 10.0% (A 10.0%)'),
    (8, '(A 10.0%, B 11.0%, C 12.0%, D 13.0%, E 14.0%, F 15.0%, G 16.0%, H 17.0%)'),
    (9, 'step 1,200: mean validation accuracy 14.0% (lowest A 10.0%, highest I 18.0%)'),
  ],
)
def test_a_validation_lists_few_subsets_and_the_extremes_of_many(count, said):
  accuracies = {chr(ord('A') + number): 0.1 + number / 100 for number in range(count)}
  assert announce.validated(1200, accuracies).endswith(said)


def test_a_run_stops_early_after_validations_without_improvement_and_so_stays_over(tmp_path, capsys, monkeypatch):
  accuracies = iter([0.2, 0.5, 0.4, 0.5, 0.9])
  monkeypatch.setattr(loop, '_validate', lambda *_, **__: {'accuracy': next(accuracies)})
  config = small_config(**{'train.patience': 2, 'train.epochs': 5.0, 'evaluate.every': 1})
  for said in ('stopped early after step 4 of 15: 2 validations without improvement', 'this run has already finished'):
    assert loop.run(config, tmp_path) == 0
    out = capsys.readouterr().out
    assert said in out and 'best validation accuracy: 50.0% at step 4' in out  # as good as step 2, and later
  assert sorted(int(path.name) for path in (tmp_path / 'checkpoints').iterdir()) == [3, 4]


def test_weights_that_are_not_finite_are_not_saved_and_end_the_program_with_1(tmp_path, devices_started, capsys):
  diverging = flags(**{
    'model.name': 'resnet18',
    'train.schedule': 'constant',
    'train.learning_rate': 3e38,
    'train.checkpoint_every': 1,
    'evaluate.every': 1000,
    'evaluate.subsets': 'RGB',
  })  # fmt: skip
  assert main.run('train', ['--config=demo', f'--workdir={tmp_path}', *diverging]) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith(
    'flaxnets train: the weights are not finite after step 1, and were not saved; last checkpoint: none; try a lower'
  )
  assert not has_checkpoint(tmp_path)


def test_a_run_that_diverges_ends_with_1_and_a_finite_checkpoint(tmp_path, devices_started, capsys):
  diverging = flags(**{
    'train.epochs': 100,
    'train.schedule': 'constant',
    'train.learning_rate': 1e5,
    'train.max_skipped': 8,
    'train.log_every': 2,
    'train.checkpoint_every': 0,
    'evaluate.every': 1000,
    'evaluate.subsets': 'RGB',
  })  # fmt: skip
  assert main.run('train', ['--config=demo', f'--workdir={tmp_path}', *diverging]) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('flaxnets train: the run has diverged: step ') and ' at a learning rate of 1e+05' in error
  last = lines(tmp_path)[-1]
  assert last['skipped_steps'] >= 8 and last['loss'] is None and last['step'] < 300
  net = flaxnets.load(tmp_path)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(net.variables))


def test_balanced_weights_give_every_class_the_same_sum():
  labels = np.array([0, 0, 0, 0, 2, 2, 3, 3])
  source = ArraySource('x', np.zeros((8, 2, 2, 1), np.uint8), labels, ChannelSet(('R',)), 'abcd')
  weights = balanced_weights(source)
  np.testing.assert_allclose(weights, [8 / (3 * 4), 0, 8 / (3 * 2), 8 / (3 * 2)])
  np.testing.assert_allclose(weights[labels].mean(), 1)


def test_the_best_validation_is_saved_although_the_step_before_it_changed_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(Divergence, 'watch', lambda self, steps: setattr(self, 'streak', 1))
  monkeypatch.setattr(Divergence, 'check_end', lambda *_: None)
  loop.run(small_config(**{'train.checkpoint_every': 1}), tmp_path)
  saved = sorted(int(path.name) for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdecimal())
  assert saved == [2, 3]  # the first validation and the end; step 1 was neither
