"""Several processes that train and evaluate one network, over loopback."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets.analysis import results
from tests import small

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def started(workdir, processes, devices, epochs=1):
  """Starts train_main.py, as one process or as several that meet on this machine; `epochs` may be a list of theirs."""
  each = epochs if isinstance(epochs, list) else [epochs] * processes
  return launched([training(workdir, **{'train.epochs': own}) for own in each], devices)


def training(workdir, **changes):
  """The words of a small training."""
  fields = {
    'data.test': 'test[:45]',
    'train.schedule': 'constant',
    'train.checkpoint_every': 0,
    'evaluate.every': 0,
    'evaluate.subsets': 'RGB',
    **changes,
  }
  return [f'{ROOT}/train_main.py', f'--config={ROOT}/configs/demo.py', f'--workdir={workdir}', *small.flags(**fields)]


def with_own_images(workdir, root, bad=(), train='train.txt'):
  """Starts two processes that validate on images in files, of which those of the indices `bad` are cut short."""
  small.write_list(root, 'train', 64)
  small.write_list(root, 'val', 32, bad=bad)
  return launched([on_own_images(workdir, root, train)] * 2, devices=1)


def on_own_images(workdir, root, train='train.txt'):
  """The words of a small training on the images that `small.write_list` writes."""
  fields = {'data.source': 'lists', 'data.root': root, 'data.train': train, 'data.validation': 'val.txt'}
  return training(workdir, **fields)


def launched(commands, devices, prefixes=((), ()), folders=(ROOT, ROOT)):
  """Starts one process, or several that meet on this machine, each with its own command.

  `prefixes` are words ahead of each command, and `folders` where each is started.
  """
  processes = len(commands)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  several = [] if processes == 1 else [f'--coordinator=127.0.0.1:{port}', f'--processes={processes}']
  return [
    subprocess.Popen(
      [*prefixes[index], sys.executable, *words, *several, *([f'--process={index}'] if several else [])],
      cwd=folders[index],
      env={**os.environ, 'JAX_NUM_CPU_DEVICES': str(devices)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index, words in enumerate(commands)
  ]


def ended(running, code):
  """Waits for processes that are to end with a code, None for any but 0; returns what each of them said."""
  try:
    outputs = [process.communicate(timeout=240)[0] for process in running]
  finally:
    for process in running:
      process.kill()
      process.communicate()
  codes = [process.returncode for process in running]
  assert all(codes) if code is None else codes == [code] * len(running), '\n'.join(outputs)
  return outputs


def journal_of(workdir):
  """The lines of metrics.jsonl; none where there is no such file yet."""
  path = workdir / 'metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_two_processes_train_and_evaluate_the_same_network_as_one(tmp_path):
  ended(started(tmp_path / 'one', processes=1, devices=2), code=0)
  ended(started(tmp_path / 'two', processes=2, devices=1), code=0)
  for ours, theirs in zip(*(journal_of(tmp_path / name) for name in ('two', 'one')), strict=True):
    assert (ours['step'], ours['split']) == (theirs['step'], theirs['split'])
    assert ours['loss'] == pytest.approx(theirs['loss'], rel=1e-3)
  for a, b in zip(*(jax.tree.leaves(flaxnets.load(tmp_path / name).variables) for name in ('one', 'two')), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)

  # 45 examples in batches of 32: the second has 13, which two processes cannot share evenly.
  shutil.copytree(tmp_path / 'one', tmp_path / 'same')
  for name, processes in (('one', 1), ('same', 2)):
    words = ['eval_main.py', f'--workdir={tmp_path / name}', '--subsets=RGB;R']
    ended(launched([words] * processes, devices=2 // processes), code=0)
  scores, same = (json.loads((tmp_path / name / 'eval' / 'test.json').read_text()) for name in ('one', 'same'))
  assert scores['examples'] == same['examples'] == 45
  for row, other in zip(scores['subsets'], same['subsets'], strict=True):
    assert row['channels'] == other['channels'] and row['accuracy'] == other['accuracy']
    assert row['loss'] == pytest.approx(other['loss'], rel=1e-5)
  arrays, others = (results.read_arrays(tmp_path / name / 'eval' / 'test.json', scores) for name, scores in
                    (('one', scores), ('same', same)))  # fmt: skip
  for name in arrays:
    np.testing.assert_array_equal(arrays[name], others[name], err_msg=name)


def test_processes_that_were_started_with_different_numbers_of_epochs_do_not_train(tmp_path):
  outputs = ended(started(tmp_path, processes=2, devices=1, epochs=[1, 2]), code=1)
  assert 'config.json: the processes were started with different values of train.epochs' in outputs[1]
  assert not journal_of(tmp_path)


def test_hosts_whose_copies_of_the_data_differ_do_not_train(tmp_path):
  folders = [tmp_path / 'first', tmp_path / 'second']
  for folder, images in zip(folders, (32, 31), strict=True):
    folder.mkdir()
    small.write_list(folder / 'images', 'train', 64)
    small.write_list(folder / 'images', 'val', images)
  command = on_own_images(tmp_path / 'run', 'images')
  outputs = ended(launched([command] * 2, devices=1, folders=folders), code=1)
  said = r"flaxnets train: data\.validation: the hosts' copies of the data differ: .* in process 1 than in process 0;.*"
  for output in outputs:
    lines = [line for line in output.splitlines() if line.startswith('flaxnets train: ')]
    assert len(lines) == 1 and re.fullmatch(said, lines[0]), output
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_hosts_whose_copies_of_the_data_differ_do_not_evaluate(tmp_path):
  folders = [tmp_path / 'first', tmp_path / 'second']
  for folder, images in zip(folders, (32, 31), strict=True):
    folder.mkdir()
    small.write_list(folder / 'images', 'train', 64)
    small.write_list(folder / 'images', 'val', images)
  ended(launched([on_own_images(tmp_path / 'run', 'images')], devices=1, folders=folders[:1]), code=0)
  command = [f'{ROOT}/eval_main.py', f'--workdir={tmp_path / "run"}', '--split=validation', '--subsets=R']
  outputs = ended(launched([command] * 2, devices=1, folders=folders), code=1)
  said = r"flaxnets eval: data\.validation: the hosts' copies of the data differ: .* in process 1 than in process 0;.*"
  for output in outputs:
    lines = [line for line in output.splitlines() if line.startswith('flaxnets eval: ')]
    assert len(lines) == 1 and re.fullmatch(said, lines[0]), output
  assert not (tmp_path / 'run' / 'eval').exists()


# The start of a program whose processes meet as those of flaxnets do.
MEETS = """
import json, sys
from flaxnets.errors import InputError
from flaxnets.runtime import devices
flags = dict(word.removeprefix('--').split('=') for word in sys.argv[1:])
process = int(flags['process'])
devices.start([8], coordinator=flags['coordinator'], processes=int(flags['processes']), process=process)
import jax, numpy as np
"""


def printed(running):
  """What each process of a program printed as a line of JSON."""
  outputs = ended(running, code=0)
  return [json.loads(next(line for line in output.splitlines() if line.startswith('{'))) for output in outputs]


def on_another_host(folder):
  """Words ahead of a command that let XLA believe its process to be on another host."""
  (folder / 'boot_id').write_text('11111111-2222-3333-4444-555555555555\n')
  mount = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
  prefix = ['unshare', '--map-root-user', '--mount', 'sh', '-c', mount, folder / 'boot_id']
  if not shutil.which('unshare') or subprocess.run([*prefix, 'true'], capture_output=True).returncode:
    pytest.skip('a process of this user may have no boot id of its own')
  return prefix


def test_a_batch_over_two_hosts_has_the_part_of_each_at_its_place(tmp_path):
  program = f"""{MEETS}
