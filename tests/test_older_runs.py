"""A run that version 0.1.0 stored still loads, is evaluated to the same numbers, and resumes."""

import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets import config as configs
from flaxnets.cli import evaluate
from flaxnets.data import synthetic
from flaxnets.errors import InputError
from flaxnets.runtime.checkpoint import Checkpoints
from flaxnets.training import loop, setup

ARCHIVE = pathlib.Path(__file__).parent / 'data_files' / 'run_of_5aa4187' / 'run.tar.xz'


@pytest.fixture
def run(tmp_path):
  """A copy of the stored run."""
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(tmp_path / 'run', filter='data')
  return tmp_path / 'run'


def expected(run):
  return json.loads((run / 'expected.json').read_text())


def test_a_run_of_an_older_version_predicts_as_it_did(run):
  net, then = flaxnets.load(run), expected(run)
  assert (net.step, list(net.channels.names), list(net.classes)) == (3, then['channels'], then['classes'])
  source = synthetic.source('test[:52]')
  images = np.zeros((52, *source.canvas, 3), np.uint8)
  for index, image in enumerate(images):
    source.read(index, image)
  # Rounding may turn an image or two whose likeliest classes are equally likely.
  assert (net.predict(images) == then['prediction']['RGB']).sum() >= 50
  assert (net.predict(images[..., :1], channels='R') == then['prediction']['R']).sum() >= 50


def test_it_is_evaluated_to_the_same_losses(run):
  then = expected(run)
  assert evaluate.run(run, subsets='RGB;R') == 0
  scores = json.loads((run / 'eval' / 'test.json').read_text())
  assert (scores['step'], scores['examples']) == (3, 52)
  for row in scores['subsets']:
    assert row['loss'] == pytest.approx(then['loss'][row['channels']], rel=1e-3)


def test_it_resumes_with_its_momentum_and_its_count_of_steps(run):
  stored = Checkpoints(run / 'checkpoints', writing=False)
  before, _ = stored.restore(3)
  stored.close()
  config = configs.from_json(json.loads((run / 'config.json').read_text()))
  ready = setup.prepare(config, run)
  state = jax.device_get(ready.state)
  ready.close()
  assert int(state.step) == 3
  counts = [int(leaf) for leaf in jax.tree.leaves(state.opt_state) if np.ndim(leaf) == 0]
  momentum = [leaf for leaf in jax.tree.leaves(state.opt_state) if np.ndim(leaf)]
  assert counts == [3]
  for ours, theirs in zip(momentum, jax.tree.leaves(before['opt_state']['2']['trace']), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert loop.run(config, run) == 0
  assert flaxnets.load(run, 'latest').step == 6
  rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows if row['split'] == 'train'] == [1, 2, 3, 4, 5, 6]


def test_other_examples_are_noticed_by_the_labels_that_it_saved(run):
  fields = json.loads((run / 'config.json').read_text())
  fields['data']['train'] = 'train[1:97]'
  (run / 'config.json').write_text(json.dumps(fields))
  with pytest.raises(InputError, match='has other examples now than when the run began'):
    setup.prepare(configs.from_json(fields), run)
