"""Result files: where they lie, what is merged into them, and what they never replace."""

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from flaxnets.analysis import comparison, metrics, results
from flaxnets.analysis.result_names import file_stem, result_path
from flaxnets.errors import InputError

IDS = np.array([f'image{number}' for number in range(12)])
LABELS = np.arange(12) % 3


@pytest.fixture
def folder(tmp_path):
  """A run whose config has its data in /data/photos."""
  (tmp_path / 'config.json').write_text(json.dumps({'data': {'root': '/data/photos'}}))
  return tmp_path


def write(folder, *labels, accuracy=0.5, ids=IDS, **identity):
  """Writes a result of some subsets of R, G, B; `accuracy` marks which evaluation the rows are from."""
  scores = {
    'split': 'test',
    'root': '/data/photos',
    'step': 3,
    'recalibrated': False,
    'weights': 'w',
    'commit': 'c',
    'versions': {'jax': '1'},
    'channels': ['R', 'G', 'B'],
    'classes': ['a', 'b', 'c'],
    **identity,
    'subsets': [{'channels': label, 'accuracy': accuracy} for label in labels],
  }
  arrays = {'id': ids, 'label': LABELS[: len(ids)]}
  for label in labels:
    arrays[f'prediction/{label}'] = np.full(len(ids), len(label))
    arrays[f'kernel/{label}'] = np.full((1, 1, len(label), 2), accuracy)
  return results.write(scores, arrays, folder)


def rows(path):
  return {row['channels']: row['accuracy'] for row in json.loads(path.read_text())['subsets']}


def files(folder):
  return sorted(path.name for path in (folder / 'eval').iterdir())


def test_a_result_is_named_after_its_split_and_after_a_root_other_than_the_configs(folder):
  assert write(folder, 'RGB').name == 'test.json'
  assert write(folder, 'RGB', root='/elsewhere/tiles.npz').name == 'test-tiles.json'
  assert write(folder, 'RGB', recalibrated=True).name == 'test-recalibrated.json'
  assert write(folder, 'RGB', split='val.txt').name == 'val.json'
  assert write(folder, 'RGB', completion='unit').name == 'test-unit.json'
  assert len(files(folder)) == 10


def test_the_result_of_another_completion_is_another_evaluation(folder):
  own, switched = write(folder, 'RGB', accuracy=0.1), write(folder, 'R', accuracy=0.2, completion='unit')
  assert rows(own) == {'RGB': 0.1} and rows(switched) == {'R': 0.2}
  identity = json.loads(switched.read_text())
  assert results.labels_done(folder, identity) == {'R'}
  assert results.labels_done(folder, {**identity, 'completion': None}) == {'RGB'}


def test_subsets_evaluated_later_join_those_before_larger_ones_first(folder):
  write(folder, 'RG', 'R', accuracy=0.1)
  path = write(folder, 'RGB', 'R', accuracy=0.2)
  assert list(rows(path).items()) == [('RGB', 0.2), ('RG', 0.1), ('R', 0.2)]
  with np.load(path.with_suffix('.npz')) as arrays:
    assert {name for name in arrays if '/' in name} == {
      f'{kind}/{label}' for kind in ('prediction', 'kernel') for label in ('RGB', 'RG', 'R')
    }
    assert arrays['kernel/R'][0, 0, 0, 0] == 0.2 and arrays['kernel/RG'][0, 0, 0, 0] == 0.1
  assert files(folder) == ['test.json', 'test.npz']


@pytest.mark.parametrize(
  'change',
  [
    {'step': 9},
    {'weights': 'other'},
    {'commit': 'other'},
    {'versions': {'jax': '2'}},
    {'recalibration': {'images': 9}},
    {'ids': IDS[:9]},
  ],
  ids=lambda change: next(iter(change)),
)
def test_another_evaluation_of_the_same_data_keeps_the_older_file_under_its_step(folder, change):
  write(folder, 'RGB', 'R', accuracy=0.1)
  path = write(folder, 'RGB', accuracy=0.2, **change)
  assert path.name == 'test.json' and rows(path) == {'RGB': 0.2}
  assert rows(folder / 'eval' / 'test-step3.json') == {'RGB': 0.1, 'R': 0.1}
  assert len(results.read_hits(folder / 'eval' / 'test-step3.json')[1].ids) == 12
  write(folder, 'G', accuracy=0.3)
  assert len(files(folder)) == 6  # nothing is ever replaced
  assert rows(path) == {'G': 0.3} and rows(folder / 'eval' / 'test-step3.json') == {'RGB': 0.1, 'R': 0.1}


