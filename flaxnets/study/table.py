"""The table of a study: table.json for programs, table.md for people."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxnets import experiment
from flaxnets.analysis import comparison
from flaxnets.analysis.results import Hits, read_hits
from flaxnets.analysis.text import markdown_grid
from flaxnets.augment import presence
from flaxnets.errors import InputError
from flaxnets.runtime import atomic, records
from flaxnets.study.folder import RECORD, Study, read_json
from flaxnets.study.plan import PlannedRun
from flaxnets.training import resolution

# MACs of a training step relative to its forward pass: gradients of weights and of activations cost one more each.
TRAINING_TO_FORWARD = 3


def make_table(study: Study, against: str = '') -> dict[str, Any]:
  """The results of a study's runs so far.

  Args:
    study: the study; some or all of its runs may be unfinished.
    against: the reference run (its name without a seed) that differences are computed against; '' for the first run
      that is not an expert.

  Returns:
    'split'; 'examples', their number; 'reference', the name of the reference run; 'rows', one per run in the study's
    order; 'means', one per run with finished seeds, averaged over these seeds.
    A row has 'name', 'run' (the name without a seed), 'seed', 'changes', 'status' (done, failed, interrupted or
    waiting), 'error', and its cost: 'epochs', 'batch_size', 'passes' per step, 'images_seen', 'forward_macs' of one
    image with all channels at image_size, 'training_macs' = 3 x the forward MACs of all images seen (at the sizes of
    train.image_sizes) x passes, 'seconds', 'commits', 'versions', 'device'. A finished run also has 'params', 'step',
    'skipped_steps' (whose loss was not usable), 'recalibrated' and the fields of
    `flaxnets.analysis.comparison.compared`. Accuracies are fractions. The accuracy of an expert is the mean over its
    seeds.

  A run that was evaluated on other images than the first finished one is a failed row.

  Raises:
    InputError: if `against` is not a run.
  """
  reference_name = reference_of(study.runs, against)
  rows, hits_of = [], {}
  for run in study.runs:
    row, hits = _row(study, run)
    rows.append(row)
    if hits is not None:
      hits_of[run.name] = hits
  _set_apart_other_images(rows, hits_of)
  experts = comparison.experts_by_network(
    (run.network, hits_of[run.name]) for run in study.runs if run.config.train.subset and run.name in hits_of
  )
  reference_seeds = _seeds_of(study.runs, hits_of, reference_name)
  reference = comparison.mean_of(reference_seeds) if reference_seeds else None
  means: list[dict[str, Any]] = []
  for run, row in zip(study.runs, rows, strict=True):
    if run.name not in hits_of:
      continue
    own_experts = {} if run.config.train.subset else experts.get(run.network, {})
    other = None if run.stem == reference_name else reference
    row.update(comparison.compared(hits_of[run.name], own_experts, other))
    if run.stem not in {mean['run'] for mean in means}:
      seeds = [seed.config.seed for seed in study.runs if seed.stem == run.stem and seed.name in hits_of]
      shared = ('epochs', 'batch_size', 'passes', 'forward_macs', 'params')
      finished = [row for row in rows if row['run'] == run.stem and row['name'] in hits_of]
      spent = {key: round(statistics.mean(row[key] for row in finished)) for key in ('images_seen', 'training_macs')}
      means.append(
        {
          'run': run.stem,
          'seeds': seeds,
          **{key: row[key] for key in shared},
          **spent,
          **comparison.compared(comparison.mean_of(_seeds_of(study.runs, hits_of, run.stem)), own_experts, other),
        }
      )
  examples = len(next(iter(hits_of.values())).ids) if hits_of else 0
  split = pathlib.PurePath(study.split).name  # without the folder of its file: a table is shared with others
  return {'split': split, 'examples': examples, 'reference': reference_name, 'rows': rows, 'means': means}


def reference_of(runs: Sequence[PlannedRun], against: str) -> str:
  """The stem of the run that differences are computed against; '' if all runs are experts.

  Raises:
    InputError: if `against` is not the stem of a run.
  """
  stems = list(dict.fromkeys(run.stem for run in runs))
  if against and against not in stems:
    raise InputError(f'--against={against} is not a run; choose one of {", ".join(stems)}')
  return against or next((run.stem for run in runs if not run.config.train.subset), '')


def _row(study: Study, run: PlannedRun) -> tuple[dict[str, Any], Hits | None]:
  """A run's row without comparisons, and the hits of a finished run."""
  record, trained = read_json(study.folder(run) / RECORD), study.named(run.weights) if run.weights else run
  train = trained.config.train
  row = {
    'name': run.name,
    'run': run.stem,
    'seed': run.config.seed,
    'changes': run.changes,
    'status': 'waiting',
    'error': record.get('error', ''),
    'epochs': train.epochs,
    'batch_size': train.batch_size,
    'passes': presence.PASSES.get(trained.config.presence.mode, 1),
    'seconds': record.get('seconds'),
    'commits': record.get('commits', []),
    'versions': record.get('versions', {}),
    'device': record.get('device', ''),
  }
  if conflict := study.conflict(run):
    return {**row, 'status': 'failed', 'error': f'its folder holds a different run: {conflict}'}, None
  if not study.finished(run):
    started = (study.folder(run) / 'config.json').exists()
    unfinished = 'interrupted' if started else 'waiting'
    return {**row, 'status': 'failed' if row['error'] else unfinished}, None
  try:
    scores, hits = read_hits(study.scores_file(run))
    steps, skipped = _steps(study, trained)
  except InputError as error:
    return {**row, 'status': 'failed', 'error': str(error)}, None
  largest = scores['subsets'][0]  # subsets are sorted by size
  return {
    **row,
    'status': 'done',
    'images_seen': steps * train.batch_size,
    'forward_macs': largest['macs'],
    'params': largest['params'],
    'training_macs': TRAINING_TO_FORWARD * _seen_macs(study, trained, largest['macs'], steps) * row['passes'],
    'step': scores['step'],
    'skipped_steps': skipped,
    'recalibrated': scores['recalibrated'],
  }, hits


