import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from flaxnets.analysis import worth
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.report import confusions, curves, examples, figures, plots, tables, words
from flaxnets.report.folders import Run, find
from flaxnets.report.gather import chosen, gather
from tests.report.made import begin_run, make_run

SECTIONS = ('curves', 'worth', 'confusions', 'calibration', 'kernels', 'channel_stats', 'examples')


def test_a_complete_run_has_data_for_every_section(tmp_path):
  make_run(tmp_path / 'run')
  run = gather([tmp_path / 'run'])['runs'][0]
  assert not [section for section in SECTIONS if 'absent' in run[section]]
  assert [row['channels'] for row in run['subsets']] == ['RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B']
  assert [row['size'] for row in run['subsets']] == [3, 2, 2, 2, 1, 1, 1]
  assert run['provenance']['device'] == '2 x cpu'


def test_the_report_is_plain_json(tmp_path):
  make_run(tmp_path / 'run')
  report = gather([str(tmp_path / 'run')])
  assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_run_that_is_going_on_says_how_far_it_is_and_how_to_evaluate_it(tmp_path):
  begin_run(tmp_path / 'run', steps=25)
  with (tmp_path / 'run' / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 26, "spl')  # being written
  run = gather([tmp_path / 'run'])['runs'][0]
  command = f'flaxnets eval --workdir={tmp_path / "run"}'
  assert 'at step 25, with a validation accuracy of 50.0 % at step 20' in run['summary'][1]
  assert command in run['summary'][1]
  assert all(run[section]['command'] == command for section in ('worth', 'calibration', 'kernels', 'examples'))
  assert run['curves']['validation']['subsets'] == {'RGB': [0.6, 0.6], 'R': [0.4, 0.4]}
  assert len(run['summary']) == 2  # nothing is said to be corrupt


def test_a_run_without_a_logged_step_can_be_reported(tmp_path):
  begin_run(tmp_path / 'run', steps=0)
  assert 'absent' in gather([tmp_path / 'run'])['runs'][0]['curves']


@pytest.mark.parametrize('made', [True, False])
def test_a_folder_without_a_run_is_an_error_that_names_it(tmp_path, made):
  folder = tmp_path / 'nothing'
  if made:
    folder.mkdir()
  with pytest.raises(InputError, match='nothing'):
    gather([str(folder)])


def test_a_corrupt_result_is_named_and_the_rest_is_shown(tmp_path):
  for name in ('good', 'bad'):
    make_run(tmp_path / 'study' / name)
  (tmp_path / 'study' / 'bad' / 'eval' / 'test.json').write_text('{"model": ')
  bad, good = gather([tmp_path / 'study'])['runs']
  assert good['evaluated'] and not bad['evaluated']
  assert 'test.json cannot be read' in ' '.join(bad['summary'])


def test_a_corrupt_npz_is_named_and_the_scores_are_shown(tmp_path):
  make_run(tmp_path / 'run')
  (tmp_path / 'run' / 'eval' / 'test.npz').write_bytes(b'PK corrupt')
  run = gather([tmp_path / 'run'])['runs'][0]
  assert 'test.npz cannot be read' in ' '.join(run['summary'])
  assert len(run['subsets']) == 7
  assert run['confusions']['subsets']['RGB']  # from the matrix in the JSON
  assert 'absent' in run['examples']


@pytest.mark.parametrize(('count', 'said'), [(1, '1 unreadable example'), (2, '2 unreadable examples')])
def test_the_summary_says_how_many_examples_the_evaluation_left_out(tmp_path, count, said):
  make_run(tmp_path / 'run', unreadable=count)
  assert f'The evaluation left out {said}.' in gather([tmp_path / 'run'])['runs'][0]['summary']


def test_the_result_test_is_shown_or_the_one_that_is_asked_for(tmp_path):
  make_run(tmp_path / 'run')
  other = json.loads((tmp_path / 'run' / 'eval' / 'test.json').read_text())
  (tmp_path / 'run' / 'eval' / 'newer.json').write_text(json.dumps({**other, 'date': '2026-09-09', 'step': 7}))
  first, second = (find([tmp_path / 'run'], name)[0][0] for name in ('', 'newer'))
  assert (first.scores['step'], first.others) == (100, ['newer'])
  assert (second.scores['step'], second.others) == (7, ['test'])
  assert "no result 'none'" in find([tmp_path / 'run'], 'none')[0][0].problems[0]


def test_what_a_killed_evaluation_left_behind_is_not_a_result(tmp_path):
  make_run(tmp_path / 'run')
  (tmp_path / 'run' / 'eval' / '.0123456789abcdef.test.json').write_text('{"model": ')
  run = find([tmp_path / 'run'])[0][0]
  assert run.problems == run.others == []


def test_runs_of_one_name_are_told_apart(tmp_path):
  for study in ('one', 'two'):
    begin_run(tmp_path / study / 'run')
  assert [run.name for run in find([tmp_path / 'one', tmp_path / 'two'])[0]] == ['one/run', 'two/run']


def test_differences_are_paired_and_regret_is_the_expert_minus_the_run(tmp_path):
  ours = make_run(tmp_path / 'ours', seed=1)
  other = make_run(tmp_path / 'other', seed=2)
  expert = make_run(tmp_path / 'expert', seed=3, names='R', config={'train.subset': 'R'})
  report = gather([tmp_path / name for name in ('ours', 'other', 'expert')])
  accuracy = {
    name: np.mean(arrays['prediction/R'] == arrays['label'])
    for name, arrays in (('ours', ours), ('other', other), ('expert', expert))
  }
  rows = {run['name']: {row['channels']: row for row in run['subsets']} for run in report['runs']}
  assert report['comparison']['reference'] == 'ours'
  assert rows['other']['R']['difference'] == pytest.approx(accuracy['other'] - accuracy['ours'])
  assert rows['ours']['R']['difference'] is None
  assert rows['ours']['R']['regret'] == pytest.approx(accuracy['expert'] - accuracy['ours'])
  assert rows['ours']['RG']['regret'] is None
  low, high = rows['other']['R']['difference_interval']
  assert low < rows['other']['R']['difference'] < high


def test_a_mean_over_some_of_the_subsets_alone_says_so(tmp_path):
  make_run(tmp_path / 'few', subsets='RGB;R')
  make_run(tmp_path / 'all', seed=1)
  make_run(tmp_path / 'expert', names=('R', 'G'), subsets='RG', seed=2, config={'train.subset': 'RG'})
  (table,) = tables.of_comparison(gather([tmp_path / 'few', tmp_path / 'all', tmp_path / 'expert']))
  few, every, _ = ([cell.text.partition(' ')[2] for cell in row[3:5]] for row in table.rows)
  assert few == ['', ''] and every == ['(2 of 7 subsets)', '(1 of 7 subsets)']


def test_the_reference_can_be_chosen_and_a_wrong_one_is_named(tmp_path):
  for name in ('one', 'two'):
    make_run(tmp_path / name)
  folders = [tmp_path / 'one', tmp_path / 'two']
  assert gather(folders, against='two')['comparison']['reference'] == 'two'
  with pytest.raises(InputError, match='--against=three'):
    gather(folders, against='three')


def test_runs_on_other_images_are_not_compared_but_named(tmp_path):
  make_run(tmp_path / 'one')
  make_run(tmp_path / 'two')
  make_run(tmp_path / 'other', examples=30)
  folders = [tmp_path / name for name in ('one', 'two', 'other')]
  assert gather(folders)['comparison']['left_out'] == ['other']
  assert 'absent' in gather(folders[1:])['comparison']


def test_configs_are_compared_field_by_field(tmp_path):
  begin_run(tmp_path / 'one')
  begin_run(tmp_path / 'two', config={'model.width': 32})
  assert gather([tmp_path / 'one', tmp_path / 'two'])['config_differences'] == {'model.width': {'one': 16, 'two': 32}}


def test_worths_that_lack_subsets_name_the_command(tmp_path):
  make_run(tmp_path / 'run', subsets='RGB;R')
  found = gather([tmp_path / 'run'])['runs'][0]['worth']
  assert 'subsets' in found['absent'] and '$(flaxnets worth --list' in found['command']


def test_a_study_is_its_table_and_its_runs_in_the_tables_order(tmp_path):
  for name in ('a', 'b'):
    begin_run(tmp_path / 'study' / name)
  table = {'rows': [{'name': 'b'}, {'name': 'a'}], 'means': [], 'reference': 'b'}
  (tmp_path / 'study' / 'table.json').write_text(json.dumps(table))
  report = gather([tmp_path / 'study'])
  assert [run['name'] for run in report['runs']] == ['b', 'a']
  assert report['studies'][0]['table'] == table


def test_confusions_agree_with_scikit_learn(tmp_path):
  arrays = make_run(tmp_path / 'run', classes='abcde', examples=200)
  found = gather([tmp_path / 'run'])['runs'][0]['confusions']
  truth, predicted = arrays['label'], arrays['prediction/RG']
  subset = found['subsets']['RG']
  matrix = confusion_matrix(truth, predicted)
  np.testing.assert_array_equal(np.reshape(subset['matrix'], (5, 5)), matrix)
  precision, recall, _, support = precision_recall_fscore_support(truth, predicted)
  np.testing.assert_allclose(np.divide(subset['hits'], found['examples']), recall)
  np.testing.assert_allclose(np.divide(subset['hits'], subset['predicted']), precision)
  np.testing.assert_array_equal(found['examples'], support)
  wrong = matrix - np.diag(matrix.diagonal())
  assert subset['worst'][0][2] == wrong.max() and len(subset['worst']) == min((wrong > 0).sum(), confusions.WORST)
  np.testing.assert_array_equal(subset['taken'], wrong.max(axis=1))


def test_many_classes_are_summed_over_blocks():
  random = np.random.default_rng(0)
  truth, predicted = random.integers(250, size=(2, 5000))
  matrix = confusion_matrix(truth, predicted, labels=range(250))
  cells = confusions.Cells(*np.nonzero(matrix), matrix[np.nonzero(matrix)])
  found = confusions.of_subset(cells, classes=250, bins=50, per_class=False)
  np.testing.assert_array_equal(np.reshape(found['matrix'], (50, 50)), matrix.reshape(50, 5, 50, 5).sum(axis=(1, 3)))
  uneven = confusions.of_subset(cells, classes=250, bins=100, per_class=False)
  assert len(uneven['matrix']) == 84**2 and sum(uneven['matrix']) == 5000  # 83 blocks of 3 classes and one of 1


def test_matrices_shrink_and_class_tables_end_before_the_page_grows_too_large():
  assert confusions.bins_of([1000], [127]) == [100]
  assert max(confusions.bins_of([1000] * 20, [127] * 20)) < 50
  assert confusions.with_classes([1000] * 5, [127] * 5) == [True, True, True, False, False]


def test_a_long_run_is_thinned_to_means_that_end_where_it_ends():
  metrics = [{'step': step, 'split': 'train', 'loss': float(step), 'accuracy': None} for step in range(1, 9_001)]
  found = curves.of(metrics)['train']
  assert len(found['step']) == curves.POINTS and found['step'][-1] == 9_000
  assert np.mean(found['loss']) == pytest.approx(np.mean([line['loss'] for line in metrics]))
  assert set(found['accuracy']) == {None}


def test_a_point_of_a_thinned_curve_is_the_mean_over_its_steps_however_many_a_line_stands_for():
  # A validation at step 60, 120 and so on cuts the lines of 50 steps into shorter ones, and skipped steps have no loss.
  steps = sorted({*range(50, 30_001, 50), *range(60, 30_001, 60)})
  random = np.random.default_rng(0)
  lengths, losses = np.diff([0, *steps]), random.random(len(steps))
  skipped = np.cumsum(random.integers(0, lengths))
  metrics = [
    {'step': step, 'split': 'train', 'loss': loss, 'skipped_steps': int(before)}
    for step, loss, before in zip(steps, losses, skipped, strict=True)
  ]
  found = curves.of(metrics)['train']
  of_step = np.repeat(losses, lengths - np.diff([0, *skipped]))
  ends = np.array(steps) - skipped
  begin = 0
  for step, loss in zip(found['step'], found['loss'], strict=True):
    end = ends[steps.index(step)]
    assert loss == pytest.approx(of_step[begin:end].mean())
    begin = end


def test_the_summary_of_a_study_says_how_many_subsets_a_mean_regret_is_over(tmp_path):
  begin_run(tmp_path / 'study' / 'a')
  row = {'run': 'a', 'accuracy': {'RG': 0.5, 'R': 0.3, 'G': 0.4}, 'mean_accuracy': 0.4, 'mean_regret': 0.1}
  row['regret'] = {'RG': None, 'R': 0.1, 'G': None}
  for key in ('interval', 'regret_interval'):
    row[key] = {label: None for label in row['accuracy']}
  table = {'rows': [{'name': 'a', 'status': 'done'}], 'means': [row | {'mean_difference': None}], 'reference': 'a'}
  (tmp_path / 'study' / 'table.json').write_text(json.dumps(table))
  (said, *_) = gather([tmp_path / 'study'])['summary']
  assert 'with 40.0 % and a mean regret of 10.0 points over 1 subset with an expert.' in said


def test_the_subsets_shown_are_the_largest_and_the_worst_of_each_size():
  rows = [{'channels': name, 'accuracy': share} for name, share in zip('abcdefg', (9, 5, 4, 6, 2, 1, 3), strict=True)]
  assert chosen(rows, (3, 2, 2, 2, 1, 1, 1), 3) == ['a', 'c', 'f']
  assert chosen(rows, (3, 2, 2, 2, 1, 1, 1), 5) == ['a', 'b', 'c', 'd', 'f']


def test_images_are_right_on_one_subset_and_wrong_on_the_other(tmp_path):
  arrays = make_run(tmp_path / 'run', examples=200)
  images = gather([tmp_path / 'run'])['runs'][0]['examples']['images']
  assert len(images) > 4 and len({image['id'] for image in images}) == len(images)
  for image in images:
    place = int(image['id'])
    assert arrays[f'prediction/{image["right"]}'][place] == arrays['label'][place]
    assert arrays[f'prediction/{image["wrong"]}'][place] != arrays['label'][place]


def make_arrays(folder, names, examples=60):
  images = np.random.default_rng(0).integers(0, 255, (examples, 20, 24, len(names)), np.uint8)
  np.savez(folder / 'data.npz', X_test=images, y_test=np.arange(examples) % 3, bands=np.array(names))
  return images


def test_images_of_arrays_are_shown_and_their_channels_measured(tmp_path):
  names = ('B04', 'B03', 'B02', 'B08')
  images = make_arrays(tmp_path, names)
  config = {'data.source': 'arrays', 'data.root': 'moved', 'data.channels': '', 'data.test': 'test'}
  make_run(tmp_path / 'run', names=names, config=config, root=str(tmp_path / 'data.npz'))
  run = gather([tmp_path / 'run'])['runs'][0]
  shown = run['examples']['images'][0]['pictures']
  assert [picture['name'] for picture in shown] == ['B04B03B02', *names]
  stats = run['channel_stats']
  assert stats['images'] == 60
  np.testing.assert_allclose(stats['mean'], images.mean(axis=(0, 1, 2)))
  np.testing.assert_allclose(stats['correlation'], np.corrcoef(images.reshape(-1, 4).T), atol=1e-6)


def test_images_of_a_folder_are_shown(tmp_path):
  names = []
  for place in range(60):
    path = tmp_path / 'data' / 'test' / ('cat', 'dog', 'owl')[place % 3] / f'{place:03}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((30, 30, 3), place, np.uint8)).save(path)
  config = {'data.source': 'folders', 'data.root': str(tmp_path / 'data'), 'data.test': 'test'}
  make_run(tmp_path / 'run', config=config)
  run = find([tmp_path / 'run'])[0][0]
  source = examples.open_images(run)
  names = list(source.ids)
  run.arrays['id'] = np.array(names)
  picked = examples.pick(run, ['RGB', 'R'])
  examples.add_pictures(picked, source)
  assert picked and all([shown['name'] for shown in image['pictures']] == ['RGB', 'R', 'G', 'B'] for image in picked)
  assert examples.measured_statistics(source, ChannelSet.of('RGB'))['images'] == 60


def test_images_that_are_gone_are_named_with_the_flag_that_helps(tmp_path):
  make_run(tmp_path / 'run', config={'data.source': 'folders', 'data.root': str(tmp_path / 'gone')})
  run = gather([tmp_path / 'run'])['runs'][0]
  assert 'gone' in run['examples']['absent'] and run['examples']['command'].endswith('--root=FOLDER')
  assert run['examples']['images']  # their names and predictions
  assert 'absent' in run['channel_stats']


def test_stored_channel_statistics_go_before_measured_ones(tmp_path):
  stored = {'mean': [1.0] * 3, 'std': [2.0] * 3, 'correlation': np.eye(3).tolist()}
  make_run(tmp_path / 'run', channel_stats=stored)
  assert gather([tmp_path / 'run'])['runs'][0]['channel_stats'] == {**stored, 'images': None}


def test_channels_of_a_network_without_a_stored_correlation_are_measured(tmp_path):
  make_run(tmp_path / 'run', channel_stats={'mean': [1.0] * 3, 'std': [2.0] * 3, 'correlation': None})
  found = gather([tmp_path / 'run'])['runs'][0]['channel_stats']
  assert found['images'] > 0 and np.shape(found['correlation']) == (3, 3) and found['mean'] != [1.0] * 3


def test_worths_of_more_than_ten_channels_are_sampled_with_their_errors(tmp_path):
  names = 'ABCDEFGHIJK'
  needed = ';'.join(map(ChannelSet(tuple(names)).label, worth.subsets_wanted(11)))
  make_run(tmp_path / 'run', names=names, subsets=needed)
  report = gather([tmp_path / 'run'])
  found = report['runs'][0]['worth']
  assert not found['exact'] and all(row['standard_error'] > 0 for row in found['channels'])
  assert sum(row['worth'] for row in found['channels']) == pytest.approx(found['full'] - found['none'])
  assert 'that were evaluated' in tables.of_worth(report['runs'][0]).caption
  assert figures.svg(plots.of_report(report)['worth'][0])


def test_the_command_of_an_evaluation_names_what_the_result_says_was_evaluated(tmp_path):
  run = Run('run', tmp_path / 'run', config={'data': {'root': '/data/mine'}})
  run.scores = {'split': 'test', 'root': '/data/mine', 'step': 7}
  assert words.evaluate_command(run) == f'flaxnets eval --workdir={tmp_path / "run"} --step=7'
  run.scores = {'split': 'other.txt', 'root': '/data/theirs', 'step': 7, 'completion': 'unit'}
  assert words.evaluate_command(run, 'all') == (
    f'flaxnets eval --workdir={tmp_path / "run"} --split=other.txt --root=/data/theirs --step=7 --completion=unit '
    '--subsets=all'
  )
  run.scores = {'step': 7, 'completion': 'unit; true'}
  assert words.evaluate_command(run).endswith(" --completion='unit; true'")
