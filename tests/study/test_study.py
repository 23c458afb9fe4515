"""Several runs, one table: plans, and whole studies on the embedded data."""

import concurrent.futures
import functools
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.analysis import results
from flaxnets.augment.presence import PASSES
from flaxnets.channels import ChannelSet
from flaxnets.data import open as data_open
from flaxnets.data import splits
from flaxnets.errors import InputError
from flaxnets.models import cost
from flaxnets.nn.norms import NORMS
from flaxnets.nn.stem import Stem
from flaxnets.runtime import workdir
from flaxnets.study import runner, table
from flaxnets.study.folder import Study
from flaxnets.study.locks import run_lock, study_lock
from flaxnets.study.plan import chosen, plan, share
from tests.small import small_config

ROOT = pathlib.Path(__file__).parents[2]


def two_steps():
  """Two steps of 16 examples, all channels."""
  return small_config(
    **{
      'data.train': 'train[:32]',
      'data.validation': 'validation[:16]',
      'data.test': 'test[:40]',
      'train.batch_size': 16,
      'train.checkpoint_every': 1,
      'evaluate.every': 1000,
      'evaluate.batch_size': 40,
      'evaluate.subsets': 'RGB',
      'presence.mode': 'none',
    }
  )


IDS = np.array([f'image{number}' for number in range(100)])


# Plans.


def test_a_plan_has_a_run_for_each_seed_and_says_what_differs():
  runs = plan(two_steps(), {'a': {'train.epochs': 3, 'seed': (0, 1)}, 'b': {'weights': 'a', 'seed': 1}})
  assert [(run.name, run.stem, run.config.seed, run.weights) for run in runs] == [
    ('a', 'a', 0, ''),
    ('a-seed1', 'a', 1, ''),
    ('b-seed1', 'b', 1, 'a-seed1'),
  ]
  assert runs[1].changes == {'train.epochs': 3, 'seed': 1} and runs[1].config.train.epochs == 3.0
  assert [run.name for run in chosen(runs, 'a')] == ['a', 'a-seed1']
  assert [run.name for run in chosen(runs, '*-seed1')] == ['a-seed1', 'b-seed1']


@pytest.mark.parametrize(
  ('runs', 'said'),
  [
    ({'a': {'train.epoch': 3}}, "run 'a': .*epoch"),
    ({'a': {'train.epochs': 'many'}}, "run 'a': .*epochs"),
    ({'a/b': {}}, "run 'a/b': names must be unique and valid folder names"),
    ({'a': {'seed': (0, 0)}}, "run 'a': names must be unique and valid folder names"),
    ({'a': {'weights': 'b'}, 'b': {}}, "weights of 'b', which is not an earlier run that trains"),
    ({}, 'the study has no runs'),
  ],
)
def test_an_invalid_plan_is_an_error_that_names_the_run(runs, said):
  with pytest.raises(InputError, match=said):
    plan(two_steps(), runs)


def test_a_pattern_that_matches_no_run_is_an_error():
  with pytest.raises(InputError, match='--only=c is not a run; choose from a, b'):
    chosen(plan(two_steps(), {'a': {}, 'b': {}}), 'a,c')


def study_config(name):
  path = configs.path_of(name)
  return configs.named(name), runpy.run_path(str(path))['get_runs']()


def test_the_rgb_study_has_every_expert_and_trains_no_network_twice():
  runs = plan(*study_config('studies/rgb'))
  experts = [run for run in runs if run.config.train.subset]
  assert {run.config.train.subset for run in experts} == {'RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B'}
  assert all(run.config.model.stem == 'conv' and run.config.presence.mode == 'none' for run in experts)
  trained = [json.dumps(configs.to_json(run.config), sort_keys=True) for run in runs if not run.weights]
  assert len(trained) == len(set(trained))
  # Of equal budget, but for those whose names say what more they cost.
  passes = {run.name: run.config.train.epochs / 20 * PASSES[run.config.presence.mode] for run in runs}
  assert {name: factor for name, factor in passes.items() if factor != 1} == {
    'hierarchical-linear-x2': 2,
    'hierarchical-linear-x4': 4,
    'pair-x2': 2,
    'sandwich-x3': 3,
  }
  assert {run.config.image_size for run in runs} == {56}
  assert len({run.network for run in runs}) == 3


