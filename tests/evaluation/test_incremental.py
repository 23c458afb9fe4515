"""Evaluation in chunks that are written one by one, and the command that attributes accuracy to channels with it."""

import concurrent.futures
import json

import numpy as np
import pytest

import flaxnets
from flaxnets.analysis import results, worth
from flaxnets.cli import evaluate
from flaxnets.cli import main as cli
from flaxnets.errors import InputError
from flaxnets.evaluation import evaluator, incremental, judge
from flaxnets.evaluation.judge import SplitEvaluation
from flaxnets.training import loop
from tests.small import small_config

LABELS = ['RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  assert loop.run(small_config(**{'evaluate.subsets': 'RGB'}), workdir) == 0
  return workdir


@pytest.fixture
def run(trained, devices_started, monkeypatch):
  """The run without results, evaluated three subsets at a time by one function."""
  for path in (trained / 'eval').glob('*'):
    path.unlink()
  monkeypatch.setattr(incremental, 'CHUNK', 3)
  monkeypatch.setattr(evaluator, 'MAX_COMPILED', 2)
  judge._evaluator.cache_clear()  # of another file's test with the same network
  return trained


@pytest.fixture
def chunks(monkeypatch):
  """The labels of the subsets of each pass over the data from here on."""
  passes, evaluate_subsets = [], SplitEvaluation.evaluate

  def watched(self, subsets=None, **kwargs):
    passes.append([self.net.channels.label(subset) for subset in subsets])
    return evaluate_subsets(self, subsets, **kwargs)

  monkeypatch.setattr(SplitEvaluation, 'evaluate', watched)
  return passes


def evaluated(workdir):
  return [row['channels'] for row in json.loads((workdir / 'eval' / 'test.json').read_text())['subsets']]


def test_worth_of_a_run_evaluates_what_is_missing_and_resumes_after_an_interruption(run, chunks, capsys, monkeypatch):
  write = results.write

  def interrupted(*args):
    if len(chunks) == 2:
      raise KeyboardInterrupt
    return write(*args)

  monkeypatch.setattr(results, 'write', interrupted)
  with pytest.raises(KeyboardInterrupt):
    cli.run('worth', [str(run)])
  assert evaluated(run) == LABELS[:3]
  monkeypatch.setattr(results, 'write', write)
  assert cli.run('worth', [str(run)]) == 0
  assert chunks == [LABELS[:3], LABELS[3:6], LABELS[3:6], LABELS[6:]]
  assert evaluated(run) == LABELS
  said = capsys.readouterr()
  assert 'evaluating 4 subsets (3 already evaluated); compiling 1 function' in said.err
  assert said.out.startswith('accuracy ') and said.out.endswith(f'from {run / "eval" / "test.json"}\n')
  assert cli.run('worth', [str(run), '--json']) == 0
  again = capsys.readouterr()
  assert len(chunks) == 4 and 'evaluating' not in again.err
  assert [row['channel'] for row in json.loads(again.out)['channels']] == ['R', 'G', 'B']


def test_chunks_add_up_to_the_file_of_one_evaluation(run, monkeypatch):
  cli.run('worth', [str(run)])
  path = run / 'eval' / 'test.json'
  chunked, (_, hits) = json.loads(path.read_text()), results.read_hits(path)
  path.unlink()
  monkeypatch.setattr(evaluator, 'MAX_COMPILED', 32)
  assert evaluate.run(run, subsets='all') == 0
  at_once, (_, expected) = json.loads(path.read_text()), results.read_hits(path)
  # The digests are of the date, too, and of numbers that are equal up to rounding.
  differing = {'date': '', 'subsets': [], 'digest': '', 'digests': {}}
  assert {**chunked, **differing} == {**at_once, **differing}
  for row, other in zip(chunked['subsets'], at_once['subsets'], strict=True):
    assert row.keys() == other.keys() and row['macs'] == other['macs'] and row['flops'] == other['flops']
    assert (row['loss'], row['ece']) == pytest.approx((other['loss'], other['ece']), abs=1e-4)
    np.testing.assert_array_equal(hits.hits[row['channels']], expected.hits[row['channels']])


def test_an_evaluation_of_fewer_subsets_joins_the_fuller_file(run, capsys):
  evaluate.run(run, subsets='RGB;R')
  said = capsys.readouterr()
  assert 'evaluating 2 subsets; compiling 2 functions' in said.err
  assert said.out.splitlines()[-1] == f'next: flaxnets worth {run}'
  evaluate.run(run, subsets='G')
  assert evaluated(run) == ['RGB', 'R', 'G']
  best = flaxnets.load(run).step
  evaluate.run(run, subsets='B', step=str(5 - best))  # of the steps 2 and 3, the other
  assert evaluated(run) == ['B']
  assert (run / 'eval' / f'test-step{best}.json').exists()


def test_subsets_of_other_examples_are_evaluated_again(run, monkeypatch):
  evaluate.run(run, subsets='RGB')
  path = run / 'eval' / 'test.npz'
  with np.load(path) as stored:
    arrays = {**stored, 'id': np.char.add(stored['id'], 'x')}
  scores = json.loads(path.with_suffix('.json').read_text())
  path.unlink()
  path.with_suffix('.json').unlink()
  results.write({key: value for key, value in scores.items() if key != 'digest'}, arrays, run)
  net = flaxnets.load(run)
  incremental.evaluate_missing(SplitEvaluation(net, subsets='RGB;R'), run)
  assert evaluated(run) == ['RGB', 'R']
  assert (run / 'eval' / f'test-step{net.step}.json').exists()


def test_evaluations_at_the_same_time_keep_the_subsets_of_both(run):
  evaluation = SplitEvaluation(flaxnets.load(run), subsets='RGB;R')
  both = [evaluation.evaluate([subset]) for subset in evaluation.subsets]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(lambda result: results.write(*result, run), both))
  assert evaluated(run) == ['RGB', 'R']


