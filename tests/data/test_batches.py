"""Order, shares, resuming, unreadable images and the end of evaluation, from sources held in memory."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from flaxnets.channels import ChannelSet
from flaxnets.data.batches import evaluation_batches, train_batches
from flaxnets.data.source import ArraySource, BadImage
from flaxnets.errors import InputError

CLASSES = tuple('abcde')


class Numbered(ArraySource):
  """Images that hold their own number; some of them broken; notes which were read."""

  def __init__(self, examples, broken=(), present=None):
    images = np.arange(examples, dtype=np.uint16)[:, None, None, None] + np.zeros((2, 3, 2), np.uint16)
    labels = np.arange(examples) % len(CLASSES)
    super().__init__('numbers', images, labels, ChannelSet.of('RG'), CLASSES, present)
    self.broken, self.reads = set(broken), []

  def read(self, index, out):
    self.reads.append(index)
    if index in self.broken:
      out[...] = 999
      raise BadImage(f'{self.name}: example {index} is broken')
    return super().read(index, out)


def take(batches, count):
  taken = list(itertools.islice(batches, count))
  batches.close()
  return taken


def indices(batches):
  return np.concatenate([batch['index'] for batch in batches])


def assert_equal_batches(first, second):
  assert len(first) == len(second)
  for one, other in zip(first, second, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name], strict=True)


def test_a_training_batch_holds_what_the_source_has():
  present = np.ones((10, 2), bool)
  present[::2, 1] = False
  source = Numbered(10, present=present)
  for batch in take(train_batches(source, batch_size=4, seed=0), 5):
    assert {name: (values.shape, values.dtype) for name, values in batch.items()} == {
      'image': ((4, 2, 3, 2), np.uint16),
      'size': ((4, 2), np.int32),
      'label': ((4,), np.int32),
      'present': ((4, 2), bool),
      'index': ((4,), np.int32),
      'skipped': ((4,), bool),
    }
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['index'])
    np.testing.assert_array_equal(batch['label'], source.labels[batch['index']])
    np.testing.assert_array_equal(batch['present'], present[batch['index']])
    np.testing.assert_array_equal(batch['size'], [[2, 3]] * 4)
    assert not batch['skipped'].any()


@hypothesis.given(examples=st.integers(1, 30), batch_size=st.integers(1, 12), seed=st.integers(0, 2**40))
@hypothesis.settings(max_examples=25)
def test_every_epoch_has_every_example_once(examples, batch_size, seed):
  steps = -(-3 * examples // batch_size)
  read = indices(take(train_batches(Numbered(examples), batch_size=batch_size, seed=seed, threads=1), steps))
  for epoch in range(3):
    assert sorted(read[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


def test_epochs_and_seeds_differ_in_order_and_runs_do_not():
  runs = [take(train_batches(Numbered(50), batch_size=50, seed=seed), 2) for seed in (3, 3, 4)]
  first, again, other = ([batch['index'] for batch in run] for run in runs)
  np.testing.assert_array_equal(first, again)
  orders = [*first, *other, np.arange(50)]
  assert all((a != b).any() for a, b in itertools.combinations(orders, 2))


def test_the_order_stays_what_it_was_when_runs_were_begun():
  read = indices(take(train_batches(Numbered(8), batch_size=8, seed=0), 2))
  assert read.tolist() == [0, 3, 7, 5, 1, 2, 6, 4, 3, 7, 4, 2, 1, 6, 5, 0]


@hypothesis.given(hosts=st.integers(1, 4), share=st.integers(1, 4), examples=st.integers(1, 20))
@hypothesis.settings(max_examples=20)
def test_the_shares_of_hosts_in_turn_are_the_global_batch(hosts, share, examples):
  source, size = Numbered(examples), hosts * share
  whole = take(train_batches(source, batch_size=size, seed=1, threads=1), 3)
  parts = [
    take(train_batches(source, batch_size=size, seed=1, host=host, hosts=hosts, threads=1), 3) for host in range(hosts)
  ]
  joined = [
    {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
  ]
  assert_equal_batches(joined, whole)


def test_beginning_at_a_step_is_skipping_the_batches_before_it():
  source = Numbered(23, broken=[5])
  whole = take(train_batches(source, batch_size=6, seed=2, on_bad_image='skip'), 12)
  rest = take(train_batches(source, batch_size=6, seed=2, on_bad_image='skip', start=7), 5)
  assert_equal_batches(rest, whole[7:])


def test_threads_and_worker_processes_change_no_batch(caplog):
  source, common = Numbered(23, broken=[5, 6]), {'batch_size': 6, 'on_bad_image': 'skip'}
  train = take(train_batches(source, seed=2, start=2, threads=1, **common), 9)
  evaluation = list(evaluation_batches(source, threads=1, **common))
  for kind in ({'threads': 5, 'prefetch': 0}, {'workers': 2, 'prefetch': 3}):
    caplog.clear()
    with caplog.at_level('WARNING', 'absl'):
      assert_equal_batches(take(train_batches(source, seed=2, start=2, **kind, **common), 9), train)
    assert len(caplog.records) == 2, 'one warning for each broken image, whoever read it'
    assert_equal_batches(list(evaluation_batches(source, **kind, **common)), evaluation)


def test_workers_leave_ctrl_c_and_sigterm_to_the_training_that_needs_their_batches():
  expected = take(train_batches(Numbered(23), batch_size=6, seed=2), 8)
  with contextlib.closing(train_batches(Numbered(23), batch_size=6, seed=2, workers=1)) as batches:
    first = [next(batches)]
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      os.kill(worker.pid, number)
    assert_equal_batches([*first, *itertools.islice(batches, 7)], expected)
    assert worker.is_alive()


@pytest.mark.parametrize(
  ('number', 'why'),
  [(signal.SIGKILL, ', as the system does where memory runs out'), (signal.SIGBUS, ': the shared memory of /dev/shm')],
)
def test_a_worker_that_is_killed_ends_the_batches_with_one_line(number, why):
  with contextlib.closing(train_batches(Numbered(23), batch_size=6, seed=2, workers=1)) as batches:
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    worker.join()
    said = f'^numbers: a process that reads images was killed by signal {number:d}{why}'
    with pytest.raises(InputError, match=said) as caught:
      list(itertools.islice(batches, 9))
  assert '\n' not in str(caught.value)


READS_AND_WAITS = """
import time
from flaxnets.data import synthetic
from flaxnets.data.batches import train_batches
if __name__ == '__main__':
  batches = train_batches(synthetic.source('train[:64]'), batch_size=8, seed=0, workers=2)
  next(batches)
  print('reading', flush=True)
  time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='/proc tells which processes there are')
