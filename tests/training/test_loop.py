"""How runs begin, resume and end."""

import contextlib
import json

import pytest

from flaxnets.data import batches
from flaxnets.errors import InputError
from flaxnets.runtime.workdir import WorkdirLock
from flaxnets.training import loop, setup
from flaxnets.training.metric_logger import MetricLogger
from tests.small import list_config, small_config, write_list


def lines(workdir, split='train'):
  rows = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [row for row in rows if row['split'] == split]


def test_a_folder_that_another_training_uses_is_refused_and_left_alone(tmp_path):
  holder = WorkdirLock(tmp_path)
  with pytest.raises(InputError, match='is in use by process'):
    loop.run(small_config(), tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']
  holder.close()


def test_a_run_that_is_refused_or_ends_gives_its_folder_free(tmp_path):
  with contextlib.closing(setup.prepare(small_config(), tmp_path)):
    pass
  with pytest.raises(InputError, match='another config'):
    setup.prepare(small_config(**{'train.learning_rate': 0.3}), tmp_path)
  WorkdirLock(tmp_path).close()


@pytest.mark.parametrize(
  'changes',
  [
    {'train.schedule': 'cosin'},
    {'train.momentum': 1.0},
    {'model.name': 'vgg'},
    {'evaluate.subsets': 'RGX'},
    {'data.validation': 'val'},
    {'evaluate.batch_size': 12},
  ],
)
def test_a_mistake_leaves_no_folder_behind(tmp_path, changes):
  with pytest.raises(InputError):
    setup.prepare(small_config(**changes), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


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


def test_an_error_before_the_first_step_closes_the_files(tmp_path, monkeypatch):
  loggers, begin = [], MetricLogger.__init__

  def noted(self, *args):
    begin(self, *args)
    loggers.append(self)

  def failing(*_, **__):
    raise InputError('no batches')

  monkeypatch.setattr(MetricLogger, '__init__', noted)
  monkeypatch.setattr(batches, 'train_batches', failing)
  with pytest.raises(InputError, match='no batches'):
    loop.run(small_config(), tmp_path)
  assert loggers[0]._lines.closed