def test_greedy_subsets_are_evaluated_as_they_are_needed(run, chunks, capsys, monkeypatch):
  monkeypatch.setattr(worth, 'MAX_EXACT', 2)
  monkeypatch.setattr(worth, '_sampled_subsets', lambda *_: [(0, 1, 2), (0, 1), (0,)])
  monkeypatch.setattr(worth, 'sampled_shapley', lambda *args, **kwargs: (np.zeros(3), np.zeros(3)))
  assert cli.run('worth', [str(run), '--greedy', '--json']) == 0
  result = json.loads(capsys.readouterr().out)
  assert chunks[:2] == [['RGB', 'RG', 'R'], ['G', 'B']]
  accuracy = {label: value for label, value in zip(evaluated(run), accuracies(run), strict=True)}
  first, second, third = (row['channels'] for row in result['greedy'])
  assert accuracy[first] == max(accuracy[label] for label in 'RGB')
  assert set(first) < set(second) and accuracy[second] == max(
    accuracy[pair] for pair in accuracy if set(first) < set(pair) < set('RGB')
  )
  assert third == 'RGB'


def accuracies(workdir):
  return [row['accuracy'] for row in json.loads((workdir / 'eval' / 'test.json').read_text())['subsets']]


def test_the_needed_subsets_of_a_run_are_listed_without_evaluating(run, chunks, capsys):
  assert cli.run('worth', [str(run), '--list']) == 0
  assert capsys.readouterr().out == 'all\n' and not chunks


def test_a_source_without_a_channel_that_is_needed_is_refused(run):
  net = flaxnets.load(run)
  net.channels = net.metadata.channels
  source = SplitEvaluation(net, subsets='R').source
  source.channels = flaxnets.ChannelSet(('R', 'G'))
  from flaxnets.evaluation import splits

  with pytest.raises(InputError, match='has no channel B; it has R, G'):
    splits.check_available(net, source, [(0, 1), (1, 2)])
