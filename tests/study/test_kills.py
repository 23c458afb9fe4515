"""A study that is killed, and one whose run is killed, goes on to the same bits."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.kills import FIELDS, differing
from tests.kills import contents as contents_of

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]

CONFIG = """
from tests.small import small_config

def get_config():
  return small_config(**{fields!r})

def get_runs():
  return {{'one': {{}}}}
"""


def started(config, out):
  return subprocess.Popen(
    [sys.executable, '-m', 'flaxnets', 'study', f'--config={config}', f'--out={out}'],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_NUM_CPU_DEVICES': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def ended(process, code):
  try:
    said = process.communicate(timeout=280)[0]
  finally:
    process.kill()
  assert process.returncode == code, said
  return said


def run_of(out, after):
  """The id of the process that trains, once it has saved a step after `after`."""
  end = time.monotonic() + 280
  while time.monotonic() < end:
    steps = [int(path.name) for path in (out / 'one' / 'checkpoints').glob('*') if path.name.isdecimal()]
    found = re.search(r'its run is process (\d+)', (out / '.lock').read_text()) if (out / '.lock').exists() else None
    if found and max(steps, default=0) > after:
      return int(found[1])
    time.sleep(0.02)
  raise TimeoutError(f'{out} saves nothing')


def test_a_killed_study_and_a_killed_run_of_it_end_as_one_that_was_not_killed(tmp_path):
  config, out = tmp_path / 'config.py', tmp_path / 'killed'
  config.write_text(CONFIG.format(fields={**FIELDS, 'train.epochs': 4.0}))
  ended(started(config, tmp_path / 'whole'), 0)

  study = started(config, out)  # the run is killed: the study says so
  os.kill(run_of(out, after=0), signal.SIGKILL)
  assert 'one: ended by signal 9' in ended(study, 1)

  study = started(config, out)  # the study is killed: its run goes on, and the folder is in use
  run = run_of(out, after=2)
  study.kill()
  study.communicate()
  os.kill(run, signal.SIGSTOP)
  try:
    said = ended(started(config, out), 1)
  finally:
    os.kill(run, signal.SIGKILL)
  assert f'is in use by process {study.pid} on ' in said and f'its run is process {run}' in said

  ended(started(config, out), 0)
  whole, killed = (contents_of(folder / 'one') for folder in (tmp_path / 'whole', out))
  assert differing(whole, killed) == []
  assert (out / 'table.md').read_text().count('done') == 1
