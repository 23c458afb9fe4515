"""One run of a study in a process of its own: `python -m flaxnets.study.job` with a job, as JSON, on stdin."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.errors import InputError
from flaxnets.models import cost
from flaxnets.models.classifier import Classifier
from flaxnets.runtime import atomic, interrupts, provenance, streams
from flaxnets.runtime.workdir import claim_workdir
from flaxnets.study.folder import note, recorded
from flaxnets.training.preemption import PREEMPTED


def launch(job: Mapping[str, Any], log: pathlib.Path, locks: Sequence[int] = ()) -> tuple[int, str]:
  """Does a job in a new process, which starts without the memory and the compiled programs of the one before.

  Args:
    job: as for `do`.
    log: the file that its output is added to.
    locks: descriptors of the study's lock and the run's, which the process inherits, so that they last as long as it.

  Returns:
    The exit code, PREEMPTED where this process was asked to stop meanwhile, and the last line that the job wrote.

  Raises:
    InputError: if the log cannot be written.
  """
  stopped = False
  with atomic.writing(log):
    file = log.open('ab')
  with file:
    # A session of its own: Ctrl-C reaches only us, and the child saves first.
    child = subprocess.Popen(
      [sys.executable, '-m', 'flaxnets.study.job'],
      stdin=subprocess.PIPE,
      stdout=file,
      stderr=file,
      start_new_session=True,
      pass_fds=tuple(locks),
    )

  if locks:  # who else holds the study's, for a second command
    with contextlib.suppress(OSError):
      os.ftruncate(locks[0], 0)
      os.write(locks[0], f'process {os.getpid()} on {socket.gethostname()}\nits run is process {child.pid}\n'.encode())

  def stop(*_: Any) -> None:
    nonlocal stopped
    stopped = True
    child.terminate()

  # Python allows signal handlers in the main thread only.
  in_main = threading.current_thread() is threading.main_thread()
  heeded = [number for number in interrupts.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
  before = {number: signal.signal(number, stop) for number in heeded if in_main}
  try:
    child.communicate(json.dumps(job).encode())
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if child.returncode < 0 and not stopped:
    return 1, f'ended by signal {-child.returncode}'
  said = ''
  with contextlib.suppress(OSError):  # the folder may have been deleted
    said = log.read_text(errors='replace')
  lines = said.replace('\r', '\n').split('\n')
  last = next((line.strip() for line in reversed(lines) if line.strip()), '')
  return PREEMPTED if stopped else child.returncode, last[:500]


def do(job: Mapping[str, Any]) -> int:
  """Trains or resumes, then evaluates; returns the exit code.

  Args:
    job: 'config', all fields; 'workdir'; 'weights', the folder of the run whose weights are evaluated without training,
      or ''; 'split', 'root' and 'subsets' as the flags of `flaxnets eval`.
  """
  import jax

  from flaxnets.evaluation import incremental, judge
  from flaxnets.inference.network import Network
  from flaxnets.inference.restore import load
  from flaxnets.training import loop

  config, workdir = configs.from_json(job['config']), pathlib.Path(job['workdir'])
  before = recorded(workdir).get('commits', [])
  note(
    workdir,
    commits=list(dict.fromkeys([*before, provenance.commit()])),
    versions=provenance.versions(),
    device=f'{jax.device_count()} x {jax.devices()[0].device_kind}',
  )
  if job['weights']:
    trained = load(job['weights'])
    claim_workdir(workdir, job['config'])
    net = Network(config, trained.metadata, trained.variables, trained.step, trained.ema)
  else:
    if code := loop.run(config, str(workdir)):
      return code
    net = load(workdir)
    note(workdir, training_macs=forward_macs(net.model, config))
  scores, arrays = judge.evaluate(net, subsets=job['subsets'], split=job['split'], root=job['root'])
  incremental.write(scores, arrays, workdir)
  return 0


def forward_macs(model: Classifier, config: ml_collections.ConfigDict) -> dict[str, int]:
  """The MACs of one image with all channels at image_size and at each side of the training images, by the side."""
  full = tuple(range(model.num_channels))
  sides = dict.fromkeys([*experiment.training_sides(config), config.image_size])
  return {str(side): cost.macs(model, full, side)['macs'] for side in sides}


def main() -> int:
  from absl import logging

  from flaxnets.runtime import devices

  logging.set_verbosity(logging.WARNING)
  job = json.load(sys.stdin)
  devices.start(configs.batch_sizes(job['config']))
  return do(job)


if __name__ == '__main__':
  streams.guard()
  streams.make_stdout_optional()  # a log on a disk that fills up
  try:
    sys.exit(interrupts.exit_code('flaxnets study', main, resumes=True))
  except InputError as mistake:
    sys.exit(str(mistake))