def test_a_table_names_its_split_and_not_where_its_file_lies(tmp_path):
  found = table.make_table(Study(plan(two_steps(), {'a': {}}), tmp_path, '/data/splits/tune.txt'))
  assert found['split'] == 'tune.txt'


def test_the_papers_tables_are_the_four_networks_of_their_folder():
  runs = plan(*study_config('imagenet_mini/tables'))
  names = ['resnet18_dynamic', 'resnet18', 'resattention', 'resnet34', 'resnet18_dynamic_drop']
  assert [run.name for run in runs] == names
  for run in runs[:4]:
    own = configs.named(f'imagenet_mini/{run.name}')
    assert not workdir.differences(configs.to_json(own), configs.to_json(run.config)), run.name


def test_images_held_out_for_tuning_are_as_many_of_each_class(tmp_path):
  lines = [f'images/{label}/a {number}.JPEG {label}' for number in range(9) for label in range(3)]
  (tmp_path / 'train.txt').write_text('\n'.join(lines) + '\n')
  splits.hold_out(tmp_path, tmp_path / 'splits', per_class=2)
  held, left = ((tmp_path / 'splits' / f'{name}.txt').read_text().splitlines() for name in ('tune', 'train_tune'))
  assert sorted(held + left) == sorted(lines) and left == [line for line in lines if line in left]
  assert [sum(line.endswith(f' {label}') for line in held) for label in range(3)] == [2, 2, 2]


# Studies whose jobs only pretend: they write the files of a run, with hits drawn at random.

RUNS = {
  'whole': {'model.completion': 'none', 'seed': (0, 1)},
  'linear': {'weights': 'whole', 'model.completion': 'linear'},
  'expert-R': {'model.stem': 'conv', 'model.completion': 'mean', 'train.subset': 'R', 'evaluate.subsets': 'all'},
  'broken': {'model.completion': 'cubic'},
  'needy': {'weights': 'broken'},
}
LABELS = ('RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B')


def pretend(job):
  folder = pathlib.Path(job['workdir'])
  (folder / 'config.json').write_text(json.dumps(job['config']))
  (folder / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 2}\n')
  random, label = np.random.default_rng(len(job['workdir'])), np.arange(40) % 2
  labels = [job['config']['train']['subset']] if job['subsets'] == 'full' else LABELS
  predicted = {f'prediction/{name}': np.where(random.random(40) < 0.7, label, 1 - label) for name in labels}
  rows = [
    {
      'channels': name,
      'accuracy': (predicted[f'prediction/{name}'] == label).mean(),
      'macs': 1000 * len(name),
      'params': 5,
    }
    for name in labels
  ]
  scores = {'split': job['split'], 'step': 2, 'recalibrated': False, 'channels': list(labels[0]), 'subsets': rows}
  results.write(scores, {'id': IDS[:40], 'label': label, **predicted}, folder)


@pytest.fixture
def done(tmp_path, monkeypatch):
  """A study that was cut in its second run, went on, and was asked a third time; with its exit codes and jobs."""
  wanted = Study(plan(two_steps(), RUNS), tmp_path)
  codes, jobs = [], []

  def launch(job, log, locks=()):
    jobs.append(pathlib.Path(job['workdir']).name)
    if len(jobs) == 2:
      return 75, 'stopped'
    if job['config']['model']['completion'] == 'cubic':
      return 1, "no completion 'cubic'"
    pretend(job)
    return 0, ''

  monkeypatch.setattr(runner, 'launch', launch)
  for _ in range(3):
    codes.append(runner.run_study(wanted))
    jobs.append(None)
  return wanted, codes, jobs


def table_of(wanted):
  return json.loads((wanted.out / 'table.json').read_text())


