"""Fields of a config reach the step that is compiled."""

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


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  return trained(tmp_path_factory.mktemp('plain') / 'run')


@pytest.mark.parametrize(
  'changes',
  [{'train.class_weights': 'balanced'}, {'train.layer_decay': 0.5}, {'train.label_smoothing': 0.3}],
  ids=lambda changes: next(iter(changes)),
)
def test_a_field_of_training_changes_the_weights(changes, plain, tmp_path):
  weights, _ = trained(tmp_path / 'run', **changes)
  assert any(not np.allclose(ours, theirs, rtol=0, atol=1e-6) for ours, theirs in zip(weights, plain[0], strict=True))


def test_bfloat16_learns_from_nearly_the_loss_of_float32(plain, tmp_path):
  weights, loss = trained(tmp_path / 'run', **{'model.dtype': 'bfloat16'})
  assert loss == pytest.approx(plain[1], rel=0.02)
  assert loss != plain[1]
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
