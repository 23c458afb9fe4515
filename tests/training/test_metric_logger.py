"""What a run tells while it goes."""

import contextlib
import json
import re

import numpy as np
import pytest

from flaxnets.errors import InputError
from flaxnets.training.metric_logger import MAX_SKIPPED, MetricLogger


def metrics(loss, accuracy=0.5, skipped=0):
  return {
    'loss': np.float32(loss),
    'accuracy': np.float32(accuracy),
    'gradient_norm': np.float32(loss),
    'learning_rate': np.float32(0.1),
    'skipped': np.int32(skipped),
  }


def journal(folder, start=0):
  return contextlib.closing(MetricLogger(folder, start, 1000, batch_size=8))


def lines(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


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
  advice = rf'not been finite for {MAX_SKIPPED} steps .* lower train.learning_rate'
  with pytest.raises(InputError, match=advice), journal(tmp_path) as told:
    for step in range(1, MAX_SKIPPED + 2):
      told.dispatched(step, metrics(np.nan), every=10)
  assert all(line['loss'] is None for line in lines(tmp_path))


def test_a_loss_of_any_size_takes_few_characters_in_the_bar(tmp_path, capsys):
  with journal(tmp_path) as told:
    for step, loss in enumerate([1.25, 3e38, 2.0], 1):
      told.dispatched(step, metrics(loss), every=1)
      told.say('a line, which draws the bar again')
  bar = capsys.readouterr().err
  assert 'loss 1.250' in bar and 'loss 3.0e+38' in bar and not re.search(r'loss \d{5}', bar)


def test_one_finite_step_begins_the_count_anew(tmp_path):
  with journal(tmp_path) as told:
    for step in range(1, 3 * MAX_SKIPPED):
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
