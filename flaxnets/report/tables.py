"""The tables of a report, the same for a page and for Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flaxnets.analysis.text import labels_of, over_some, short_commit
from flaxnets.report import words


@dataclasses.dataclass(frozen=True)
class Cell:
  """What a cell shows.

  Attributes:
    text: the value.
    value: what the column is sorted by, a number or a text; None sorts last.
    small: a note behind the value: an interval.
  """

  text: str = ''
  value: float | str | None = None
  small: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table: its name in the page, its caption, the names of its columns and its rows."""

  name: str
  caption: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Cell]]


def text(value: Any) -> Cell:
  """Any value as it is written in a config."""
  shown = '' if value is None else str(value)
  return Cell(shown, value if isinstance(value, int | float) and not isinstance(value, bool) else shown or None)


def share(value: float | None, low: float | None = None, high: float | None = None) -> Cell:
  """A fraction in per cent, with its interval."""
  small = '' if low is None or high is None else f'{100 * low:.1f}–{100 * high:.1f}'
  return Cell(words.percent(value), value, small)


def points(value: float | None, interval: Sequence[float] | None = None) -> Cell:
  """A difference of accuracies in points, with its interval."""
  small = '' if interval is None else f'{words.points(interval[0])} to {words.points(interval[1])}'
  return Cell(words.points(value), value, small)


def count(value: float | None) -> Cell:
  """A large number: 34.2 M."""
  if value is None:
    return Cell()
  for unit, least, size in (('G', 1e9, 1e9), ('M', 1e6, 1e6), ('k', 1e4, 1e3)):
    if abs(value) >= least:
      return Cell(f'{value / size:,.2f} {unit}', value)
  return Cell(f'{value:,.0f}', value)


def number(value: float | None, digits: int = 3) -> Cell:
  return Cell() if value is None else Cell(f'{value:,.{digits}f}', value)


def duration(seconds: float | None) -> str:
  """Seconds as people say them: 1.2 h, 12 min, 34 s."""
  if seconds is None:
    return ''
  for unit, size in (('h', 3600), ('min', 60)):
    if seconds >= size:
      return f'{seconds / size:.1f} {unit}'
  return f'{seconds:.0f} s'


def _scores(key: str):
  return lambda row: share(row.get(key), row.get(f'{key}_low'), row.get(f'{key}_high'))


def _compared(key: str):
  return lambda row: points(row.get(key), row.get(f'{key}_interval'))


# Title: the key that has to be known in some row, and the cell.
_SUBSET_COLUMNS = {
  'accuracy': ('accuracy', _scores('accuracy')),
  'difference, points': ('difference', _compared('difference')),
  'regret, points': ('regret', _compared('regret')),
  'precision': ('precision', _scores('precision')),
  'recall': ('recall', _scores('recall')),
  'F1': ('f1', _scores('f1')),
  'ECE': ('ece', lambda row: share(row.get('ece'))),
  'top-5': ('top5', lambda row: share(row.get('top5'))),
  'loss': ('loss', lambda row: number(row.get('loss'))),
  'latency, ms': ('latency', lambda row: number(None if row.get('latency') is None else 1000 * row['latency'], 2)),
  'MACs': ('macs', lambda row: count(row.get('macs'))),
  'of these mixing': ('mixing_macs', lambda row: count(row.get('mixing_macs'))),
  'FLOPs': ('flops', lambda row: count(row.get('flops'))),
  'parameters': ('params', lambda row: count(row.get('params'))),
}


def of_subsets(report: Mapping[str, Any]) -> Table:
  """One row for each run and subset; columns that no row knows are left out."""
  pairs = [(run['name'], row) for run in report['runs'] for row in run['subsets']]
  several = len({name for name, _ in pairs}) > 1
  columns = {
    title: cell for title, (key, cell) in _SUBSET_COLUMNS.items() if any(row.get(key) is not None for _, row in pairs)
  }
  rows = [
    [
      *([text(name)] if several else []),
      Cell(row['channels'] + (' *' if row.get('recalibrated') else ''), row['channels']),
      text(row['size']),
      *(cell(row) for cell in columns.values()),
    ]
    for name, row in pairs
  ]
  stars = '; * with recalibrated statistics' if any(row.get('recalibrated') for _, row in pairs) else ''
  return Table(
    'subsets',
    f'Every subset, with 95 % intervals{stars}',
    [*(['run'] if several else []), 'subset', 'channels', *columns],
    rows,
  )


def of_comparison(report: Mapping[str, Any]) -> list[Table]:
  """Runs side by side over all subsets, then the tables of the studies."""
  found, tables = report['comparison'], []
  if 'absent' not in found:
    rows = [
      [
        text(row['run']),
        share(row['mean_accuracy']),
        Cell(row['worst_subset'], row['accuracy'][row['worst_subset']], words.percent(min(row['accuracy'].values()))),
        _mean_points(row, 'difference'),
        _mean_points(row, 'regret'),
        points(row['max_regret']),
      ]
      for row in found['rows']
    ]
    caption = (
      'Means over the subsets that a run was evaluated on, regrets over those with an expert, and differences, this '
      f'run minus {found["reference"]}, over those that both were evaluated on; paired on the same images'
    )
    columns = ['run', 'mean accuracy', 'worst subset', 'difference, points', 'mean regret, points', 'max regret']
    tables.append(Table('comparison', caption, columns, rows))
  return tables + [table for number, study in enumerate(report['studies']) for table in _of_study(study, number)]


