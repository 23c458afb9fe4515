"""Sentences of a report: the summary of a run, and what to do where the data of a section are missing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from flaxnets.analysis import result_names
from flaxnets.analysis.text import counted
from flaxnets.report.folders import Run, StudyTable


def percent(fraction: float | None) -> str:
  return '' if fraction is None else f'{100 * fraction:.1f} %'


def points(fraction: float | None) -> str:
  """A difference of two accuracies in points, with its sign."""
  return '' if fraction is None else f'{100 * fraction:+.1f}'


def evaluate_command(run: Run, subsets: str = '') -> str:
  """The command that evaluates a run as its result file says, or on its test split."""
  parts, scores = ['flaxnets', 'eval', f'--workdir={shlex.quote(str(run.folder))}'], run.scores
  if scores.get('split', 'test') != 'test':
    parts.append(f'--split={shlex.quote(scores["split"])}')
  if scores.get('root') and not result_names.same_root(scores['root'], run.config.get('data', {}).get('root', '')):
    parts.append(f'--root={shlex.quote(scores["root"])}')
  if 'step' in scores:
    parts.append(f'--step={scores["step"]}')
  if scores.get('completion'):
    parts.append(f'--completion={shlex.quote(scores["completion"])}')
  if scores.get('recalibrated'):
    parts.append('--recalibrate')
  if subsets:
    parts.append(f'--subsets={subsets}')
  return ' '.join(parts)


def train_command(run: Run) -> str:
  """The command that trains a run, or resumes its training."""
  return f'flaxnets train --workdir={shlex.quote(str(run.folder))}'


def worth_command(run: Run) -> str:
  """The command that evaluates the subsets that the worth of channels needs."""
  return evaluate_command(run, f'"$(flaxnets worth --list {shlex.quote(str(run.result))})"')


def absent(sentence: str, command: str = '') -> dict[str, Any]:
  """What stands in the place of a section's data: a sentence, and the command that would give them."""
  return {'absent': sentence, 'command': command}


def of_run(run: Run, step: int | None, skipped: int | None = None) -> list[str]:
  """The summary of a run, which is at a step, and has skipped some because their loss was not usable."""
  said = [_network(run)]
  if skipped:
    said.append(f'{counted(skipped, "step")} had no usable loss and changed nothing.')
  if not run.rows:
    said.append(_progress(run, step))
    return [sentence for sentence in said + run.problems if sentence]
  scores, rows = run.scores, run.rows
  judged = (
    f'It was evaluated at step {scores.get("step", 0):,} on {scores.get("examples", 0):,} examples of '
    f"'{scores.get('split', '')}', on {counted(len(rows), 'subset')} of its channels."
  )
  full, worst = rows[0], min(rows, key=lambda row: row['accuracy'])
  said += [judged, f'On {full["channels"]} the accuracy is {_with_interval(full)}.']
  if len(rows) > 1:
    mean = sum(row['accuracy'] for row in rows) / len(rows)
    said.append(
      f'The mean over the subsets is {percent(mean)}; the worst is {worst["channels"]} with {_with_interval(worst)}.'
    )
  if scores.get('unreadable'):
    said.append(f'The evaluation left out {counted(scores["unreadable"], "unreadable example")}.')
  return [sentence for sentence in said + run.problems if sentence]


def _network(run: Run) -> str:
  model, train = run.config.get('model', {}), run.config.get('train', {})
  name = model.get('name') or run.scores.get('model', '')
  if not name:
    return ''
  stem = 'DynamicConv' if model.get('stem') == 'dynamic' else 'an ordinary convolution'
  details = f' with {stem} (completion {model["completion"]})' if 'completion' in model else ''
  kind = f'{name}{details}'
  expert = f', an expert of {run.expert_of}' if run.expert_of else ''
  epochs = f', {counted(train["epochs"], "epoch")} of training' if 'epochs' in train else ''
  return f'{kind}{expert}{epochs}.'


def _progress(run: Run, step: int | None) -> str:
  command = evaluate_command(run)
  if step is None:
    return f'No step is logged yet. Once a checkpoint is saved, evaluate it with {command}.'
  validated: Mapping[str, Any] = next((line for line in reversed(run.metrics) if line['split'] == 'validation'), {})
  accuracy = validated.get('accuracy')
  seen = (
    '' if accuracy is None else f', with a validation accuracy of {percent(accuracy)} at step {validated["step"]:,}'
  )
  return f'The run is at step {step:,}{seen}. It is not evaluated yet: {command}.'


def _with_interval(row: Mapping[str, Any]) -> str:
  low, high = row.get('accuracy_low'), row.get('accuracy_high')
  interval = '' if low is None or high is None else f' ({100 * low:.1f} to {100 * high:.1f})'
  return f'{percent(row["accuracy"])}{interval}'


def of_study(study: StudyTable) -> str:
  """The summary of a study's table."""
  means, rows = study.table['means'], study.table['rows']
  done = sum(row.get('status') == 'done' for row in rows)
  said = f'Study {study.name}: {done} of {counted(len(rows), "run")} are done'
  if not means:
    return f'{said}.'
  # Experts know one subset: their mean says nothing beside that of all subsets.
  most = max(len(row['accuracy']) for row in means)
  best = max((row for row in means if len(row['accuracy']) == most), key=lambda row: row['mean_accuracy'])
  regret = best.get('mean_regret')
  known = sum(value is not None for value in best.get('regret', {}).values())
  few = f' over {counted(known, "subset")} with an expert' if known < most else ''
  behind = '' if regret is None else f' and a mean regret of {100 * regret:.1f} points{few}'
  return (
    f"{said}, evaluated on {study.table.get('examples', 0):,} examples of '{study.table.get('split', '')}'. "
    f'The best mean accuracy is that of {best["run"]} with {percent(best["mean_accuracy"])}{behind}.'
  )


def of_comparison(found: Mapping[str, Any]) -> list[str]:
  """What a comparison says of the mean over the subsets."""
  said = []
  for row in found['rows']:
    if row['mean_difference'] is None:
      continue
    low, high = row['mean_difference_interval']
    difference = row['mean_difference']
    apart = low > 0 or high < 0
    better = f'{"better" if difference > 0 else "worse"} by {abs(100 * difference):.1f} points than'
    said.append(
      f'{row["run"]} is {better if difference else "level with"} {found["reference"]} over the subsets that both know '
      f'({points(low)} to {points(high)}' + (').' if apart else '; the interval holds 0).')
    )
  return said
