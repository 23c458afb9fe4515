"""A run's folder: who may write in it, and files that are replaced in one go."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import jax
import pytest

import flaxnets
from flaxnets import config as configs
from flaxnets.data.open import open_source
from flaxnets.data.source import DataOptions
from flaxnets.errors import InputError
from flaxnets.inference import run_folder
from flaxnets.runtime import atomic
from flaxnets.runtime.workdir import INCOMPLETE, WorkdirLock, claim_workdir, stored_batch_size
from flaxnets.study.locks import study_lock

HOLDER = """
import sys
from flaxnets.runtime.workdir import WorkdirLock
lock = WorkdirLock(sys.argv[1])
print('locked', flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another_process_in(folder):
  holder = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  try:
    assert holder.stdout.readline() == 'locked\n'
    yield holder
  finally:
    holder.kill()
    holder.communicate()


def test_a_second_process_is_refused_with_the_id_and_host_of_the_first_until_that_one_dies(tmp_path):
  with another_process_in(tmp_path / 'run') as holder:
    said = f'is in use by process {holder.pid} on {re.escape(socket.gethostname())}; wait .* another --workdir'
    for _ in range(2):  # asking does not erase who holds it
      with pytest.raises(InputError, match=said):
        WorkdirLock(tmp_path / 'run')
  assert (tmp_path / 'run' / '.lock').read_text()  # killed: it could not clean up
  WorkdirLock(tmp_path / 'run').close()


def test_a_lock_is_for_one_run_in_a_process_too_and_can_be_taken_again(tmp_path):
  lock = WorkdirLock(tmp_path)
  with pytest.raises(InputError, match=f'in use by process {os.getpid()} on '):
    WorkdirLock(tmp_path)
  lock.close()
  WorkdirLock(tmp_path).close()


def test_a_run_notices_that_its_folder_was_deleted_or_is_another_runs_now(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  lock = WorkdirLock('run')
  claim_workdir('run', configs.to_json(configs.default()))
  monkeypatch.chdir('/')
  lock.check()
  (tmp_path / 'run' / '.lock').unlink()
  lock.check()  # people tidy up
  shutil.rmtree(tmp_path / 'run')
  said = f'^--workdir={re.escape(str(tmp_path))}/run was deleted, moved or replaced since this run began'
  with pytest.raises(InputError, match=said):
    lock.check()
  claim_workdir(tmp_path / 'run', configs.to_json(configs.default()))
  (tmp_path / 'run' / '.lock').write_text('process 1 on another\n')
  with pytest.raises(InputError, match=said):
    lock.check()
  lock.close()
  lock.check()


def test_of_several_processes_of_one_run_only_the_first_locks(tmp_path, monkeypatch):
  first = WorkdirLock(tmp_path)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  WorkdirLock(tmp_path).close()
  first.close()


def test_checkpoints_without_the_config_that_they_were_trained_with_are_not_resumed(tmp_path):
  (tmp_path / 'checkpoints' / '12').mkdir(parents=True)
  with pytest.raises(InputError, match=r'holds checkpoints but no config\.json; put it back, or choose another'):
    claim_workdir(tmp_path, configs.to_json(configs.default()))
  assert not (tmp_path / 'config.json').exists()


def test_a_config_stored_before_a_field_existed_is_the_same_config(tmp_path):
  fields = configs.to_json(configs.default())
  claim_workdir(tmp_path, fields)
  stored = json.loads((tmp_path / 'config.json').read_text())
  del stored['train']['ema'], stored['model']['mask'], stored['digest']
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  claim_workdir(tmp_path, fields)
  with pytest.raises(InputError, match=r'train\.ema is 0\.0 there and 0\.9 here\)'):
    claim_workdir(tmp_path, {**fields, 'train': {**fields['train'], 'ema': 0.9}})
  stored['train']['lr'] = 1
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  with pytest.raises(InputError, match=r'does not know: train\.lr'):
    claim_workdir(tmp_path, fields)


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('seed', 'a', r"config\.json: the stored config has seed='a'; it must be of type int$"),
    ('evaluate', 3, 'evaluate'),
  ],
)
def test_a_config_that_was_edited_by_hand_and_has_a_field_of_another_type_is_refused_by_name(
  tmp_path, field, value, said
):
  fields = configs.to_json(configs.default())
  (tmp_path / 'config.json').write_text(json.dumps({**fields, field: value}))
  with pytest.raises(InputError, match=said):
    claim_workdir(tmp_path, fields)
  assert stored_batch_size(tmp_path) == 1  # the command that asks goes on, and says what is wrong


def test_two_processes_of_one_id_in_two_containers_write_to_different_temporary_files(tmp_path):
  path = tmp_path / 'a.json'
  with atomic.replacing(path) as one, atomic.replacing(path) as other:
    assert one != other and one.parent == other.parent == tmp_path and one.suffix == '.json'
    one.write_text('one')
    other.write_text('other')
  assert path.read_text() == 'one' and list(tmp_path.iterdir()) == [path]


def test_a_file_stays_as_it_was_when_its_replacement_fails(tmp_path):
  path = tmp_path / 'a.txt'
  atomic.write_text(path, 'before')
  with pytest.raises(KeyError), atomic.replacing(path) as temporary:
    temporary.write_text('half')
    raise KeyError
  assert path.read_text() == 'before' and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named_with_the_reason_in_one_line():
  for error, reason in (
    (OSError(28, 'No space left on device'), 'No space left on device'),
    (OSError('encoder error -2\nwhen writing image file'), 'encoder error -2 when writing image file'),  # no number
    (OSError(), 'OSError'),
  ):
    with pytest.raises(InputError, match=f'^--out=a.png cannot be written: {reason}$'), atomic.writing('--out=a.png'):
      raise error


def test_a_text_is_utf_8_whatever_the_locale(tmp_path):
  program = 'import pathlib; from flaxnets.runtime import atomic; atomic.write_text(pathlib.Path("text"), chr(252))'
  environment = {**os.environ, 'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0'}  # ASCII
  environment['PYTHONPATH'] = str(pathlib.Path(flaxnets.__file__).parents[1])
  subprocess.run([sys.executable, '-X', 'utf8=0', '-c', program], env=environment, cwd=tmp_path, check=True)
  assert (tmp_path / 'text').read_bytes() == 'ü'.encode()


@pytest.mark.parametrize('address', ['gs://bucket/run', 's3://bucket/run', pathlib.Path('gs://bucket/run')])
def test_addresses_of_buckets_are_refused_wherever_a_folder_is_expected(address):
  for name, opened in (
    ('--workdir', lambda: WorkdirLock(address)),
    ('--workdir', lambda: flaxnets.load(address)),
    ('--out', lambda: contextlib.ExitStack().enter_context(study_lock(address, shared=False))),
    ('data.root', lambda: open_source(DataOptions('folders', str(address)), 'train')),
  ):
    with pytest.raises(InputError, match=f'^{name}=.*bucket/run is an address, .* local files only; mount the bucket'):
      opened()


def test_a_run_takes_a_folder_over_from_a_command_that_was_killed_there(tmp_path):
  (tmp_path / INCOMPLETE).touch()
  claim_workdir(tmp_path, configs.to_json(configs.default()))
  with pytest.raises(InputError, match='holds a network already'):
    run_folder.check_free(tmp_path)
