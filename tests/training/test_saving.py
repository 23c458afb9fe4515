"""Checkpoints that cannot be written: on a full disk, in a folder without permission, on a read-only disk."""

import contextlib
import errno
import itertools
import os
import pathlib
import subprocess

import jax
import numpy as np
import pytest

from flaxnets.errors import InputError
from flaxnets.runtime.checkpoint import Checkpoints, SaveFailed
from flaxnets.training import loop, setup
from flaxnets.training.saving import Saver
from tests.kills import contents
from tests.small import small_config, with_step_preceded_by


@contextlib.contextmanager
def mounted(folder, *options):
  """A small disk of its own in a folder."""
  folder.mkdir(exist_ok=True)
  command = ['mount', '-t', 'tmpfs', '-o', ','.join(['size=8m', *options]), 'tmpfs', str(folder)]
  try:
    done = subprocess.run(command, capture_output=True, text=True)
  except FileNotFoundError:
    pytest.skip('there is no mount here')
  if done.returncode:
    pytest.skip(f'a disk can be mounted by root only ({done.stderr.strip()})')
  try:
    yield folder
  finally:
    subprocess.run(['umount', '--lazy', str(folder)], check=True)


@pytest.fixture
def disk(tmp_path):
  with mounted(tmp_path / 'disk') as folder:
    yield folder


def fill(disk: pathlib.Path) -> pathlib.Path:
  """Fills a disk; returns the file to delete."""
  path = disk / 'ballast'
  with contextlib.suppress(OSError), path.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(4096))
  return path


def state(step):
  return {'kernel': np.random.default_rng(step).normal(size=(200, 300)).astype(np.float32)}  # 240 kB


def steps_and_kernels(folder):
  """What is on the disk, by step; every checkpoint is verified."""
  store = Checkpoints(folder, writing=False)
  with contextlib.closing(store):
    return {step: store.restore(step)[0]['kernel'] for step in store.steps()}


def test_a_full_disk_is_said_once_and_the_next_save_with_room_succeeds(disk, caplog):
  with contextlib.closing(Checkpoints(disk / 'c')) as checkpoints:
    saver = Saver(checkpoints)
    for step in (1, 2):
      saver.save(step, state(step), {}, {'accuracy': 0.5})
    saver.settle()
    ballast = fill(disk)
    for step in (3, 4, 5):
      saver.save(step, state(step), {}, {'accuracy': 0.6})
    saver.settle()
    kept = steps_and_kernels(disk / 'c')
    assert sorted(kept) == [1, 2] and (kept[2] == state(2)['kernel']).all()
    assert str(saver) == 'step 2'
    ballast.unlink()
    saver.save(6, state(6), {}, {'accuracy': 0.4})
    saver.finish(6)
  assert sorted(steps_and_kernels(disk / 'c')) == [2, 6]
  said = [record.getMessage() for record in caplog.records]
  assert said == [
    'the checkpoint of step 3 was not saved: No space left on device. Training goes on, and tries again at the next '
    'checkpoint; last checkpoint: step 2',
    'saved again, at step 6',
  ]


def test_when_the_last_save_fails_the_error_says_what_is_lost_and_the_same_command_goes_on(disk):
  with contextlib.closing(Checkpoints(disk / 'c')) as checkpoints:
    saver = Saver(checkpoints)
    saver.save(10, state(10), {}, None)
    saver.settle()
    fill(disk)
    saver.save(20, state(20), {}, None)
    said = r'steps 11 to 20 are not saved \(No space left on device\); last checkpoint: step 10\. The same command'
    with pytest.raises(InputError, match=said):
      saver.finish(20)
  assert Checkpoints(disk / 'c').restore_latest()[1]['step'] == 10


@pytest.mark.skipif(os.name != 'posix', reason='permissions are those of POSIX')
def test_a_disk_that_becomes_read_only_stops_no_run(tmp_path, caplog):
  with mounted(tmp_path / 'disk') as disk, contextlib.closing(Checkpoints(disk / 'c')) as checkpoints:
    saver = Saver(checkpoints)
    saver.save(1, state(1), {}, None)
    saver.settle()
    subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    for step in (2, 3):
      saver.save(step, state(step), {}, None)
      saver.settle()
    subprocess.run(['mount', '-o', 'remount,rw', str(disk)], check=True)
    saver.save(4, state(4), {}, None)
    saver.finish(4)
    assert sorted(steps_and_kernels(disk / 'c')) == [1, 4]
  assert 'Read-only file system' in caplog.text