def test_a_study_goes_on_where_it_was_cut_and_does_again_only_what_failed(done):
  _, codes, jobs = done
  assert codes == [75, 1, 1]
  assert jobs == ['whole', 'linear', None, 'linear', 'expert-R', 'broken', 'whole-seed1', None, 'broken', None]


def test_a_study_says_how_much_there_is_to_do_and_where_its_table_is(done, capsys):
  wanted, *_ = done
  capsys.readouterr()
  runner.run_study(wanted, 'whole,linear')
  out = capsys.readouterr().out.splitlines()
  assert out[0] == f'3 runs in {wanted.out}, 3 already finished; each is trained and then evaluated on test'
  assert out[1:] == [
    '1 of 3, whole: already finished',
    '2 of 3, linear: already finished',
    '3 of 3, whole-seed1: already finished',
    f'table: {wanted.out / "table.md"}',
  ]


def test_the_rows_of_the_table_are_what_evaluation_wrote(done):
  wanted, *_ = done
  table = table_of(wanted)
  rows = {row['name']: row for row in table['rows']}
  assert (table['reference'], table['examples'], table['split']) == ('whole', 40, 'test')
  assert [row['status'] for row in table['rows']] == ['done'] * 4 + ['failed'] * 2
  assert rows['broken']['error'] == "no completion 'cubic'"
  assert rows['needy']['error'] == 'needs the weights of broken, which has not finished'
  for name in ('whole', 'whole-seed1', 'linear', 'expert-R'):
    scores = json.loads((wanted.out / name / 'eval' / 'test.json').read_text())
    row = rows[name]
    for subset in scores['subsets']:
      label = subset['channels']
      assert row['accuracy'][label] == pytest.approx(subset['accuracy'])
    assert row['images_seen'] == 32 and row['training_macs'] == 3 * scores['subsets'][0]['macs'] * 32
    assert row['mean_accuracy'] == pytest.approx(np.mean([subset['accuracy'] for subset in scores['subsets']]))
  assert len(rows['linear']['accuracy']) == 7 and list(rows['expert-R']['accuracy']) == ['R']
  assert rows['expert-R']['training_macs'] < rows['whole']['training_macs']


def test_training_on_growing_images_is_charged_at_their_sizes(tmp_path):
  runs = plan(
    two_steps(),
    {
      'growing': {'train.image_sizes': (8, 16)},
      'whole': {'train.image_sizes': (16,)},
      'again': {'weights': 'growing', 'model.completion': 'none'},
    },
  )
  wanted = Study(runs, tmp_path)
  assert runner.run_study(wanted) == 0
  rows = {row['name']: row for row in table_of(wanted)['rows']}
  scores = json.loads((tmp_path / 'growing' / 'eval' / 'test.json').read_text())
  model = experiment.build_network(runs[0].config, ChannelSet.of('RGB'), len(scores['classes']))
  small, large = (cost.macs(model, (0, 1, 2), side)['macs'] for side in (8, 16))
  assert rows['growing']['training_macs'] == rows['again']['training_macs'] == 3 * 16 * (small + large)
  assert rows['whole']['training_macs'] == 3 * 32 * large == 3 * 32 * scores['subsets'][0]['macs']


def test_regrets_and_differences_in_the_table_are_those_of_the_accuracies(done):
  wanted, *_ = done
  table = table_of(wanted)
  rows, means = ({row[key]: row for row in table[part]} for part, key in (('rows', 'name'), ('means', 'run')))
  expert = rows['expert-R']['accuracy']['R']
  assert rows['linear']['regret']['R'] == pytest.approx(expert - rows['linear']['accuracy']['R'])
  assert rows['linear']['regret']['RG'] is None and rows['expert-R']['mean_regret'] is None
  both = [rows[name]['accuracy']['G'] for name in ('whole', 'whole-seed1')]
  assert means['whole']['seeds'] == [0, 1] and means['whole']['accuracy']['G'] == pytest.approx(np.mean(both))
  assert means['linear']['difference']['G'] == pytest.approx(rows['linear']['accuracy']['G'] - np.mean(both))
  assert means['whole']['mean_difference'] is None
  text = (wanted.out / 'table.md').read_text()
  assert '| whole | 2 | 1.0 | 32 |' in text and '| broken | model.completion=cubic |' in text
  cells = [line.count('|') for line in text.splitlines() if line.startswith('| whole')]
  headers = [line.count('|') for line in text.splitlines() if line.startswith('| run')]
  assert len(headers) == 4 and set(cells) <= set(headers)


