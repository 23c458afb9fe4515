"""Ctrl-C and SIGTERM, before the first step and after it: one line, exit code 75, and the same command goes on."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import flaxnets
from flaxnets.runtime import interrupts
from flaxnets.training.preemption import StopSignal
from tests.small import flags

ROOT = pathlib.Path(__file__).parents[1]

# Hours of steps, without a validation between them.
LONG = {
  'train.epochs': 9000,
  'train.checkpoint_every': 0,
  'evaluate.every': 100_000,
  'evaluate.subsets': 'RGB',
  'presence.mode': 'none',
}


def stopped(folder, number, ready):
  """Starts a training, sends a signal when `ready` gives true; returns the exit code and the last line."""
  log = folder / 'log.txt'
  folder.mkdir()
  # Children inherit what is ignored, and a shell that runs the tests in the background ignores SIGINT.
  inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
  with log.open('wb') as file:
    process = subprocess.Popen(
      [sys.executable, '-m', 'flaxnets', 'train', '--config=demo', f'--workdir={folder / "run"}', *flags(**LONG)],
      cwd=ROOT,
      env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1'},
      stdout=file,
      stderr=file,
    )
  signal.signal(signal.SIGINT, inherited)
  try:
    deadline = time.monotonic() + 240
    while process.poll() is None and not ready(log.read_text()):
      assert time.monotonic() < deadline, log.read_text()
      time.sleep(0.05)
    process.send_signal(number)
    code = process.wait(timeout=240)
  finally:
    process.kill()
    process.wait()
  assert 'Traceback' not in log.read_text()
  return code, log.read_text().replace('\r', '\n').strip().split('\n')[-1]


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_ends_a_run_with_75_and_one_line(tmp_path, number):
  began = time.monotonic()
  code, last = stopped(tmp_path / 'early', number, lambda _: time.monotonic() > began + 0.7)
  # Where Python ignores the exception of the signal, as in a callback, the run notes it and stops when it is set up.
  before_a_step = 'flaxnets train: stopped before step 1; the same command resumes the run'
  assert code == 75 and last in (f'flaxnets train: {interrupts.SAID}', before_a_step)
  code, last = stopped(tmp_path / 'compiling', number, lambda said: 'compiling the training step' in said)
  assert (code, last) == (75, before_a_step)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP], ids=['ctrl-c', 'closed terminal'])
def test_ctrl_c_and_a_closed_terminal_save_the_step(tmp_path, number):
  code, last = stopped(tmp_path / 'a', number, lambda said: 'images/s' in said)
  step = flaxnets.load(tmp_path / 'a' / 'run', 'latest').step
  said = f'flaxnets train: stopped at step {step} of 27000, saved; the same command resumes the run'
  assert (code, last) == (75, said)


@pytest.mark.parametrize(
  ('raised', 'resumes', 'code'),
  [(KeyboardInterrupt, False, 130), (interrupts.Terminated, False, 143), (KeyboardInterrupt, True, 75)],
)
def test_a_command_that_a_signal_ends_says_so_in_one_line(signal_handlers, capsys, raised, resumes, code):
  def main():
    raise raised

  assert interrupts.exit_code('flaxnets x', main, resumes) == code
  assert capsys.readouterr().err.startswith('flaxnets x: stopped')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_whose_exception_is_lost_still_stops(signal_handlers, number, capsys):
  """Lost in a destructor, or turned into an ImportError by an extension that was being imported."""

  class Destroyed:
    def __del__(self):
      os.kill(os.getpid(), number)
      time.sleep(5)

  def loses_it():
    Destroyed()
    with StopSignal() as stop:
      assert stop.asked
    raise ImportError('Encountered an error while initializing the extension.')

  signal.signal(signal.SIGINT, signal.default_int_handler)
  assert interrupts.exit_code('flaxnets x', loses_it, resumes=False) == 128 + number
  assert interrupts.exit_code('flaxnets x', lambda: 0, resumes=False) == 0 and not interrupts.arrived()
  assert capsys.readouterr().err == 'flaxnets x: stopped\n'


def test_a_command_whose_reader_has_ended_ends_without_a_word():
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, '-m', 'flaxnets', 'study', '--help'], stdout=writer, stderr=subprocess.PIPE, text=True
  )
  os.close(writer)
  assert (done.returncode, done.stderr) == (141, '')
