"""Recalibration by two processes, over loopback."""

import json
import shutil

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets.evaluation import recalibrate
from flaxnets.training import loop
from tests.runtime.test_processes import ended, launched
from tests.small import small_config

pytestmark = pytest.mark.slow


def test_two_processes_find_the_statistics_and_the_decisions_of_one(tmp_path):
  assert loop.run(small_config(**{'evaluate.subsets': 'RGB'}), tmp_path / 'one') == 0
  shutil.copytree(tmp_path / 'one', tmp_path / 'two')
  flags = ['--recalibrate', '--recalibrate_images=64', '--subsets=RGB;R']
  for name, processes in (('one', 1), ('two', 2)):
    words = ['eval_main.py', f'--workdir={tmp_path / name}', *flags]
    ended(launched([words] * processes, devices=2 // processes), code=0)
  net = flaxnets.load(tmp_path / 'one')
  (one, meta), (two, same) = (recalibrate.restore_recalibrated(tmp_path / name, net) for name in ('one', 'two'))
  assert meta == same
  assert set(one) == {'RGB', 'R'}
  for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
  scores, others = (
    json.loads((tmp_path / name / 'eval' / 'test-recalibrated.json').read_text()) for name in ('one', 'two')
  )
  assert scores['examples'] == others['examples'] == 52
  for row, other in zip(scores['subsets'], others['subsets'], strict=True):
    assert (row['channels'], row['recalibrated']) == (other['channels'], other['recalibrated'])
    assert row['accuracy'] == pytest.approx(other['accuracy'], abs=1e-9)
