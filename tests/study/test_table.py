"""The table of a study: rows, means over seeds, regrets, differences and costs."""

import json
import pathlib

import numpy as np
import pytest

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.analysis import comparison, results
from flaxnets.channels import ChannelSet
from flaxnets.models import cost
from flaxnets.study import runner, table, table_text
from flaxnets.study.folder import Study, note
from flaxnets.study.job import forward_macs
from flaxnets.study.plan import plan
from tests.study.made import pretend, table_of, two_steps


def test_a_table_names_its_split_and_not_where_its_file_lies(tmp_path):
  found = table.make_table(Study(plan(two_steps(), {'a': {}}), tmp_path, '/data/splits/tune.txt'))
  assert found['split'] == 'tune.txt'


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


def test_training_on_growing_images_is_charged_at_their_sizes(tmp_path, monkeypatch):
  def launch(job, log, locks=()):
    pretend(job)
    if not job['weights']:
      config = configs.from_json(job['config'])
      note(pathlib.Path(job['workdir']), training_macs=forward_macs(network(config), config))
    return 0, ''

  def network(config):
    return experiment.build_network(config, ChannelSet.of('RGB'), 12)

  runs = plan(
    two_steps(),
    {
      'growing': {'train.image_sizes': (8, 16)},
      'whole': {'train.image_sizes': (16,)},
      'again': {'weights': 'growing', 'model.completion': 'none'},
    },
  )
  wanted = Study(runs, tmp_path)
  monkeypatch.setattr(runner, 'launch', launch)
  assert runner.run_study(wanted) == 0
  rows = {row['name']: row for row in table_of(wanted)['rows']}
  small, large = (cost.macs(network(runs[0].config), (0, 1, 2), side)['macs'] for side in (8, 16))
  assert rows['growing']['training_macs'] == rows['again']['training_macs'] == 3 * 16 * (small + large)
  assert rows['whole']['training_macs'] == 3 * 32 * large


def test_a_split_without_one_of_the_channels_does_not_make_the_network_cheaper(tmp_path, monkeypatch):
  (run,) = plan(two_steps(), {'small': {'train.image_sizes': (8,)}})  # so that no training image is of image_size
  network = experiment.build_network(run.config, ChannelSet.of('RGB'), 12)
  full = cost.macs(network, (0, 1, 2), run.config.image_size)['macs']

  def launch(job, log, locks=()):
    pretend(job)
    folder = pathlib.Path(job['workdir'])
    path = folder / 'eval' / 'test.json'
    scores, arrays = json.loads(path.read_text()), dict(np.load(path.with_suffix('.npz')))
    for name in ('digest', 'digests'):
      scores.pop(name)
    path.unlink()
    kept = [row for row in scores['subsets'] if 'B' not in row['channels']]
    results.write(scores | {'subsets': kept}, arrays, folder)
    note(folder, training_macs=forward_macs(network, run.config))
    return 0, ''

  monkeypatch.setattr(runner, 'launch', launch)
  assert runner.run_study(Study([run], tmp_path)) == 0
  (row,) = table_of(Study([run], tmp_path))['rows']
  assert list(row['accuracy']) == ['RG', 'R', 'G']
  assert row['forward_macs'] == full


@pytest.mark.parametrize(
  ('right', 'said'), [(10, 'at most +- 27.8.'), (0, 'at most +- 27.8.'), (5, 'at most +- 26.3.')]
)
def test_no_interval_reaches_further_from_its_accuracy_than_the_table_says(right, said):
  hits = results.Hits(np.arange(10), np.zeros(10), {'R': np.array([1.0] * right + [0.0] * (10 - right))}, 'R')
  assert said in table_text.markdown(one_mean(hits))


def test_training_that_cost_less_than_a_tenth_of_a_tmac_is_not_said_to_be_free():
  hits = results.Hits(np.arange(2), np.zeros(2), {'R': np.array([1.0, 0.0])}, 'R')
  assert '| a | 1 | 1.0 | 32 | 0.0012 |' in table_text.markdown(one_mean(hits))


def one_mean(hits):
  """A table of one run with these hits."""
  row = {'run': 'a', 'seeds': [0], 'epochs': 1.0, 'images_seen': 32, 'training_macs': 1.23e9}
  means = [row | comparison.compared(hits, {}, None)]
  return {'split': 'test', 'examples': len(hits.ids), 'reference': 'a', 'rows': [], 'means': means}


def test_a_run_that_evaluates_the_weights_of_another_is_charged_the_training_of_that_one(tmp_path, monkeypatch):
  own = {'train.epochs': 9.0, 'train.batch_size': 8, 'presence.mode': 'full_and_random'}
  runs = plan(two_steps(), {'whole': {'presence.mode': 'pair'}, 'again': {'weights': 'whole', **own}})
  monkeypatch.setattr(runner, 'launch', lambda job, log, locks=(): (pretend(job), (0, ''))[1])
  assert runner.run_study(Study(runs, tmp_path)) == 0
  whole, again = table_of(Study(runs, tmp_path))['rows']
  costs = ('epochs', 'batch_size', 'passes', 'images_seen', 'training_macs')
  assert [again[key] for key in costs] == [whole[key] for key in costs]
  assert [whole[key] for key in costs] == [1, 16, 2, 32, 3 * 32 * 3000 * 2]


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
  assert '(1 of 7 subsets)' in text  # only R has an expert
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


def test_the_cost_of_a_run_is_the_mean_over_its_seeds(done):
  wanted, *_ = done
  (wanted.out / 'whole-seed1' / 'metrics.jsonl').write_text('{"step": 4}\n')
  mean = table.make_table(wanted)['means'][0]
  assert (mean['run'], mean['images_seen']) == ('whole', (2 + 4) / 2 * 16)