def test_a_folder_with_another_run_is_a_failure_in_its_row_and_not_in_the_others(done):
  wanted, *_ = done
  other = two_steps()
  other.train.learning_rate = 0.7
  changed = Study([*plan(other, {'whole': {}}), *wanted.runs[2:3]], wanted.out)
  row = table.make_table(changed)['rows'][0]
  assert row['status'] == 'failed' and 'train.learning_rate is 0.1 in its folder and 0.7 here' in row['error']


def test_a_run_whose_folder_holds_another_one_is_not_started_and_keeps_its_record(done, capsys):
  wanted, _, jobs = done
  other = two_steps()
  other.train.learning_rate = 0.7
  changed, before = Study(plan(other, {'whole': {}}), wanted.out), (wanted.out / 'whole' / 'study.json').read_bytes()
  assert runner.run_study(changed) == 1
  assert jobs[-1] is None and (wanted.out / 'whole' / 'study.json').read_bytes() == before
  said = capsys.readouterr().out
  assert 'whole: not started, its folder holds a different run' in said and 'train.learning_rate is 0.1 in its' in said


def test_a_run_that_was_evaluated_on_other_images_is_a_failure_in_its_row_alone(done):
  wanted, *_ = done
  path = wanted.out / 'linear' / 'eval' / 'test.npz'
  scores = json.loads(path.with_suffix('.json').read_text())
  arrays = dict(np.load(path))
  for name in ('digest', 'digests'):
    scores.pop(name, None)
  results.write(scores, arrays | {'id': arrays['id'][::-1]}, wanted.out / 'linear')
  rows = {row['name']: row for row in table.make_table(wanted)['rows']}
  assert rows['linear']['error'] == 'was evaluated on other images than whole; give all runs the same split'
  assert rows['whole']['status'] == rows['expert-R']['status'] == 'done'


def test_a_run_whose_result_is_corrupt_is_evaluated_again(done):
  wanted, _, jobs = done
  (wanted.out / 'linear' / 'eval' / 'test.npz').write_bytes(b'cut')
  runner.run_study(wanted, 'linear')
  assert jobs[-1] == 'linear' and wanted.finished(wanted.named('linear'))


def test_the_cost_of_a_run_is_the_mean_over_its_seeds(done):
  wanted, *_ = done
  (wanted.out / 'whole-seed1' / 'metrics.jsonl').write_text('{"step": 4}\n')
  mean = table.make_table(wanted)['means'][0]
  assert (mean['run'], mean['images_seen']) == ('whole', (2 + 4) / 2 * 16)


def test_asked_about_other_subsets_a_finished_run_is_judged_again(done):
  wanted, _, jobs = done
  runner.run_study(Study(wanted.runs, wanted.out, subsets='R'), 'whole,expert-R')
  assert jobs[-2:] == ['whole', 'whole-seed1']  # an expert has but its own


def test_a_plain_stem_is_in_training_on_all_channels_what_a_dynamic_one_is():
  images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3)) * 255
  outputs = []
  for kind, completion in (('conv', 'mean'), ('dynamic', 'linear')):
    stem = Stem(3, 8, functools.partial(NORMS['batch'], train=False), kind, completion, small_images=True)
    outputs.append(stem.apply(stem.init(jax.random.key(0), images), images))
  np.testing.assert_allclose(*outputs, rtol=1e-5)


def test_the_shares_of_a_study_are_disjoint_and_complete_and_weights_stay_with_their_run():
  runs = plan(two_steps(), RUNS | {'filled': {'weights': 'whole'}})
  shares = [share(runs, f'{index}/3') for index in (1, 2, 3)]
  assert sorted(run.name for part in shares for run in part) == sorted(run.name for run in runs)
  assert share(runs, '') == runs
  for part in shares:
    names = {run.name for run in part}
    assert all(run.weights in names for run in part if run.weights)
  assert share(runs, '9/9') == []