def test_a_folder_without_permission_stops_no_run(tmp_path, caplog, monkeypatch):
  """Root may write anywhere, so the refusal is simulated where the folder of a checkpoint is made."""
  with contextlib.closing(Checkpoints(tmp_path / 'c')) as checkpoints:
    saver = Saver(checkpoints)
    saver.save(1, state(1), {}, None)
    saver.settle()
    with monkeypatch.context() as patch:

      def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

      patch.setattr(checkpoints._manager, 'save', refused)
      saver.save(2, state(2), {}, None)
    saver.save(3, state(3), {}, None)
    saver.finish(3)
  assert sorted(steps_and_kernels(tmp_path / 'c')) == [1, 3] and 'Permission denied' in caplog.text


@pytest.mark.parametrize(
  ('raised', 'expected', 'said'),
  [
    (
      OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
      InputError,
      r'c: the checkpoint of step 2 was not saved: No space left on device; the same command on every host resumes',
    ),
    (jax.errors.JaxRuntimeError('a task died'), jax.errors.JaxRuntimeError, 'a task died'),
  ],
)
def test_a_save_that_fails_in_one_of_several_processes_ends_the_run_with_one_line(
  tmp_path, monkeypatch, raised, expected, said
):
  def failing(*_, **__):
    raise raised

  with contextlib.closing(Checkpoints(tmp_path / 'c')) as checkpoints:
    saver = Saver(checkpoints)
    with monkeypatch.context() as patch, pytest.raises(expected, match=said):
      patch.setattr(checkpoints._manager, 'save', failing)
      patch.setattr(jax, 'process_count', lambda: 2)
      saver.save(2, state(2), {}, None)


def test_a_failed_save_leaves_nothing_half_written_behind(disk):
  with contextlib.closing(Checkpoints(disk / 'c')) as checkpoints:
    fill(disk)
    with pytest.raises(SaveFailed, match='No space left on device'):
      checkpoints.save(1, state(1), {})
      checkpoints.wait()
    assert list((disk / 'c').iterdir()) == []


@pytest.mark.slow
def test_a_run_on_a_disk_that_is_full_for_a_while_ends_as_one_on_a_large_disk(disk, tmp_path, monkeypatch, capsys):
  """The disk is full from the third to the sixth step, and has room again for the last save."""
  config = small_config(**{'model.name': 'resattention', 'train.epochs': 3.0, 'evaluate.subsets': 'RGB'})
  assert loop.run(config, tmp_path / 'large') == 0
  steps, ballast = itertools.count(1), []

  def before():
    step = next(steps)
    if step == 4:
      ready.checkpoints.wait()
      ballast.append(fill(disk))
    elif step == 8:
      ballast.pop().unlink()

  with contextlib.closing(setup.prepare(config, disk / 'run')) as ready:
    loop.train(with_step_preceded_by(ready, before))
  ours, theirs = contents(disk / 'run'), contents(tmp_path / 'large')
  assert max(step for step in ready.checkpoints.steps()) == 9
  assert ours['metrics.jsonl'] == theirs['metrics.jsonl'] and ours['checkpoints/9'] == theirs['checkpoints/9']


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_finds_no_room_ends_with_1_and_says_what_is_lost(disk, capsys, monkeypatch):
  config = small_config(**{'model.name': 'resattention', 'evaluate.subsets': 'RGB'})
  steps = itertools.count(1)

  def before():
    if next(steps) == 3:
      ready.checkpoints.wait()
      fill(disk)

  said = r'step 3 is not saved \(No space left on device\); last checkpoint: step 2\.'
  with contextlib.closing(setup.prepare(config, disk / 'run')) as ready, pytest.raises(InputError, match=said):
    loop.train(with_step_preceded_by(ready, before))
  assert 'Traceback' not in capsys.readouterr().err


def test_what_a_killed_process_left_behind_is_removed_at_the_next_start(tmp_path):
  for name in ('7.orbax-checkpoint-tmp', '.deleted-5-abcd'):
    (tmp_path / 'c' / name / 'state').mkdir(parents=True)
  Checkpoints(tmp_path / 'c', writing=False).close()
  assert len(list((tmp_path / 'c').iterdir())) == 2
  Checkpoints(tmp_path / 'c').close()
  assert list((tmp_path / 'c').iterdir()) == []
