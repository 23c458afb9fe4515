"""What a run tells while it goes."""

import contextlib
import errno
import os
import re

import numpy as np
import pytest

from flaxnets.errors import InputError
from flaxnets.report import curves
from flaxnets.runtime import records
from flaxnets.training import journal as journal_module
from flaxnets.training import metric_logger
from flaxnets.training.divergence import Divergence
from flaxnets.training.metric_logger import MetricLogger

MAX_LOSS = 1e4
LIMIT = 50  # steps without a usable loss after which a run ends


def metrics(loss, accuracy=0.5, skipped=0, replaced=0):
  return {
    'loss': np.float32(loss),
    'accuracy': np.float32(accuracy),
    'gradient_norm': np.float32(loss),
    'learning_rate': np.float32(0.1),
    'usable': bool(loss <= MAX_LOSS),  # False for NaN
    'skipped': np.int32(skipped),
    'replaced': np.int32(replaced),
  }


def journal(folder, start=0):
  divergence = Divergence(LIMIT, MAX_LOSS, lambda: 'step 20')
  return contextlib.closing(MetricLogger(folder, start, 1000, batch_size=8, divergence=divergence))


def lines(folder):
  return [records.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_a_line_is_the_mean_of_its_steps_and_comes_one_step_late(tmp_path):
  with journal(tmp_path) as told:
    for step, loss in enumerate([1.0, 2.0, 6.0], 1):
      told.dispatched(step, metrics(loss), every=3)
    assert lines(tmp_path) == []  # the third is still being computed, perhaps
    told.dispatched(4, metrics(9.0), every=3)
    assert [(line['step'], line['loss']) for line in lines(tmp_path)] == [(3, 3.0)]
  assert [(line['step'], line['loss']) for line in lines(tmp_path)] == [(3, 3.0), (4, 9.0)]


def test_steps_without_a_finite_loss_are_left_out_of_the_mean_and_counted(tmp_path):
  with journal(tmp_path) as told:
    for step, loss in enumerate([1.0, np.nan, 3.0], 1):
      told.dispatched(step, metrics(loss, skipped=1), every=3)
  (line,) = lines(tmp_path)
  assert (line['loss'], line['skipped_steps']) == (2.0, 1)


def test_a_loss_that_is_never_finite_ends_the_run_with_advice(tmp_path):
  advice = (
    rf'diverged: step 1 has a loss of nan at a learning rate of 0.1, and so on for {LIMIT} steps up to step {LIMIT}, '
    'which changed nothing; last checkpoint: step 20; try a lower train.learning_rate'
  )
  with pytest.raises(InputError, match=advice), journal(tmp_path) as told:
    for step in range(1, LIMIT + 2):
      told.dispatched(step, metrics(np.nan), every=10)
  assert all(line['loss'] is None for line in lines(tmp_path))


def test_a_finite_loss_beyond_all_bounds_ends_the_run_too(tmp_path):
  with pytest.raises(InputError, match=r'step 31 has a loss of 5\.68e\+21'), journal(tmp_path) as told:
    for step in range(1, 1000):
      told.dispatched(step, metrics(5.0 if step <= 30 else 5.68e21), every=10)


def test_the_warning_about_a_skipped_step_names_it_its_rate_and_the_last_checkpoint(tmp_path, caplog):
  with journal(tmp_path) as told:
    for step, loss in enumerate([1.0, np.inf, 1.0, np.nan], 1):
      told.dispatched(step, metrics(loss), every=4)
  (said,) = [record.getMessage() for record in caplog.records]
  assert said == (
    'step 2 has a loss of inf at a learning rate of 0.1; 2 of the last 4 steps changed nothing; '
    'last checkpoint: step 20'
  )


@pytest.mark.parametrize(('unusable', 'steps', 'ends'), [(4, 100, False), (5, 100, True), (3, 3, True)])
def test_a_run_whose_last_steps_diverge_does_not_end_well(tmp_path, unusable, steps, ends):
  with journal(tmp_path) as told:
    for step in range(1, steps + 1):
      told.dispatched(step, metrics(np.nan if step > steps - unusable else 1.0), every=1)
    with told.pause(), pytest.raises(InputError, match='diverged') if ends else contextlib.nullcontext():
      told.divergence.check_end(steps, steps)


def test_replaced_images_count_with_the_step_that_takes_them_and_go_on_after_a_restart(tmp_path):
  told = MetricLogger(tmp_path, 0, 10, batch_size=8, replaced=7)
  with contextlib.closing(told):
    for step, replaced in enumerate([1, 0, 4], 1):
      told.dispatched(step, metrics(1.0, replaced=replaced), every=1)
  assert [line['replaced_images'] for line in lines(tmp_path)] == [8, 8, 12]


def full_disk(monkeypatch, full):
  """While `full` holds anything, files take 5 bytes and then no more."""
  write = os.write

  def limited(file, data):
    if full:
      write(file, data[:5])
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return write(file, data)

  monkeypatch.setattr(journal_module.os, 'write', limited)


def test_lines_that_a_full_disk_refuses_wait_and_none_is_cut_or_lost(tmp_path, monkeypatch, caplog):
  full = []
  full_disk(monkeypatch, full)
  with journal(tmp_path) as told:
    for step in range(1, 10):
      full[:] = [True] if 3 <= step <= 6 else []
      told.dispatched(step, metrics(1.0), every=1)
      if step == 6:
        assert [line['step'] for line in lines(tmp_path)] == [1]
  assert [line['step'] for line in lines(tmp_path)] == list(range(1, 10))
  said = [record.getMessage() for record in caplog.records]
  assert len(said) == 2 and 'No space left on device. Training goes on' in said[0] and 'written again' in said[1]


def test_a_tensorboard_that_cannot_be_written_ends_with_a_line_and_not_the_run(tmp_path, monkeypatch, caplog):
  with journal(tmp_path) as told:
    told.dispatched(1, metrics(1.0), every=1)

    def failing(*_):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal_module.EventsWriter, 'write_event', failing)
    for step in range(2, 30):
      told.dispatched(step, metrics(1.0), every=1)
  assert len(lines(tmp_path)) == 29
  (said,) = [record.getMessage() for record in caplog.records]
  assert 'No space left on device. TensorBoard ends here' in said


