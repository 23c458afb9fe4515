"""The table of a study: table.json for programs, table.md for people."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flaxnets.analysis import comparison
from flaxnets.analysis.results import Hits, read_hits
from flaxnets.analysis.text import markdown_grid
from flaxnets.augment import presence
from flaxnets.errors import InputError
from flaxnets.runtime import atomic
from flaxnets.study.folder import RECORD, Study, read_json
from flaxnets.study.plan import PlannedRun

BACKWARD = 3  # MACs of a training step over those of its forward pass: gradients of weights and activations beside it


def make_table(study: Study, against: str = '') -> dict[str, Any]:
  """What is known of a study's runs so far.

  Args:
    study: all of it.
    against: name, without a seed, of the run that differences are taken to; the first that is no expert if ''.

  Returns:
    'split', 'examples', 'reference'; 'rows', one a run, in the study's order: 'name', 'run' (the name without a
    seed), 'seed', 'changes', 'status' (done, failed, cut or waiting), 'error', what it cost ('epochs', 'batch_size',
    'passes' a step, 'images_seen', 'forward_macs' of one image with all channels, 'training_macs' = 3 x forward_macs
    x images_seen x passes, 'seconds', 'commits', 'versions', 'device'), and for runs that are done 'params', 'step',
    'recalibrated' and everything of `flaxnets.analysis.comparison.compared`; 'means', the same of all seeds that are
    done as one. An accuracy is a fraction, of all experts' seeds the mean.

  Raises:
    InputError: for an unknown `against`, or runs that were evaluated on different images.
  """
  reference_name = reference_of(study.runs, against)
  rows, judged = [], {}
  for run in study.runs:
    row, hits = _row(study, run)
    rows.append(row)
    if hits is not None:
      judged[run.name] = hits
  experts = _experts(study.runs, judged)
  reference_hits = _of_stem(study.runs, judged, reference_name)
  reference = comparison.mean_of(reference_hits) if reference_hits else None
  means: list[dict[str, Any]] = []
  for run, row in zip(study.runs, rows, strict=True):
    if run.name not in judged:
      continue
    theirs = {} if run.config.train.subset else experts.get(run.network, {})
    other = None if run.stem == reference_name else reference
    row.update(comparison.compared(judged[run.name], theirs, other))
    if run.stem not in {mean['run'] for mean in means}:
      seeds = [each.config.seed for each in study.runs if each.stem == run.stem and each.name in judged]
      shared = ('epochs', 'batch_size', 'passes', 'images_seen', 'forward_macs', 'training_macs', 'params')
      means.append(
        {
          'run': run.stem,
          'seeds': seeds,
          **{key: row[key] for key in shared},
          **comparison.compared(comparison.mean_of(_of_stem(study.runs, judged, run.stem)), theirs, other),
        }
      )
  examples = len(next(iter(judged.values())).ids) if judged else 0
  split = pathlib.PurePath(study.split).name  # not where its file lies: a table is for others too
  return {'split': split, 'examples': examples, 'reference': reference_name, 'rows': rows, 'means': means}


def reference_of(runs: Sequence[PlannedRun], against: str) -> str:
  """The stem of the run that differences are taken to; '' where there are only experts.

  Raises:
    InputError: for a name that is no run's.
  """
  stems = list(dict.fromkeys(run.stem for run in runs))
  if against and against not in stems:
    raise InputError(f'--against={against} is no run; there are {", ".join(stems)}')
  return against or next((run.stem for run in runs if not run.config.train.subset), '')


def _row(study: Study, run: PlannedRun) -> tuple[dict[str, Any], Hits | None]:
  """One run's row without comparisons, and its hits where it is done."""
  config, record = run.config, read_json(study.folder(run) / RECORD)
  row = {
    'name': run.name,
    'run': run.stem,
    'seed': config.seed,
    'changes': run.changes,
    'status': 'waiting',
    'error': record.get('error', ''),
    'epochs': config.train.epochs,
    'batch_size': config.train.batch_size,
    'passes': presence.PASSES.get(config.presence.mode, 1),
    'seconds': record.get('seconds'),
    'commits': record.get('commits', []),
    'versions': record.get('versions', {}),
    'device': record.get('device', ''),
  }
  if conflict := study.conflict(run):
    return {**row, 'status': 'failed', 'error': f'its folder holds another run: {conflict}'}, None
  if not study.finished(run):
    begun = 'cut' if (study.folder(run) / 'config.json').exists() else 'waiting'
    return {**row, 'status': 'failed' if row['error'] else begun}, None
  try:
    scores, judged = read_hits(study.scores_file(run))
    images = _steps(study, run) * config.train.batch_size
  except InputError as error:
    return {**row, 'status': 'failed', 'error': str(error)}, None
  whole = scores['subsets'][0]  # larger subsets come first
  return {
    **row,
    'status': 'done',
    'images_seen': images,
    'forward_macs': whole['macs'],
    'params': whole['params'],
    'training_macs': BACKWARD * whole['macs'] * images * row['passes'],
    'step': scores['step'],
    'recalibrated': scores['recalibrated'],
  }, judged