def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path):
  (tmp_path / 'reads.py').write_text(READS_AND_WAITS)
  parent = subprocess.Popen(
    [sys.executable, tmp_path / 'reads.py'], stdout=subprocess.PIPE, text=True, start_new_session=True
  )
  try:
    assert parent.stdout.readline() == 'reading\n'
    assert len(session(parent.pid)) >= 4  # with two workers and Python's resource tracker
  finally:
    parent.kill()
    parent.wait()
    parent.stdout.close()
  deadline = time.monotonic() + 120
  while (left := session(parent.pid)) and time.monotonic() < deadline:
    time.sleep(0.1)
  for process in left:
    os.kill(int(process), signal.SIGKILL)
  assert not left


def session(number):
  """The processes of a session, by id, that have not ended."""
  found = []
  for place in pathlib.Path('/proc').glob('[0-9]*'):
    with contextlib.suppress(OSError):
      fields = (place / 'stat').read_text().rpartition(')')[2].split()
      found += [place.name] if int(fields[3]) == number and fields[0] != 'Z' else []
  return found


@pytest.mark.parametrize('kind', [{'threads': 2}, {'workers': 1}])
def test_an_unreadable_image_stops_the_iterator_with_its_own_error(kind):
  for batches in (
    train_batches(Numbered(9, broken=[4]), batch_size=3, seed=0, **kind),
    evaluation_batches(Numbered(9, broken=[4]), batch_size=3, **kind),
  ):
    with pytest.raises(BadImage) as caught:
      list(itertools.islice(batches, 3))
    assert type(caught.value) is BadImage and str(caught.value) == 'numbers: example 4 is broken'
    assert not getattr(caught.value, '__notes__', None)


def test_in_training_the_next_readable_image_takes_the_place_of_an_unreadable_one(caplog):
  source = Numbered(10, broken=[3, 8, 9])
  due = indices(take(train_batches(Numbered(10), batch_size=5, seed=6), 6))
  with caplog.at_level('WARNING', 'absl'):
    batches = take(train_batches(source, batch_size=5, seed=6, on_bad_image='skip'), 6)
  expected = np.array([{3: 4, 8: 0, 9: 0}.get(index, index) for index in due.tolist()])
  np.testing.assert_array_equal(indices(batches), expected)
  np.testing.assert_array_equal(np.concatenate([batch['skipped'] for batch in batches]), expected != due)
  for batch in batches:
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['index'])
    np.testing.assert_array_equal(batch['label'], batch['index'] % len(CLASSES))
  assert sorted(record.getMessage() for record in caplog.records) == [
    f'unreadable, skipped: numbers: example {index} is broken' for index in (3, 8, 9)
  ]


