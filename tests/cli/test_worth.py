"""`flaxnets worth`: of a result file, and of a run, for which it evaluates what `flaxnets eval` does."""

import contextlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from flaxnets import config as configs
from flaxnets.analysis import worth
from flaxnets.cli import main
from flaxnets.evaluation import evaluator, judge
from flaxnets.inference import run_folder
from flaxnets.runtime.checkpoint import Checkpoints
from tests.analysis.test_worth import write_scores
from tests.networks import untrained

SEVEN = {'RGB': 0.9, 'RG': 0.8, 'RB': 0.8, 'GB': 0.7, 'R': 0.7, 'G': 0.65, 'B': 0.6}


def test_the_command_prints_points_and_best_subsets(tmp_path, capsys):
  main.run('worth', [str(write_scores(tmp_path / 'test.json', SEVEN)), '--json'])
  result = json.loads(capsys.readouterr().out)
  assert (result['none'], result['full'], result['exact']) == (0.6, 0.9, True)
  assert [row['channel'] for row in result['channels']] == ['R', 'G', 'B']
  # R comes first, second after G, second after B, or last.
  gains = [0.1, 0.1, 0.15, 0.2, 0.2, 0.2]
  assert result['channels'][0]['worth'] == pytest.approx(np.mean(gains))
  assert [row['channels'] for row in result['best']] == ['R', 'RG', 'RGB']
  main.run('worth', [str(tmp_path / 'test.json')])
  assert '  R  15.83\n' in capsys.readouterr().out


def test_the_command_names_the_subsets_that_are_missing(tmp_path, capsys):
  path = write_scores(tmp_path / 'test.json', {key: SEVEN[key] for key in ('RGB', 'RB', 'R', 'G')})
  assert main.run('worth', [str(path)]) == 1
  said = capsys.readouterr().err
  assert "3 of the 8 subsets needed are missing: RG GB B; flaxnets worth with the run's folder" in said
  assert said.count('\n') == 1
  assert main.run('worth', [str(path), '--list']) == 0
  assert capsys.readouterr().out == 'all\n'


def test_twelve_bands_are_judged_on_the_subsets_that_the_command_lists(tmp_path, capsys):
  names = [f'B{number:02}' for number in range(1, 13)]
  path = write_scores(tmp_path / 'test.json', {','.join(names): 0.9}, names)
  assert main.run('worth', [str(path), '--orders=3']) == 1
  assert 'subsets needed are missing' in capsys.readouterr().err
  main.run('worth', [str(path), '--orders=3', '--list'])
  labels = capsys.readouterr().out.strip().split(';')
  assert labels[0] == ','.join(names) and 12 < len(labels) <= 34
  write_scores(path, {label: 0.6 + 0.02 * len(label.split(',')) for label in labels}, names)
  main.run('worth', [str(path), '--orders=3'])
  printed = capsys.readouterr().out
  assert printed.count('  2.00 +- 0.00\n') == 12 and '(3 sampled orders)' in printed
  assert f'of the {len(labels)} that were evaluated' in printed


def test_the_greedy_subsets_are_printed_as_such_where_all_candidates_are_known(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(worth, 'MAX_EXACT', 2)
  path = write_scores(tmp_path / 'test.json', {**SEVEN, 'GB': 0.85})
  assert main.run('worth', [str(path), '--greedy', '--orders=2']) == 0
  printed = capsys.readouterr().out
  best, greedy = printed.split('greedy subset of each size')
  assert '2   85.00%  GB' in best and '2   80.00%  RG' in greedy and 'not always the best' in greedy
  write_scores(path, {'RGB': 0.9, 'RG': 0.8, 'R': 0.7, 'RB': 0.8, 'B': 0.6, 'GB': 0.85})
  assert main.run('worth', [str(path), '--greedy', '--orders=2']) == 1
  assert 'are missing: ' in capsys.readouterr().err


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
def printed(devices_started, monkeypatch, capsys):
  """A function that gives what a command prints on stdout."""
  monkeypatch.setattr(evaluator, 'MAX_COMPILED', 0)
  judge._evaluator.cache_clear()

  def of(*words):
    assert main.run(words[0], list(map(str, words[1:]))) == 0
    return capsys.readouterr().out

  return of


def test_worth_of_another_split_root_or_step_comes_from_what_eval_with_the_same_flags_finds(trained, tmp_path, printed):
  for name in ('asked', 'evaluated'):
    shutil.copytree(trained / 'run', tmp_path / name)
  every = ['--split=other', f'--root={trained / "others.npz"}', '--step=0']
  found = [printed('worth', tmp_path / 'asked', '--json', *flags) for flags in ([], *([flag] for flag in every), every)]
  assert len(set(found)) == len(found)  # every flag changes the answer
  table = printed('eval', f'--workdir={tmp_path / "evaluated"}', '--subsets=all', *every)
  result = next(line for line in table.splitlines() if line.startswith('written to ')).removeprefix('written to ')
  assert found[-1] == printed('worth', result, '--json')
  name = pathlib.Path(result).name
  asked, evaluated = (json.loads((tmp_path / run / 'eval' / name).read_text()) for run in ('asked', 'evaluated'))
  assert len(asked['subsets']) == 7 and asked['subsets'] == evaluated['subsets']
  assert all(asked[key] == evaluated[key] for key in ('split', 'root', 'step', 'weights', 'examples'))


def test_worth_of_a_split_or_a_step_that_is_not_there_names_it(trained, printed, capsys):
  for flag, said in (('--split=gone', 'X_gone'), ('--step=7', 'no checkpoint of step 7; there are best, latest, 0, 1')):
    assert main.run('worth', [str(trained / 'run'), flag]) == 1
    assert said in capsys.readouterr().err
