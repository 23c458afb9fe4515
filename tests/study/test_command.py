"""`flaxnets study`, with processes of its own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from flaxnets.cli import main
from flaxnets.study.folder import Study
from tests.study.made import table_of

ROOT = pathlib.Path(__file__).parents[2]

CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests.study import made

def get_config():
  return made.two_steps()

def get_runs():
  return {{
    'none': {{'model.completion': 'none'}},
    'linear': {{'weights': 'none'}},
  }}
"""


MADE = """
import sys
sys.path.insert(0, {root!r})
from tests.study import made

get_config = made.two_steps

def get_runs():
  return made.RUNS
"""


def test_the_table_of_what_is_there_is_printed_without_running_anything(done, tmp_path, capsys):
  study, _, jobs = done
  config, began = tmp_path / 'config.py', len(jobs)
  config.write_text(MADE.format(root=str(ROOT)))
  assert main.run('study', [f'--config={config}', f'--out={study.out}', '--table', '--against=linear']) == 0
  printed = capsys.readouterr().out
  assert 'this run minus linear' in printed and '| whole | 2 |' in printed
  assert len(jobs) == began


@pytest.mark.slow
def test_the_command_saves_when_told_to_stop_and_then_goes_on(tmp_path):
  config, out = tmp_path / 'config.py', tmp_path / 'out'
  config.write_text(CONFIG.format(root=str(ROOT)))
  command = [
    sys.executable,
    '-m',
    'flaxnets',
    'study',
    f'--config={config}',
    f'--out={out}',
    '--split=test[:8]',
    '--subsets=R',
    '--config.train.epochs=50',
    '--config.train.checkpoint_every=1000',
  ]
  environment, pipe = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1'}, subprocess.PIPE
  going = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)
  until, metrics = time.monotonic() + 240, out / 'none' / 'metrics.jsonl'
  while going.poll() is None and time.monotonic() < until and not (metrics.exists() and metrics.read_text()):
    time.sleep(0.02)
  going.send_signal(signal.SIGTERM)
  try:
    said = going.communicate(timeout=240)
  finally:
    going.kill()
  assert going.returncode == 75, said
  assert 'none: stopped; the same command resumes it' in said[1]
  stopped_at = [int(path.name) for path in (out / 'none' / 'checkpoints').iterdir() if path.name.isdecimal()]
  assert len(stopped_at) == 1 and stopped_at[0] < 100
  assert f'stopped at step {stopped_at[0]} of 100, saved' in (out / 'none' / 'log.txt').read_text()

  again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert again.returncode == 0, again.stdout + again.stderr
  rows = {row['name']: row for row in table_of(Study([], out))['rows']}
  for name, row in rows.items():
    scores = json.loads((out / name / 'eval' / 'test__8_.json').read_text())
    assert row['accuracy'] == {each['channels']: each['accuracy'] for each in scores['subsets']}
    for each in scores['subsets']:
      assert row['interval'][each['channels']] == pytest.approx([each['accuracy_low'], each['accuracy_high']])
    assert row['images_seen'] == 1600 and row['training_macs'] == 3 * scores['subsets'][0]['macs'] * 1600
    assert row['versions']['jax'] == jax.__version__ and row['seconds'] > 0 and row['device'].startswith('1 x ')
  arrays = {name: np.load(out / name / 'eval' / 'test__8_.npz') for name in rows}
  np.testing.assert_array_equal(arrays['none']['prediction/RGB'], arrays['linear']['prediction/RGB'])
  assert (arrays['none']['kernel/R'] != arrays['linear']['kernel/R']).any()
  assert not (out / 'linear' / 'checkpoints').exists()
