"""Commands that write a network, a deployment file or a page, killed at random moments and given again."""

import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import safetensors.numpy

import flaxnets
from flaxnets.errors import InputError
from tests.bad_inputs.runs import trained
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


def start(command, folder):
  words = [command, *CASES[command][0].split()]
  return subprocess.Popen(
    [sys.executable, '-m', 'flaxnets', *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
  )


def finish(command, folder):
  """Seconds that a command takes that is not killed."""
  began = time.monotonic()
  process = start(command, folder)
  said = process.communicate(timeout=300)[1]
  assert process.returncode == 0, said
  return time.monotonic() - began


def prepared(folder):
  folder.mkdir()
  trained(folder)
  safetensors.numpy.save_file(make.tensors('resnet18'), folder / 'tiny.safetensors')
  return folder


@pytest.mark.parametrize('command', CASES)
def test_a_killed_command_leaves_nothing_half_written_and_succeeds_when_it_is_given_again(command, tmp_path):
  found = CASES[command][1]
  whole, timed, *others = (prepared(tmp_path / str(number)) for number in range(KILLS + 2))
  finish(command, whole)  # fills the cache of compiled programs
  seconds, rng = finish(command, timed), random.Random(command)
  for folder in others:
    process = start(command, folder)
    time.sleep(rng.uniform(0.3, 0.9) * seconds)
    process.kill()
    process.communicate()
    if (left := found(folder)) is not None:
      np.testing.assert_equal(left, found(whole))
    if left is None or not (folder / 'out' / 'config.json').exists():  # a network that is there is not replaced
      finish(command, folder)
    np.testing.assert_equal(found(folder), found(whole))
