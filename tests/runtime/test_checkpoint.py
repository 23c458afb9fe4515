import contextlib
import errno
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from jax.experimental import multihost_utils

from flaxnets.errors import InputError
from flaxnets.runtime import checkpoint
from flaxnets.runtime.checkpoint import Checkpoints, CorruptCheckpoint, digests
from tests.damage import flip, largest_arrays

NOISE = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)  # that no compression makes small


def state(value=1.0):
  params = {'layer': {'kernel': value + NOISE}, 'bias': jnp.zeros(())}
  return {
    'params': params,
    'opt_state': optax.sgd(0.1, momentum=0.9).init(params),
    'ema': None,
    'step': jnp.asarray(3, jnp.int32),
  }


def saved(folder, *accuracies):
  checkpoints = Checkpoints(folder)
  for number, accuracy in enumerate(accuracies):
    checkpoints.save(10 * number, state(number), {'note': 'x'}, None if accuracy is None else {'accuracy': accuracy})
  checkpoints.close()
  return Checkpoints(folder)


def test_what_was_saved_comes_back_as_numpy_with_dtypes_and_structure(tmp_path):
  checkpoints = saved(tmp_path / 'c', 0.5)
  restored, meta = checkpoints.restore(0)
  assert meta['note'] == 'x' and meta['step'] == 0
  assert isinstance(restored['params']['layer']['kernel'], np.ndarray)
  again = serialization.from_state_dict(state(), restored)
  assert digests(serialization.to_state_dict(again)) == digests(serialization.to_state_dict(state(0)))
  assert again['step'].dtype == np.int32


def test_the_latest_two_and_the_best_are_kept(tmp_path):
  checkpoints = saved(tmp_path / 'c', 0.2, 0.9, 0.5, None, 0.3)
  assert checkpoints.steps() == [10, 30, 40]
  assert checkpoints.best_step() == 10


def test_a_checkpoint_that_another_process_deletes_meanwhile_is_not_the_best(tmp_path, monkeypatch):
  saved(tmp_path / 'c', 0.2, 0.9, 0.5, 0.3).close()
  reader = Checkpoints(tmp_path / 'c', writing=False)
  monkeypatch.setattr(reader, 'steps', lambda: [0, 10, 20, 30])  # as listed before step 0 was deleted
  assert reader.best_step() == 10
  (tmp_path / 'c' / '20' / 'meta' / 'metadata').unlink()
  with pytest.raises(CorruptCheckpoint, match='c/20 cannot be read'):
    Checkpoints(tmp_path / 'c', writing=False).best_step()


def test_without_a_measure_the_latest_is_the_best(tmp_path):
  assert saved(tmp_path / 'c', None, None).best_step() == 10


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'c')
  assert checkpoints.restore_latest() is None and checkpoints.best_step() is None


@pytest.mark.parametrize(
  'damage',
  [
    lambda folder: flip(largest_arrays(folder / 'state')),
    lambda folder: largest_arrays(folder / 'state').unlink(),
    lambda folder: (folder / 'meta' / 'metadata').write_text('{"note": '),
    lambda folder: (folder / 'meta' / 'metadata').write_text(
      (folder / 'meta' / 'metadata').read_text().replace('"note": "x"', '"note": "y"')
    ),
  ],
  ids=['a flipped bit', 'a lost file', 'a cut meta', 'a changed meta'],
)
def test_a_corrupt_checkpoint_is_moved_aside_and_the_one_before_restored(tmp_path, damage):
  checkpoints = saved(tmp_path / 'c', 0.5, 0.6)
  damage(tmp_path / 'c' / '10')
  with pytest.raises(CorruptCheckpoint, match='checkpoint .*/10 '):
    checkpoints.restore(10)
  restored, meta = checkpoints.restore_latest()
  assert meta['step'] == 0 and (restored['params']['layer']['kernel'] == NOISE).all()
  assert (tmp_path / 'c-corrupt' / '10').is_dir()
  for again in ('10.1', '10.2'):
    checkpoints.save(10, state(1), {'note': 'x'}, None)
    checkpoints.close()
    assert Checkpoints(tmp_path / 'c').restore(10)[1]['step'] == 10
    damage(tmp_path / 'c' / '10')
    checkpoints = Checkpoints(tmp_path / 'c')
    assert checkpoints.restore_latest()[1]['step'] == 0
    assert (tmp_path / 'c-corrupt' / again).is_dir()


