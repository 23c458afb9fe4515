"""What a study runs, leaves, repeats and refuses."""

import concurrent.futures
import errno
import fcntl
import os
import pathlib
import shutil
import threading

import pytest

from flaxnets.data import open as data_open
from flaxnets.errors import InputError
from flaxnets.study import runner
from flaxnets.study.folder import Study
from flaxnets.study.locks import run_lock, study_lock
from flaxnets.study.plan import plan
from tests.study.made import eleven_bands, pretend, table_of, two_steps


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


def test_a_run_whose_folder_holds_another_one_is_not_started_and_keeps_its_record(done, capsys):
  wanted, _, jobs = done
  other = two_steps()
  other.train.learning_rate = 0.7
  changed, before = Study(plan(other, {'whole': {}}), wanted.out), (wanted.out / 'whole' / 'study.json').read_bytes()
  assert runner.run_study(changed) == 1
  assert jobs[-1] is None and (wanted.out / 'whole' / 'study.json').read_bytes() == before
  said = capsys.readouterr().out
  assert 'whole: not started, its folder holds a different run' in said and 'train.learning_rate is 0.1 in its' in said


def test_a_run_whose_result_is_corrupt_is_evaluated_again(done):
  wanted, _, jobs = done
  (wanted.out / 'linear' / 'eval' / 'test.npz').write_bytes(b'cut')
  runner.run_study(wanted, 'linear')
  assert jobs[-1] == 'linear' and wanted.finished(wanted.named('linear'))


def test_asked_about_other_subsets_a_finished_run_is_judged_again(done):
  wanted, _, jobs = done
  runner.run_study(Study(wanted.runs, wanted.out, subsets='R'), 'whole,expert-R')
  assert jobs[-2:] == ['whole', 'whole-seed1']  # an expert has but its own


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


@pytest.mark.parametrize('place', ['table.md', '.table-lock', 'a/study.json', 'a/.study-lock', 'a/log.txt'])
def test_a_study_that_cannot_write_ends_with_one_line(tmp_path, monkeypatch, place):
  if place != 'a/log.txt':
    monkeypatch.setattr(runner, 'launch', lambda job, log, locks=(): (pretend(job), (0, ''))[1])
  (tmp_path / place / 'in the way').mkdir(parents=True)
  with pytest.raises(InputError, match=r'^\S.* cannot be written: Is a directory$'):
    runner.run_study(Study(plan(two_steps(), {'a': {}}), tmp_path))


def test_a_study_whose_folder_is_deleted_meanwhile_ends_with_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(runner, 'launch', lambda job, log, locks=(): (shutil.rmtree(tmp_path / 'out'), (1, ''))[1])
  with pytest.raises(InputError, match='study.json cannot be written: No such file or directory'):
    runner.run_study(Study(plan(two_steps(), {'a': {}}), tmp_path / 'out'))


def test_a_study_on_a_file_system_without_locks_warns_and_goes_on(tmp_path, monkeypatch):
  def unsupported(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  warned = []
  monkeypatch.setattr(fcntl, 'flock', unsupported)
  monkeypatch.setattr('flaxnets.runtime.locks.logging.warning', lambda text, *values: warned.append(text % values))
  monkeypatch.setattr(runner, 'launch', lambda job, log, locks=(): (pretend(job), (0, ''))[1])
  assert runner.run_study(Study(plan(two_steps(), {'a': {}}), tmp_path)) == 0
  assert any(f'{tmp_path / "a"}: cannot be locked (No locks available)' in text for text in warned)


def test_a_second_study_in_a_folder_is_refused_unless_both_take_shares(tmp_path):
  wanted = Study(plan(two_steps(), {'a': {}}), tmp_path)
  with study_lock(tmp_path, shared=True), pytest.raises(InputError, match='is in use by process'):
    runner.run_study(wanted)
  with study_lock(tmp_path, shared=False), pytest.raises(InputError, match='is in use by process'):
    runner.run_study(wanted, shard='1/2')


@pytest.mark.parametrize(
  ('runs', 'options', 'said'),
  [
    ({'a': {}}, {'subsets': 'all'}, "run 'a': 'all' of 11 channels is 2,047 subsets"),
    ({'a': {}, 'b': {'evaluate.subsets': 'all'}}, {}, "run 'b': evaluate.subsets: 'all' of 11 channels is 2,047"),
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