def _steps(study: Study, run: PlannedRun) -> int:
  """The training steps behind a run's weights, from the end of metrics.jsonl."""
  path = study.out / (run.weights or run.name) / 'metrics.jsonl'
  try:
    return max(line['step'] for line in map(json.loads, path.read_text().splitlines()))
  except (OSError, ValueError, KeyError) as error:
    raise InputError(f'{path} does not tell how many steps there were ({error})') from None


def _experts(runs: Sequence[PlannedRun], judged: Mapping[str, Hits]) -> dict[tuple, dict[str, Hits]]:
  """For each network, and each label of a subset, its expert: of several seeds, and of several runs, the mean."""
  found: dict[tuple, dict[str, list[Hits]]] = {}
  for run in runs:
    if run.config.train.subset and run.name in judged:
      for label in judged[run.name].hits:
        found.setdefault(run.network, {}).setdefault(label, []).append(judged[run.name])
  return {
    network: {label: comparison.mean_of(several) for label, several in experts.items()}
    for network, experts in found.items()
  }


def _of_stem(runs: Sequence[PlannedRun], judged: Mapping[str, Hits], stem: str) -> list[Hits]:
  return [judged[run.name] for run in runs if run.stem == stem and run.name in judged]


def write_table(study: Study, against: str = '') -> None:
  """Writes table.json and table.md, each whole or not at all."""
  table = make_table(study, against)
  for name, text in (('table.json', json.dumps(table, indent=1) + '\n'), ('table.md', markdown(table))):
    atomic.write_text(study.out / name, text)


def markdown(table: Mapping[str, Any]) -> str:
  """A study's table for people, in per cent and points."""
  means, rows = table['means'], table['rows']
  by_number = sorted(means, key=lambda row: -len(row['accuracy']))  # that of all subsets has them in their order
  labels = list(dict.fromkeys(label for row in by_number for label in row['accuracy']))
  parts = [_summary(table, labels)]
  if any(row['mean_regret'] is not None for row in means):
    parts.append(_differences_table('Regret in points: the expert minus this', 'regret', means, labels))
  if any(row['mean_difference'] is not None for row in means):
    parts.append(
      _differences_table(f'Difference in points: this minus {table["reference"]}', 'difference', means, labels)
    )
  parts.append(
    markdown_grid(
      ['run', 'differs in', 'seed', 'hours', 'commit', 'state'],
      [
        [
          row['name'],
          '; '.join(f'{key}={value}' for key, value in row['changes'].items()),
          row['seed'],
          '' if row['seconds'] is None else f'{row["seconds"] / 3600:.2f}',
          ', '.join(commit[:10] + commit[40:] for commit in row['commits']),
          row['error'] or row['status'],
        ]
        for row in rows
      ],
    )
  )
  return '\n\n'.join(parts) + '\n'


def _summary(table: Mapping[str, Any], labels: Sequence[str]) -> str:
  widest = max((high - low for row in table['means'] for low, high in row['interval'].values()), default=0)
  told = (
    (
      f'Accuracy in per cent on {table["examples"]:,} examples of {table["split"]!r}; 95 % intervals are at most '
      f'+- {50 * widest:.1f}. Several seeds are averaged.'
    )
    if table['means']
    else 'No run is finished yet.'
  )
  lines = []
  for row in table['means']:
    worst = row['worst_subset']
    lines.append(
      [
        row['run'],
        len(row['seeds']),
        row['epochs'],
        f'{row["images_seen"]:,}',
        f'{row["training_macs"] / 1e12:,.1f}',
        *(f'{100 * row["accuracy"][label]:.1f}' if label in row['accuracy'] else '' for label in labels),
        f'{100 * row["mean_accuracy"]:.1f}',
        f'{worst} {100 * row["accuracy"][worst]:.1f}',
        _points(row['mean_regret']),
        _points(row['max_regret']),
      ]
    )
  return (
    told
    + '\n\n'
    + markdown_grid(
      ['run', 'seeds', 'epochs', 'images', 'training TMACs', *labels, 'mean', 'worst', 'mean regret', 'max regret'],
      lines,
    )
  )


def _differences_table(title: str, name: str, means: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
  def cell(value: float | None, interval: tuple[float, float] | None) -> str:
    return '' if interval is None else f'{_points(value)} ({_points(interval[0])} to {_points(interval[1])})'

  lines = [
    [
      row['run'],
      *(cell(row[name].get(label), row[f'{name}_interval'].get(label)) for label in labels),
      cell(row[f'mean_{name}'], row[f'mean_{name}_interval']),
    ]
    for row in means
    if row[f'mean_{name}'] is not None
  ]
  grid = markdown_grid(['run', *labels, 'mean'], lines)
  return f'{title}, paired on the same images, with 95 % intervals.\n\n{grid}'


def _points(value: float | None) -> str:
  return '' if value is None else f'{100 * value:.1f}'
