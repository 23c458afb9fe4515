"""A run's first step in bfloat16, and with images that processes decode."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets.training import loop
from tests.small import flags, small_config

ONE_STEP = {'data.train': 'train[:32]', 'evaluate.subsets': 'full'}  # 32 examples of 12 classes


def trained(workdir, **changes):
  """The weights after one step, and its loss."""
  assert loop.run(small_config(**ONE_STEP, **changes), workdir) == 0
  (line,) = [
    line for line in map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines()) if line['split'] == 'train'
  ]
  return jax.tree.leaves(flaxnets.load(workdir, 'latest').variables['params']), line['loss']


def test_bfloat16_learns_from_nearly_the_loss_of_float32(tmp_path):
  (_, expected), (weights, loss) = (
    trained(tmp_path / dtype, **{'model.dtype': dtype}) for dtype in ('float32', 'bfloat16')
  )
  assert loss == pytest.approx(expected, rel=0.02)
  assert loss != expected
  assert all(leaf.dtype == np.float32 for leaf in weights)


@pytest.mark.slow
def test_processes_that_decode_give_the_weights_that_threads_give(tmp_path):
  runs = []
  for workers in (0, 1):
    workdir = tmp_path / f'{workers} workers'
    decoding = flags(**{'data.train': 'train[:64]', 'data.workers': workers, 'evaluate.subsets': 'full'})
    command = [sys.executable, '-m', 'flaxnets', 'train', '--config=demo', f'--workdir={workdir}', *decoding]
    subprocess.run(command, check=True, capture_output=True)
    runs.append(jax.tree.leaves(flaxnets.load(workdir, 'latest').variables))
  jax.tree.map(np.testing.assert_array_equal, *runs)