def test_a_host_that_moves_nothing_waits_for_the_one_that_does_before_it_lists_the_steps_again(tmp_path, monkeypatch):
  checkpoints = saved(tmp_path / 'c', 0.5, 0.6)
  flip(largest_arrays(tmp_path / 'c' / '10' / 'state'))

  def barrier(name):
    """By the time that all have met, host 0 has moved the folder."""
    (tmp_path / 'c' / '10').rename(tmp_path / 'moved by host 0')

  monkeypatch.setattr(multihost_utils, 'sync_global_devices', barrier)
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.jax, 'process_index', lambda: 1)
    assert checkpoints.restore_latest()[1]['step'] == 0
  assert checkpoints.steps() == [0]


def test_an_empty_step_folder_does_not_hide_the_checkpoint_before_it(tmp_path):
  saved(tmp_path / 'c', 0.5)
  (tmp_path / 'c' / '7').mkdir()
  assert Checkpoints(tmp_path / 'c').restore_latest()[1]['step'] == 0


def test_a_corrupt_checkpoint_that_cannot_be_moved_aside_is_an_error_of_one_line(tmp_path):
  with contextlib.closing(Checkpoints(tmp_path / 'c')) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, {'a': np.ones(3)}, {})
  (tmp_path / 'c' / '2' / 'meta' / 'metadata').write_text('')
  (tmp_path / 'c-corrupt').write_text('a file in the way')
  with contextlib.closing(Checkpoints(tmp_path / 'c')) as checkpoints:
    with pytest.raises(InputError, match='c-corrupt cannot be written: File exists$'):
      checkpoints.restore_latest()
    assert checkpoints.steps() == [1, 2]


def test_when_all_are_corrupt_every_start_is_an_error_and_none_is_moved(tmp_path):
  saved(tmp_path / 'c', 0.5, 0.6)
  for step in ('0', '10'):
    flip(largest_arrays(tmp_path / 'c' / step / 'state'))
  for _ in range(2):
    checkpoints = Checkpoints(tmp_path / 'c')
    with pytest.raises(CorruptCheckpoint, match=r'no checkpoint in .* is intact .*/10 .*another --workdir'):
      checkpoints.restore_latest()
    assert checkpoints.steps() == [0, 10]


def test_a_temporary_io_error_does_not_count_as_corruption(tmp_path, monkeypatch):
  checkpoints = saved(tmp_path / 'c', 0.5, 0.6)

  def failing(*_, **__):
    raise OSError(errno.EIO, 'Input/output error')

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints._manager, 'restore', failing)
    with pytest.raises(InputError, match='checkpoint .*/10 cannot be read: .*Input/output error') as raised:
      checkpoints.restore_latest()
    assert not isinstance(raised.value, CorruptCheckpoint)
  assert checkpoints.restore_latest()[1]['step'] == 10


READING = (
  'Error reading "step/.zarray" in OCDBT database at local file "c/10/state/": Failed to open: "c/10/state/d/a5"'
)


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    (
      f"PERMISSION_DENIED: {READING}: Permission denied [os_error_code='13'] [tensorstore_spec='x']",
      'Permission denied',
    ),
    (f"UNKNOWN: {READING}: Input/output error [os_error_code='5']", 'Input/output error'),
    (f"RESOURCE_EXHAUSTED: {READING}: Too many open files [os_error_code='24']", 'Too many open files'),
    (f'ABORTED: {READING}: Stale file handle', 'Stale file handle'),
    ('UNAVAILABLE: the file system does not answer', 'UNAVAILABLE: the file system does not answer'),
  ],
)
def test_an_io_error_that_tensorstore_tells_in_words_moves_no_checkpoint_aside(tmp_path, monkeypatch, text, reason):
  checkpoints = saved(tmp_path / 'c', 0.5, 0.6)

  def failing(*_, **__):
    raise ValueError(text)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints._manager, 'restore', failing)
    with pytest.raises(InputError, match=f'checkpoint .*/10 cannot be read: {reason}$') as raised:
      checkpoints.restore_latest()
    assert not isinstance(raised.value, CorruptCheckpoint)
  assert checkpoints.restore_latest()[1]['step'] == 10


def test_digests_see_values_shapes_and_dtypes():
  one = {'a': np.zeros((2, 3), np.float32)}
  assert digests(one) == digests({'a': jnp.zeros((2, 3))})
  for other in (np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32), np.full((2, 3), -0.0, np.float32)):
    assert digests(one) != digests({'a': other})


def test_meta_is_plain_json(tmp_path):
  saved(tmp_path / 'c', 0.5)
  assert json.loads((tmp_path / 'c' / '0' / 'meta' / 'metadata').read_text())['digests']