def test_a_taken_name_of_an_older_step_gets_a_number(folder):
  for step in (3, 9, 3, 9):
    path = write(folder, 'RGB', step=step)
  assert json.loads(path.read_text())['step'] == 9
  assert [name for name in files(folder) if name.endswith('.json')] == [
    'test-step3-2.json',
    'test-step3.json',
    'test-step9.json',
    'test.json',
  ]


def test_other_roots_and_splits_of_the_same_name_get_a_number_and_are_found_again(folder):
  first = write(folder, 'RGB', root='/a/tiles', accuracy=0.1)
  second = write(folder, 'RGB', root='/b/tiles', accuracy=0.2)
  assert (first.name, second.name) == ('test-tiles.json', 'test-tiles-2.json')
  assert write(folder, 'R', root='/b/tiles', accuracy=0.3) == second
  assert rows(first) == {'RGB': 0.1} and rows(second) == {'RGB': 0.2, 'R': 0.3}
  assert write(folder, 'RGB', split='/lists/val.txt').name == 'val.json'
  assert write(folder, 'RGB', split='/other/val.txt').name == 'val-2.json'
  for root, path in (('/a/tiles', first), ('/b/tiles', second)):
    assert result_path(folder, {'split': 'test', 'root': root}) == path
  assert result_path(folder, {'split': 'test'}) == folder / 'eval' / 'test.json'  # not yet written


def test_a_relative_root_of_a_config_is_found_from_any_folder(tmp_path, monkeypatch):
  (tmp_path / 'config.json').write_text(json.dumps({'data': {'root': 'data/photos'}}))
  path = write(tmp_path, 'RGB', root='/home/me/data/photos')
  monkeypatch.chdir(tmp_path)
  assert path.name == 'test.json' and result_path(tmp_path, {'split': 'test'}) == path
  assert write(tmp_path, 'RGB', root='/home/you/data/photos').name == 'test-2.json'


def test_a_root_beside_the_configs_that_has_its_last_parts_is_another_root(tmp_path, monkeypatch):
  for folder in ('here/data/photos', 'there/data/photos', 'run'):
    (tmp_path / folder).mkdir(parents=True)
  monkeypatch.chdir(tmp_path / 'here')
  (tmp_path / 'run' / 'config.json').write_text(json.dumps({'data': {'root': 'data/photos'}}))
  assert write(tmp_path / 'run', 'RGB', root=str(tmp_path / 'there' / 'data' / 'photos')).name == 'test-photos.json'
  own = write(tmp_path / 'run', 'RGB', root=str(tmp_path / 'here' / 'data' / 'photos'))
  assert own.name == 'test.json'
  (tmp_path / 'here').rename(tmp_path / 'moved')  # with its data: results of the place before are still its own
  monkeypatch.chdir(tmp_path / 'moved')
  assert result_path(tmp_path / 'run', {'split': 'test'}) == own


def test_a_file_of_an_earlier_version_is_that_of_the_configs_root_and_is_kept(folder):
  (folder / 'eval').mkdir()
  for name in ('test', 'test-tiles'):
    old = {'split': 'test', 'step': 3, 'subsets': [{'channels': 'RGB', 'accuracy': 0.1}]}
    (folder / 'eval' / f'{name}.json').write_text(json.dumps(old))
  assert result_path(folder, {'split': 'test'}).name == 'test.json'
  assert write(folder, 'R').name == 'test.json'
  assert rows(folder / 'eval' / 'test-step3.json') == {'RGB': 0.1}
  assert write(folder, 'R', root='/a/tiles').name == 'test-tiles-2.json'


def test_a_corrupt_file_is_replaced_and_one_without_its_arrays_is_kept(folder):
  path = write(folder, 'RGB', accuracy=0.1)
  path.write_text('{"spl')
  assert rows(write(folder, 'R', accuracy=0.2)) == {'R': 0.2}
  path.with_suffix('.npz').write_bytes(b'PK\x03\x04 cut')
  assert rows(write(folder, 'G', accuracy=0.3)) == {'G': 0.3}
  assert rows(folder / 'eval' / 'test-step3.json') == {'R': 0.2}


