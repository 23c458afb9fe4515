"""Commands that write a network, a deployment file or a page, killed at random moments and given again.

A command is a child of a fork server.
"""

import importlib
import os
import pathlib
import random
import signal
import time

import jax
import numpy as np
import pytest
import safetensors.numpy

import flaxnets
from flaxnets.cli import main
from flaxnets.errors import InputError
from tests.bad_inputs.runs import trained
from tests.fork_server import Server, serve
from tests.inference.torch_reference import make

pytestmark = pytest.mark.slow

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


def work(send, folder, words):
  os.chdir(folder)
  return main.run(words[0], words[1:])


def run(server, command, folder, kill_after=None):
  """Runs a command, and kills it after some seconds; returns its exit code, -9 where the kill came before its end."""
  for _ in server.run(folder, [command, *CASES[command][0].split()]):
    if kill_after is not None:
      server.kill(kill_after)
  return server.code


def finish(server, command, folder):
  """Seconds that a command takes that is not killed."""
  began = time.monotonic()
  code = run(server, command, folder)
  assert code == 0, pathlib.Path(f'{folder}.log').read_text()
  return time.monotonic() - began


@pytest.fixture(scope='module')
def server():
  server = Server('tests.cli.test_kills')
  yield server
  server.close()


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
  finish(server, command, whole)  # fills the cache of compiled programs
  seconds, rng, codes = finish(server, command, timed), random.Random(command), []
  for folder in others:
    codes.append(run(server, command, folder, kill_after=rng.uniform(0.1, 0.9) * seconds))
    if (left := found(folder)) is not None:
      np.testing.assert_equal(left, found(whole))
    if left is None or not (folder / 'out' / 'config.json').exists():  # a network that is there is not replaced
      finish(server, command, folder)
    np.testing.assert_equal(found(folder), found(whole))
  assert -signal.SIGKILL in codes and set(codes) <= {-signal.SIGKILL, 0}


if __name__ == '__main__':
  for name in ('adapt', 'convert', 'export', 'matching', 'restore', 'run_folder'):
    importlib.import_module(f'flaxnets.inference.{name}')
  for name in ('experiment', 'data.statistics', 'report.write'):
    importlib.import_module(f'flaxnets.{name}')
  serve(work)