@pytest.mark.parametrize('text', ['0/4', '5/4', '1', 'a/b', '1/0', '-1/4', '1/4/2'])
def test_a_shard_that_is_no_share_is_refused(text):
  with pytest.raises(InputError, match='must be i/n with i from 1 to n'):
    share(plan(two_steps(), {'a': {}}), text)


def test_two_shards_that_run_at_once_do_every_run_once_and_the_last_table_has_all(tmp_path, monkeypatch):
  wanted = Study(plan(two_steps(), {f'run{number}': {} for number in range(5)}), tmp_path)
  jobs, both = [], threading.Barrier(2, timeout=60)

  def launch(job, log, locks=()):
    if len(jobs) < 2:
      both.wait()  # so that each has begun before either ends
    jobs.append(pathlib.Path(job['workdir']).name)
    pretend(job)
    return 0, ''

  monkeypatch.setattr(runner, 'launch', launch)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    codes = list(pool.map(lambda shard: runner.run_study(wanted, shard=shard), ('1/2', '2/2')))
  assert codes == [0, 0]
  assert sorted(jobs) == [run.name for run in wanted.runs]
  assert [row['status'] for row in table_of(wanted)['rows']] == ['done'] * 5


def test_a_run_that_another_shard_executes_is_left_to_it(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(runner, 'launch', lambda *_: pytest.fail('the run began twice'))
  wanted = Study(plan(two_steps(), {'a': {}}), tmp_path)
  with run_lock(tmp_path / 'a'):
    assert runner.run_study(wanted, shard='1/1') == 1
  assert 'a: another process is executing it' in capsys.readouterr().out


def test_a_second_study_in_a_folder_is_refused_unless_both_take_shares(tmp_path):
  wanted = Study(plan(two_steps(), {'a': {}}), tmp_path)
  with study_lock(tmp_path, shared=True), pytest.raises(InputError, match='is in use by process'):
    runner.run_study(wanted)
  with study_lock(tmp_path, shared=False), pytest.raises(InputError, match='is in use by process'):
    runner.run_study(wanted, shard='1/2')


def eleven_bands(tmp_path, **changes):
  """A config for an .npz of eleven bands, of which all subsets are too many."""
  random, arrays = np.random.default_rng(0), {'bands': np.array([f'B{number:02}' for number in range(11)])}
  for split, count in (('train', 32), ('val', 16), ('test', 16)):
    arrays |= {
      f'X_{split}': random.integers(0, 255, (count, 16, 16, 11), np.uint8),
      f'y_{split}': np.arange(count) % 2,
    }
  np.savez(tmp_path / 'bands.npz', **arrays)
  fields = {'source': 'arrays', 'root': str(tmp_path / 'bands.npz'), 'channels': ''}
  splits = {'train': 'train', 'validation': 'val', 'test': 'test'}
  config = two_steps()
  config.update_from_flattened_dict(
    {**{f'data.{key}': value for key, value in (fields | splits).items()}, 'evaluate.subsets': 'full;B00', **changes}
  )
  return config


@pytest.mark.parametrize(
  ('runs', 'options', 'said'),
  [
    ({'a': {}}, {'subsets': 'all'}, "run 'a': 'all' of 11 channels is 2,047 subsets"),
    ({'a': {}, 'b': {'evaluate.subsets': 'all'}}, {}, "run 'b': 'all' of 11 channels is 2,047 subsets"),
    ({'a': {}}, {'subsets': 'B12'}, "run 'a': no channel 'B12'"),
    ({'a': {}, 'b': {'train.subset': 'B55'}}, {}, "run 'b': no channel 'B55'"),
    ({'a': {}}, {'split': 'tset'}, "run 'a': .*tset"),
    ({'a': {'train.recalibrate': True}}, {}, "run 'a': train.recalibrate has no effect in a study"),
  ],
)
def test_a_mistake_in_any_runs_subsets_or_data_is_found_before_the_first_run_trains(
  tmp_path, monkeypatch, runs, options, said
):
  monkeypatch.setattr(runner, 'launch', lambda *_: pytest.fail('a run began'))
  wanted = Study(plan(eleven_bands(tmp_path), runs), tmp_path / 'out', **options)
  with pytest.raises(InputError, match=said):
    runner.run_study(wanted)


def test_eleven_bands_are_judged_on_the_configs_subsets_and_their_files_are_opened_once(tmp_path, monkeypatch):
  jobs, opened, open_source = [], [], data_open.open_source

  def launch(job, *_):
    jobs.append(job)
    return 1, 'not trained here'

  def counting(options, split, class_names=None):
    opened.append(split)
    return open_source(options, split, class_names)

  monkeypatch.setattr(runner, 'launch', launch)
  monkeypatch.setattr(data_open, 'open_source', counting)
  runs = {
    'a': {'seed': (0, 1)},
    'b': {'train.epochs': 2.0},
    'expert': {'train.subset': 'B03', 'evaluate.subsets': 'all'},
  }
  runner.run_study(Study(plan(eleven_bands(tmp_path), runs), tmp_path / 'out'))
  assert [job['subsets'] for job in jobs] == ['', '', 'full', '']  # '' is the config's, where all are too many
  assert sorted(opened) == ['test', 'train', 'val']


# The command, with processes of its own.

CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests.study import test_study

def get_config():
  return test_study.two_steps()

def get_runs():
  return {{
    'none': {{'model.completion': 'none'}},
    'linear': {{'weights': 'none'}},
  }}
"""


@pytest.mark.slow
def test_the_command_saves_when_told_to_stop_and_then_goes_on(tmp_path):
  config, out = tmp_path / 'config.py', tmp_path / 'out'
  config.write_text(CONFIG.format(root=str(ROOT)))
  command = [
    sys.executable,
    '-m',
    'flaxnets',
    'study',
    f'--config={config}',
    f'--out={out}',
    '--split=test[:8]',
    '--subsets=R',
    '--config.train.epochs=50',
    '--config.train.checkpoint_every=1000',
  ]
  environment, pipe = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1'}, subprocess.PIPE
  going = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)
  until, metrics = time.monotonic() + 120, out / 'none' / 'metrics.jsonl'
  while going.poll() is None and time.monotonic() < until and not (metrics.exists() and metrics.read_text()):
    time.sleep(0.02)
  going.send_signal(signal.SIGTERM)
  said = going.communicate(timeout=60)
  assert going.returncode == 75, said
  assert 'none: stopped; the same command resumes it' in said[1]
  stopped_at = [int(path.name) for path in (out / 'none' / 'checkpoints').iterdir() if path.name.isdecimal()]
  assert len(stopped_at) == 1 and stopped_at[0] < 100
  assert f'stopped at step {stopped_at[0]} of 100, saved' in (out / 'none' / 'log.txt').read_text()

  again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert again.returncode == 0, again.stdout + again.stderr
  rows = {row['name']: row for row in table_of(Study([], out))['rows']}
  for name, row in rows.items():
    scores = json.loads((out / name / 'eval' / 'test__8_.json').read_text())
    assert row['accuracy'] == {each['channels']: each['accuracy'] for each in scores['subsets']}
    for each in scores['subsets']:
      assert row['interval'][each['channels']] == pytest.approx([each['accuracy_low'], each['accuracy_high']])
    assert row['images_seen'] == 1600 and row['training_macs'] == 3 * scores['subsets'][0]['macs'] * 1600
    assert row['versions']['jax'] == jax.__version__ and row['seconds'] > 0 and row['device'].startswith('1 x ')
  arrays = {name: np.load(out / name / 'eval' / 'test__8_.npz') for name in rows}
  np.testing.assert_array_equal(arrays['none']['prediction/RGB'], arrays['linear']['prediction/RGB'])
  assert (arrays['none']['kernel/R'] != arrays['linear']['kernel/R']).any()
  assert not (out / 'linear' / 'checkpoints').exists()