def test_a_loss_of_any_size_takes_few_characters_in_the_bar(tmp_path, capsys):
  with journal(tmp_path) as told:
    for step, loss in enumerate([1.25, 3e38, 2.0], 1):
      told.dispatched(step, metrics(loss), every=1)
      told.say('a line, which draws the bar again')
  bar = capsys.readouterr().err
  assert 'loss 1.250' in bar and 'loss 3.0e+38' in bar and not re.search(r'loss \d{5}', bar)


def test_a_network_that_takes_minutes_for_a_step_has_a_speed_too(tmp_path, monkeypatch, capsys):
  now = [0.0]
  monkeypatch.setattr(metric_logger.time, 'perf_counter', lambda: now[0])
  with journal(tmp_path) as told:
    now[0] = 300.0  # for a step of 8 images
    told.dispatched(1, metrics(1.0), every=1)
    told.dispatched(2, metrics(1.0), every=1)
    told.say('a line, which draws the bar again')
  assert lines(tmp_path)[0]['images_per_second'] == 0.02667
  assert curves.seconds(lines(tmp_path)[:1], 8) == pytest.approx(300, rel=1e-3)
  assert '0.027 images/s' in capsys.readouterr().err


def test_one_finite_step_begins_the_count_anew(tmp_path):
  with journal(tmp_path) as told:
    for step in range(1, 3 * LIMIT):
      told.dispatched(step, metrics(1.0 if step % 40 == 0 else np.nan), every=10)


def test_what_came_after_the_checkpoint_is_forgotten_and_a_cut_line_too(tmp_path):
  with journal(tmp_path) as told:
    for step in range(1, 7):
      told.dispatched(step, metrics(1.0), every=1)
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 7, "spl')
  with journal(tmp_path, start=4) as told:
    told.dispatched(5, metrics(2.0), every=1)
  assert [(line['step'], line['loss']) for line in lines(tmp_path)] == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]
