"""Commands that write a network, a deployment file or a page, killed at random moments and given again.

A command is the fork of a server that has imported everything and has not started JAX, as in tests/kills.py.
"""

import contextlib
import importlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import traceback

import jax
import numpy as np
import pytest
import safetensors.numpy

import flaxnets
from flaxnets.cli import main
from flaxnets.errors import InputError
from tests.bad_inputs.runs import trained
from tests.inference.torch_reference import make

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
KILLS = 3  # of each command, after its imports


def network(folder):
  """The leaves of the network in out/; None where no whole one is there."""
  try:
    return jax.tree.leaves(flaxnets.load(folder / 'out').variables)
  except InputError:
    return None


def exported(folder):
  """The logits of the exported network for an image; None where no whole one is there."""
  if not all((folder / name).exists() for name in ('out.stablehlo', 'out.stablehlo.json')):
    return None
  net = flaxnets.load_exported(folder / 'out.stablehlo')
  return [net.logits(np.full((1, 16, 16, 2), 100, np.uint8))]


def page(folder):
  """Whether the page is complete; None where it is not there."""
  path = folder / 'out.html'
  return path.read_text().rstrip().endswith('</html>') if path.exists() else None


CASES = {
  'convert': (
    f'tiny.safetensors --model=resnet18 --config.model.width={make.WIDTH} --config.image_size=32 --out=out', network
  ),
  'adapt': (
    'run --init=nearest --config.data.source=synthetic --config.data.train=train[:64] --out=out',
    network,
  ),
  'export': ('run --subset=RG --format=stablehlo --out=out.stablehlo', exported),
  'report': ('run --out=out.html', page),
}  # fmt: skip


def child(folder, words):
  """Runs a command in a folder, with what it prints in a log beside the folder; returns its exit code."""
  log = os.open(f'{folder}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(log, 1)
  os.dup2(log, 2)
  os.chdir(folder)
  try:
    return main.run(words[0], words[1:])
  except BaseException:
    traceback.print_exc()
    return 1


def serve():
  """Reads a folder and a command from each line of stdin; forks a child for it and writes its id and its exit code."""
  for name in ('adapt', 'convert', 'export', 'matching', 'restore', 'run_folder'):
    importlib.import_module(f'flaxnets.inference.{name}')
  for name in ('experiment', 'data.statistics', 'report.write'):
    importlib.import_module(f'flaxnets.{name}')
  print('ready', flush=True)
  for line in sys.stdin:
    folder, words = json.loads(line)
    pid = os.fork()
    if pid == 0:
      os._exit(child(folder, words))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Server:
  """The process that forks the commands."""

  def __init__(self):
    pipe = subprocess.PIPE
    self.process = subprocess.Popen(
      [sys.executable, '-m', 'tests.cli.test_kills'], cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1
    )
    assert self.process.stdout.readline().strip() == 'ready'

  def run(self, command, folder, kill_after=None):
    """Runs a command, and kills it after some seconds; returns its exit code, -9 where the kill came before its end."""
    self.process.stdin.write(json.dumps([str(folder), [command, *CASES[command][0].split()]]) + '\n')
    pid = int(self.process.stdout.readline())
    if kill_after is not None:
      time.sleep(kill_after)
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return int(self.process.stdout.readline())

  def finish(self, command, folder):
    """Seconds that a command takes that is not killed."""
    began = time.monotonic()
    code = self.run(command, folder)
    assert code == 0, pathlib.Path(f'{folder}.log').read_text()
    return time.monotonic() - began


@pytest.fixture(scope='module')
def server():
  server = Server()
  yield server
  server.process.kill()
  server.process.communicate()


def prepared(folder, command):
  folder.mkdir()
  trained(folder)
  if command == 'convert':
    safetensors.numpy.save_file(make.tensors('resnet18'), folder / 'tiny.safetensors')
  return folder


@pytest.mark.parametrize('command', CASES)
def test_a_killed_command_leaves_nothing_half_written_and_succeeds_when_it_is_given_again(command, server, tmp_path):
  found = CASES[command][1]
  whole, timed, *others = (prepared(tmp_path / str(number), command) for number in range(KILLS + 2))
  server.finish(command, whole)  # fills the cache of compiled programs
  seconds, rng, codes = server.finish(command, timed), random.Random(command), []
  for folder in others:
    codes.append(server.run(command, folder, kill_after=rng.uniform(0.1, 0.9) * seconds))
    if (left := found(folder)) is not None:
      np.testing.assert_equal(left, found(whole))
    if left is None or not (folder / 'out' / 'config.json').exists():  # a network that is there is not replaced
      server.finish(command, folder)
    np.testing.assert_equal(found(folder), found(whole))
  assert -signal.SIGKILL in codes and set(codes) <= {-signal.SIGKILL, 0}


if __name__ == '__main__':
  serve()