def test_a_source_without_a_readable_image_is_an_error():
  source = Numbered(7, broken=range(7))
  with pytest.raises(InputError, match='numbers: none of its 7 examples is readable') as caught:
    next(train_batches(source, batch_size=2, seed=0, on_bad_image='skip', threads=1, prefetch=0))
  assert '\n' not in str(caught.value)
  # The thread may have begun the next batch before the error of the first one arrives here.
  assert sorted(source.reads[:7]) == list(range(7))


@hypothesis.given(
  examples=st.integers(1, 25), share=st.integers(1, 5), hosts=st.integers(1, 4), broken=st.sets(st.integers(0, 24))
)
@hypothesis.settings(max_examples=40)
def test_evaluation_has_every_example_once_over_all_hosts(examples, share, hosts, broken):
  source = Numbered(examples, broken)
  runs = [
    list(evaluation_batches(source, batch_size=share * hosts, host=host, hosts=hosts, threads=1, on_bad_image='skip'))
    for host in range(hosts)
  ]
  assert {len(run) for run in runs} == {-(-examples // (share * hosts))}
  assert {batch['image'].shape for run in runs for batch in run} == {(share, 2, 3, 2)}
  rows = {
    name: np.concatenate([batch[name] for step in zip(*runs, strict=True) for batch in step]) for name in runs[0][0]
  }
  padding = np.arange(len(rows['index'])) >= examples
  np.testing.assert_array_equal(rows['index'], np.where(padding, -1, np.arange(len(padding))))
  readable = ~padding & ~np.isin(rows['index'], list(broken))
  np.testing.assert_array_equal(rows['mask'], readable)
  np.testing.assert_array_equal(rows['label'], np.where(padding, 0, rows['index'] % len(CLASSES)))
  np.testing.assert_array_equal(rows['image'][:, 1, 2, 1], np.where(readable, rows['index'], 0))
  assert rows['present'].all() and (rows['size'] == (2, 3)).all()


def test_evaluation_of_chosen_examples_keeps_their_order():
  batches = list(evaluation_batches(Numbered(9), batch_size=2, examples=[7, 1, 8]))
  assert indices(batches).tolist() == [7, 1, 8, -1]
  assert [batch['mask'].tolist() for batch in batches] == [[True, True], [True, False]]
  assert not list(evaluation_batches(Numbered(9), batch_size=2, examples=[]))


def test_no_more_batches_are_read_ahead_than_threads_and_prefetch():
  source = Numbered(100)
  batches = train_batches(source, batch_size=10, seed=0, threads=2, prefetch=3)
  next(batches)
  deadline = time.monotonic() + 120
  while len(source.reads) < 60 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.1)
  assert len(source.reads) == 60  # the one handed over, and 2 + 3
  batches.close()


@pytest.mark.parametrize('ending', ['close', 'delete', 'error', 'exhaust'])
def test_no_thread_outlives_its_iterator(ending):
  def reading():
    return [thread for thread in threading.enumerate() if thread.name.startswith('grain-prefetch')]

  before = set(reading())
  if ending == 'exhaust':
    list(evaluation_batches(Numbered(9), batch_size=2, threads=3))
  else:
    source = Numbered(9, broken=[6] if ending == 'error' else [])
    batches = train_batches(source, batch_size=2, seed=0, threads=3)
    next(batches)
    if ending == 'close':
      batches.close()
    elif ending == 'error':
      with pytest.raises(BadImage):
        list(batches)
    else:
      del batches
  deadline = time.monotonic() + 120
  while set(reading()) - before and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not set(reading()) - before


@pytest.mark.parametrize(
  ('wrong', 'message'),
  [
    ({'batch_size': 6, 'hosts': 4}, 'a batch of 6 cannot be divided equally among 4 hosts; choose a multiple of 4'),
    ({'batch_size': 0}, 'batch_size is 0; it must be at least 1'),
    ({'batch_size': 4, 'host': 2, 'hosts': 2}, 'host is 2; with 2 hosts it must be from 0 to 1'),
    ({'batch_size': 4, 'threads': -1}, 'none can be negative'),
    ({'batch_size': 4, 'on_bad_image': 'ignore'}, "on_bad_image is 'ignore'; it must be 'error' or 'skip'"),
  ],
)
def test_values_that_do_not_fit_are_errors_before_anything_is_read(wrong, message):
  with pytest.raises(InputError, match=message):
    train_batches(Numbered(5), seed=0, **wrong)
  with pytest.raises(InputError, match=message):
    evaluation_batches(Numbered(5), **wrong)


def test_a_negative_seed_or_start_is_an_error():
  for wrong in ({'seed': -1}, {'seed': 0, 'start': -3}):
    with pytest.raises(InputError, match='both must be 0 or more'):
      train_batches(Numbered(5), batch_size=2, **wrong)
