"""`flaxnets worth RUN` evaluates what `flaxnets eval` with the same flags evaluates."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

from flaxnets import config as configs
from flaxnets.cli import main
from flaxnets.evaluation import evaluator, judge
from flaxnets.inference import run_folder
from flaxnets.runtime import devices
from flaxnets.runtime.checkpoint import Checkpoints
from tests.networks import untrained


def write_arrays(path, seed):
  """Images of the splits 'test' and 'other' in an .npz."""
  rng = np.random.default_rng(seed)
  arrays = {'bands': list('RGB')}
  for split in ('test', 'other'):
    light = rng.integers(0, 200, (48, 1, 1, 3))
    arrays[f'X_{split}'] = (light + rng.integers(0, 56, (48, 16, 16, 3))).astype(np.uint8)
    arrays[f'y_{split}'] = rng.integers(0, 6, 48)
  np.savez(path, **arrays)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A folder with arrays, others of the same form, and a run of two steps, of which the best is 1."""
  folder = tmp_path_factory.mktemp('worth')
  write_arrays(folder / 'images.npz', seed=1)
  write_arrays(folder / 'others.npz', seed=2)
  fields = {'data.source': 'arrays', 'data.root': str(folder / 'images.npz'), 'data.test': 'test'}
  net = untrained(**fields)
  run_folder.write(net, folder / 'run', {})
  later = {**net.variables, 'batch_stats': jax.tree.map(lambda x: 3 * x + 1, net.variables['batch_stats'])}
  with contextlib.closing(Checkpoints(folder / 'run' / 'checkpoints')) as checkpoints:
    meta = {'config': configs.to_json(net.config), 'metadata': net.metadata.to_json()}
    checkpoints.save(1, {**later, 'step': np.ones((), np.int32)}, meta)
  return folder


@pytest.fixture
def printed(monkeypatch, capsys):
  """A function that gives what a command prints on stdout."""
  monkeypatch.setattr(devices, 'start', lambda *args, **kwargs: None)  # the tests' process has its devices
  monkeypatch.setattr(evaluator, 'MAX_COMPILED', 0)
  judge._evaluator.cache_clear()

  def of(*words):
    assert main.run(words[0], list(map(str, words[1:]))) == 0
    return capsys.readouterr().out

  return of


def test_worth_of_another_split_root_or_step_comes_from_what_eval_with_the_same_flags_finds(trained, tmp_path, printed):
  shutil.copytree(trained / 'run', tmp_path / 'asked')
  shutil.copytree(trained / 'run', tmp_path / 'evaluated')
  others = f'--root={trained / "others.npz"}'
  found = []
  for flags in ([], ['--split=other'], [others], ['--step=0'], ['--split=other', others, '--step=0']):
    asked = printed('worth', tmp_path / 'asked', '--json', *flags)
    table = printed('eval', f'--workdir={tmp_path / "evaluated"}', '--subsets=all', *flags)
    result = next(line for line in table.splitlines() if line.startswith('written to ')).removeprefix('written to ')
    assert asked == printed('worth', result, '--json')
    scores = [json.loads((tmp_path / name / 'eval' / result.split('/')[-1]).read_text()) for name in
              ('asked', 'evaluated')]  # fmt: skip
    assert len(scores[0]['subsets']) == 7 and scores[0]['subsets'] == scores[1]['subsets']
    assert all(scores[0][name] == scores[1][name] for name in ('split', 'root', 'step', 'weights', 'examples'))
    found.append(asked)
  assert len(set(found)) == len(found)  # every flag changes the answer


def test_worth_of_a_split_or_a_step_that_is_not_there_names_it(trained, printed, capsys):
  for flag, said in (('--split=gone', 'X_gone'), ('--step=7', 'no checkpoint of step 7; there are best, latest, 0, 1')):
    assert main.run('worth', [str(trained / 'run'), flag]) == 1
    assert said in capsys.readouterr().err