def _set_apart_other_images(rows: Sequence[dict[str, Any]], hits_of: dict[str, Hits]) -> None:
  """Takes runs out of `hits_of` that cannot be compared with the first one, and says why in their rows."""
  first = next(iter(hits_of), '')
  for row in rows:
    name = row['name']
    if name in hits_of and not np.array_equal(hits_of[name].ids, hits_of[first].ids):
      del hits_of[name]
      row.update(status='failed', error=f'was evaluated on other images than {first}; give all runs the same split')


def _seen_macs(study: Study, trained: PlannedRun, macs: int, steps: int) -> int:
  """The MACs of one forward pass of every image that a run's weights were trained on.

  Args:
    study, trained: the run that trained them.
    macs: of one image of image_size, for a run of a version that did not record those of its training images.
    steps: of its training.
  """
  by_side, config = read_json(study.folder(trained) / RECORD).get('training_macs', {}), trained.config
  return config.train.batch_size * sum(
    by_side.get(str(side), macs) * length
    for side, length in resolution.steps_per_side(experiment.training_sides(config), steps)
  )


def _steps(study: Study, trained: PlannedRun) -> tuple[int, int]:
  """The number of training steps of a run, and of those that changed nothing, from its metrics.jsonl."""
  path = study.folder(trained) / 'metrics.jsonl'
  try:
    lines = list(map(records.loads, path.read_text('utf-8').splitlines()))
    return max(line['step'] for line in lines), max(line.get('skipped_steps') or 0 for line in lines)
  except (OSError, ValueError, KeyError) as error:
    raise InputError(f'{path}: the number of training steps cannot be read ({error})') from None


def _seeds_of(runs: Sequence[PlannedRun], hits_of: Mapping[str, Hits], stem: str) -> list[Hits]:
  """The hits of all finished seeds of a run."""
  return [hits_of[run.name] for run in runs if run.stem == stem and run.name in hits_of]


def write_table(study: Study, against: str = '') -> None:
  """Writes table.json and table.md, each atomically."""
  with atomic.exclusive(study.out / '.table-lock'):  # so that an older table never replaces a newer one
    table = make_table(study, against)
    records.write(study.out / 'table.json', table, indent=1)
    atomic.write_text(study.out / 'table.md', markdown(table))


def markdown(table: Mapping[str, Any]) -> str:
  """A study's table as Markdown, in per cent and percentage points."""
  means, rows = table['means'], table['rows']
  by_number = sorted(means, key=lambda row: -len(row['accuracy']))  # a run with all subsets has them in order
  labels = list(dict.fromkeys(label for row in by_number for label in row['accuracy']))
  parts = [_summary(table, labels)]
  if any(row['mean_regret'] is not None for row in means):
    parts.append(_differences_table('Regret in points: the expert minus this run', 'regret', means, labels))
  if any(row['mean_difference'] is not None for row in means):
    parts.append(
      _differences_table(f'Difference in points: this run minus {table["reference"]}', 'difference', means, labels)
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
          row['error']
          or row['status'] + (f', {row["skipped_steps"]} steps skipped' if row.get('skipped_steps') else ''),
        ]
        for row in rows
      ],
    )
  )
  return '\n\n'.join(parts) + '\n'


def _summary(table: Mapping[str, Any], labels: Sequence[str]) -> str:
  widest = max((high - low for row in table['means'] for low, high in row['interval'].values()), default=0)
  caption = (
    (
      f'Accuracy in per cent on {table["examples"]:,} examples of {table["split"]!r}; 95 % intervals are at most '
      f'+- {50 * widest:.1f}. Accuracies are averaged over seeds.'
    )
    if table['means']
    else 'No run has finished yet.'
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
    caption
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