part = {{'x': np.arange(4, dtype=np.float32) + 4 * process}}
batch = next(devices.to_devices([part], devices.data_mesh(), ahead=0))
hosts = {{device.slice_index for device in jax.devices()}}
print(json.dumps({{'hosts': len(hosts), 'batch': devices.to_host(batch)['x'].tolist()}}))
"""
  running = launched([['-c', program]] * 2, devices=2, prefixes=[(), on_another_host(tmp_path)])
  assert printed(running) == [{'hosts': 2, 'batch': list(range(8))}] * 2


def test_what_process_0_measures_all_get_and_its_error_too():
  program = f"""{MEETS}
def fails():
  raise InputError(f'from {{process}}')
made = devices.from_process_0(lambda: {{'mean': np.full(3, 0.1 + process, np.float32)}})
try:
  devices.from_process_0(fails)
except InputError as error:
  print(json.dumps({{'mean': made['mean'].tolist(), 'error': str(error)}}))
"""
  first, second = printed(launched([['-c', program]] * 2, devices=1))
  assert first == second == {'mean': np.full(3, 0.1, np.float32).tolist(), 'error': 'from 0'}


@pytest.mark.parametrize('image', [1, 17])  # read by process 0 and by process 1
def test_an_unreadable_image_that_one_process_reads_ends_both_within_a_minute(tmp_path, image):
  running = with_own_images(tmp_path / 'run', tmp_path / 'images', bad=[image])
  wait_for(lambda: any(process.poll() is not None for process in running), running)
  first = time.monotonic()
  outputs = ended(running, code=None)
  assert time.monotonic() - first < 60  # JAX alone would notice after 100 seconds
  said = [line for output in outputs for line in output.splitlines() if f'val{image}.JPEG' in line]
  assert len(said) == 1 and said[0].startswith('flaxnets train: ')
  assert sum(any(words in output for words in DEATH) for output in outputs) == 1
  assert not any('Traceback' in output for output in outputs)


def test_an_error_that_all_processes_make_is_told_by_each_and_ends_them_at_once(tmp_path):
  (tmp_path / 'images').mkdir()
  running = with_own_images(tmp_path / 'run', tmp_path / 'images', train='gone.txt')
  began = time.monotonic()
  outputs = ended(running, code=1)
  assert time.monotonic() - began < 120  # the start included; JAX would let each wait 300 seconds for the other
  for output in outputs:
    assert output.startswith('flaxnets train: ') and 'gone.txt' in output and len(output.splitlines()) == 1, output


def wait_for(what, running):
  """Waits until `what` gives true or a process has ended; kills the processes where neither comes."""
  deadline = time.monotonic() + 240
  while not what() and all(process.poll() is None for process in running):
    if time.monotonic() > deadline:
      for process in running:
        process.kill()
      raise TimeoutError('\n'.join(process.communicate()[0] for process in running))
    time.sleep(0.05)


def test_a_signal_to_one_of_two_processes_saves_and_stops_both_at_one_step(tmp_path):
  running = started(tmp_path, processes=2, devices=1, epochs=10_000)
  wait_for(lambda: journal_of(tmp_path), running)
  running[1].terminate()
  outputs = ended(running, code=75)
  steps = {re.search(r'stopped at step (\d+) of', output)[1] for output in outputs}
  assert len(steps) == 1
  assert flaxnets.load(tmp_path, step='latest').step == int(steps.pop())


def test_a_signal_ends_an_evaluation_of_two_processes(tmp_path):
  ended(started(tmp_path, processes=1, devices=2), code=0)
  running = launched([['eval_main.py', f'--workdir={tmp_path}', '--subsets=all']] * 2, devices=1)
  next(line for line in running[0].stdout if 'compiling' in line)
  for process in running:
    process.terminate()
  outputs = ended(running, code=143)
  assert all('flaxnets eval: stopped' in output for output in outputs)


# How the other process tells it: our line where a sum over the processes fails, JAX's messages elsewhere.
DEATH = ('probably because another process ended', 'another task died', 'heartbeat timeout')


def killed_after_a_save(workdir, victim):
  """Starts two processes, kills one of them after a checkpoint, and returns the code and the output of the other."""
  running = started(workdir, processes=2, devices=1, epochs=20)
  saved = workdir / 'checkpoints'
  wait_for(lambda: any(saved.glob('[0-9]')), running)
  assert all(process.poll() is None for process in running), [process.communicate()[0] for process in running]
  running[victim].kill()
  try:
    output = running[1 - victim].communicate(timeout=60)[0]
  finally:
    for process in running:
      process.kill()
      process.communicate()
  return running[1 - victim].returncode, output


def test_when_process_0_dies_the_other_ends_within_a_minute_and_says_why(tmp_path):
  code, output = killed_after_a_save(tmp_path, victim=0)
  assert code != 0
  assert any(words in output for words in DEATH)


def test_when_a_process_dies_the_other_ends_and_any_number_of_processes_resumes_the_run(tmp_path):
  code, output = killed_after_a_save(tmp_path / 'two', victim=1)
  assert code != 0
  assert any(words in output for words in DEATH)
  shutil.copytree(tmp_path / 'two', tmp_path / 'one')
  before = flaxnets.load(tmp_path / 'two', step='latest').step
  ended(started(tmp_path / 'two', processes=2, devices=1, epochs=20), code=0)
  ended(started(tmp_path / 'one', processes=1, devices=2, epochs=20), code=0)
  ours, theirs = (
    [line for line in journal_of(tmp_path / name) if line['split'] == 'train' and line['step'] > before]
    for name in ('two', 'one')
  )
  assert [line['step'] for line in ours] == [line['step'] for line in theirs]
  for one, other in zip(ours[:5], theirs[:5], strict=True):
    assert one['loss'] == pytest.approx(other['loss'], rel=1e-4)