def test_a_write_that_fails_leaves_the_older_result(folder, monkeypatch):
  path = write(folder, 'RGB', accuracy=0.1)

  def fail(file, **arrays):
    file.write_bytes(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(results.np, 'savez_compressed', fail)
  with pytest.raises(OSError, match='No space left'):
    write(folder, 'R', accuracy=0.2)
  monkeypatch.undo()
  assert files(folder) == ['test.json', 'test.npz']
  assert rows(path) == {'RGB': 0.1} and list(results.read_hits(path)[1].hits) == ['RGB']


def test_the_subsets_done_are_those_of_the_very_same_evaluation(folder):
  identity = json.loads(write(folder, 'RG', 'R').read_text())
  assert results.labels_done(folder, identity) == {'RG', 'R'}
  assert results.labels_done(folder, {**identity, 'commit': 'other'}) == set()
  assert results.labels_done(folder, {**identity, 'root': '/a/tiles'}) == set()
  (folder / 'eval' / 'test.npz').unlink()
  assert results.labels_done(folder, identity) == set()


@pytest.mark.parametrize('in_json', [True, False])
def test_a_confusion_matrix_is_read_from_the_json_or_counted_from_the_predictions(tmp_path, in_json):
  rng = np.random.default_rng(0)
  label, predicted = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
  expected = sklearn_metrics.confusion_matrix(label, predicted, labels=range(6))
  row = {'channels': 'RG', 'accuracy': 0.2} | ({'confusion': expected.tolist()} if in_json else {})
  scores = {'split': 'test', 'channels': list('RG'), 'classes': list('abcdef'), 'subsets': [row]}
  path = results.write(scores, {'id': np.arange(200), 'label': label, 'prediction/RG': predicted}, tmp_path)
  np.testing.assert_array_equal(results.confusion(path, 'RG'), expected)
  channels, accuracy = results.read_accuracies(path)
  assert channels.names == ('R', 'G') and accuracy == {(): np.bincount(label).max() / 200, (0, 1): 0.2}
  with pytest.raises(InputError, match=r"test\.json has no subset 'R'; it has RG"):
    results.confusion(path, 'R')
  if not in_json:
    path.with_suffix('.npz').unlink()
    with pytest.raises(InputError, match=r'test\.json or the \.npz beside it cannot be read'):
      results.confusion(path, 'RG')
    with pytest.raises(InputError, match=r'test\.npz cannot be read'):
      results.read_accuracies(path)


def test_a_confusion_matrix_has_a_row_and_column_for_every_class():
  rng = np.random.default_rng(1)
  label, predicted = rng.integers(0, 4, 50), rng.integers(0, 7, 50)
  np.testing.assert_array_equal(
    metrics.confusion_matrix(label, predicted, 9),
    sklearn_metrics.confusion_matrix(label, predicted, labels=range(9)),
  )


@pytest.mark.parametrize(
  ('split', 'name'),
  [
    ('test', 'test'),
    ('test5k.txt', 'test5k'),
    ('site1/test', 'site1_test'),
    ('test.v1', 'test.v1'),
    ('test.npz', 'test'),
    ('/data/splits/tune.txt', 'tune'),
    ('train[90%:]', 'train_90___'),
  ],
)
def test_scores_of_different_splits_lie_in_different_files(split, name):
  assert file_stem(split) == name


def scores_at(path, channels, label, predictions, truth):
  scores = {'channels': channels, 'classes': ['a', 'b'], 'subsets': [{'channels': label}]}
  path.write_text(json.dumps(scores))
  np.savez(path.with_suffix('.npz'), id=np.arange(len(truth)), label=truth, **{f'prediction/{label}': predictions})


def test_an_expert_among_longer_names_is_found_by_its_channels(tmp_path):
  truth = np.zeros(100, int)
  scores_at(tmp_path / 'ours.json', ['R', 'G', 'NIR'], 'R,G', truth, truth)
  scores_at(tmp_path / 'expert.json', ['R', 'G'], 'RG', truth, truth)
  (_, ours), (_, expert) = (results.read_hits(tmp_path / f'{name}.json') for name in ('ours', 'expert'))
  assert comparison.compared(ours, {label: expert for label in expert.hits}, None)['regret'] == {'RG': 0.0}


@pytest.mark.parametrize('damage', [b'', b'PK\x03\x04 cut'])
def test_a_corrupt_file_beside_the_scores_is_said_by_name(tmp_path, damage):
  scores_at(tmp_path / 'test.json', ['R'], 'R', np.zeros(100), np.zeros(100))
  (tmp_path / 'test.npz').write_bytes(damage)
  with pytest.raises(InputError, match=r'test\.json or the \.npz beside it cannot be read'):
    results.read_hits(tmp_path / 'test.json')