def _mean_points(row: Mapping[str, Any], key: str) -> Cell:
  """A mean difference or regret, with the number of its subsets where it is over some of the run's alone."""
  cell = points(row[f'mean_{key}'], row[f'mean_{key}_interval'])
  return dataclasses.replace(cell, text=cell.text + over_some(row[key]))


def _of_study(study: Mapping[str, Any], number: int) -> list[Table]:
  """A study's table: accuracies, differences, regrets, and the runs behind them."""
  table = study['table']
  means = table['means']
  labels = labels_of(means)
  tables = []
  if means:
    rows = [
      [
        text(row['run']),
        text(len(row.get('seeds', []))),
        text(row.get('epochs')),
        share(row['mean_accuracy']),
        *(share(row['accuracy'].get(label), *(row['interval'].get(label) or ())) for label in labels),
      ]
      for row in means
    ]
    columns = ['run', 'seeds', 'epochs', 'mean', *labels]
    tables.append(Table(f'study{number}', f'Study {study["name"]}: accuracy, means over seeds', columns, rows))
  for key, caption in (
    ('regret', 'regret in points, the expert minus this run'),
    ('difference', f'difference in points, this run minus {table["reference"]}'),
  ):
    rows = [
      [
        text(row['run']),
        points(row[f'mean_{key}'], row.get(f'mean_{key}_interval')),
        *(points(row[key].get(label), row[f'{key}_interval'].get(label)) for label in labels),
      ]
      for row in means
      if row.get(f'mean_{key}') is not None
    ]
    if rows:
      tables.append(Table(f'study{number}-{key}', f'Study {study["name"]}: {caption}', ['run', 'mean', *labels], rows))
  return [*tables, _runs_of_study(study, number)]


def _runs_of_study(study: Mapping[str, Any], number: int) -> Table:
  rows = [
    [
      text(row['name']),
      text('; '.join(f'{key}={value}' for key, value in row.get('changes', {}).items())),
      text(row.get('seed')),
      Cell(duration(row.get('seconds')), row.get('seconds')),
      text(row.get('error') or row.get('status')),
    ]
    for row in study['table']['rows']
  ]
  return Table(
    f'study{number}-runs', f'Study {study["name"]}: its runs', ['run', 'differs in', 'seed', 'time', 'state'], rows
  )


def of_worth(run: Mapping[str, Any]) -> Table:
  """The best subset of each size."""
  found = run['worth']
  judged = '' if found['exact'] else f', of the {len(run["subsets"]):,} that were evaluated'
  rows = [[text(row['size']), text(row['channels']), share(row['accuracy'])] for row in found['best']]
  return Table('best', f'{run["name"]}: the best subset of each size{judged}', ['channels', 'subset', 'accuracy'], rows)


def of_channels(run: Mapping[str, Any]) -> Table:
  """Mean, deviation and correlation of the channels."""
  found, names = run['channel_stats'], run['channels']
  measured = '' if found['images'] is None else f', measured on {found["images"]:,} of the evaluated images'
  rows = [
    [text(name), number(mean, 2), number(deviation, 2), *(number(value, 2) for value in correlation)]
    for name, mean, deviation, correlation in zip(
      names, found['mean'], found['std'], found['correlation'], strict=False
    )
  ]
  columns = ['channel', 'mean', 'deviation', *(f'r with {name}' for name in names)]
  return Table('channels', f'{run["name"]}: channels in raw pixel units{measured}', columns, rows)


def of_differences(report: Mapping[str, Any]) -> Table | None:
  """The fields in which the configs differ; None where they don't."""
  found = report['config_differences']
  if not found:
    return None
  names = list(next(iter(found.values())))
  rows = [[text(field), *(text(values[name]) for name in names)] for field, values in found.items()]
  return Table('differences', 'Fields in which the configs differ', ['field', *names], rows)


def of_config(run: Mapping[str, Any]) -> Table:
  rows = [[text(field), text(value)] for field, value in run['config'].items()]
  return Table('config', f'config.json of {run["name"]}', ['field', 'value'], rows)


def of_provenance(report: Mapping[str, Any]) -> Table:
  """Where the numbers come from: a column for each run."""
  runs = [(run['name'], run['folder'], run['provenance']) for run in report['runs']]
  lines: dict[str, list[str]] = {'folder': [folder for _, folder, _ in runs]}
  for title, shown in (
    ('commit', lambda found: ', '.join(map(short_commit, found['commits']))),
    ('seed', lambda found: found['seed']),
    ('step', lambda found: found['step']),
    ('split', lambda found: found['split']),
    ('data', lambda found: found['root']),
    ('examples', lambda found: found['examples']),
    ('evaluated', lambda found: found['evaluated']),
    ('device', lambda found: found['device']),
    ('time', lambda found: duration(found['seconds'])),
    ('time in training steps', lambda found: duration(found['training_seconds'])),
    ('training images a second', lambda found: found['images_per_second']),
    ('steps skipped, loss not usable', lambda found: found['skipped_steps'] or None),
  ):
    lines[title] = ['' if shown(found) is None else str(shown(found)) for _, _, found in runs]
  for package in dict.fromkeys(name for _, _, found in runs for name in found['versions']):
    lines[package] = [found['versions'].get(package, '') for _, _, found in runs]
  rows = [[text(title), *map(text, values)] for title, values in lines.items() if any(values)]
  return Table('provenance', 'Where the numbers come from', ['what', *(name for name, _, _ in runs)], rows)
