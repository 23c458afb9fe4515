"""The table of a study as Markdown, in per cent and percentage points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxnets.analysis.text import labels_of, markdown_grid, over_some, short_commit


def markdown(table: Mapping[str, Any]) -> str:
  """A table of `flaxnets.study.table.make_table` as Markdown."""
  means, labels = table['means'], labels_of(table['means'])
  parts = [_summary(table, labels)]
  if any(row['mean_regret'] is not None for row in means):
    parts.append(_differences_table('Regret in points: the expert minus this run', 'regret', means, labels))
  if any(row['mean_difference'] is not None for row in means):
    parts.append(
      _differences_table(f'Difference in points: this run minus {table["reference"]}', 'difference', means, labels)
    )
  parts.append(_runs(table['rows']))
  return '\n\n'.join(parts) + '\n'


def _summary(table: Mapping[str, Any], labels: Sequence[str]) -> str:
  """The accuracies and the cost of each run, averaged over its seeds."""
  cost, over_subsets = ('epochs', 'images', 'training TMACs'), ('mean', 'worst', 'mean regret', 'max regret')
  lines = []
  for row in table['means']:
    worst = row['worst_subset']
    lines.append(
      [
        row['run'],
        len(row['seeds']),
        row['epochs'],
        f'{row["images_seen"]:,}',
        _tera(row['training_macs']),
        *(f'{100 * row["accuracy"][label]:.1f}' if label in row['accuracy'] else '' for label in labels),
        f'{100 * row["mean_accuracy"]:.1f}',
        f'{worst} {100 * row["accuracy"][worst]:.1f}',
        _points(row['mean_regret']) + over_some(row['regret']),
        _points(row['max_regret']),
      ]
    )
  return f'{_caption(table)}\n\n' + markdown_grid(['run', 'seeds', *cost, *labels, *over_subsets], lines)


def _caption(table: Mapping[str, Any]) -> str:
  if not table['means']:
    return 'No run has finished yet.'
  # An interval near 0 or 100 % reaches further to one side than to the other.
  farthest = max(
    max(row['accuracy'][label] - low, high - row['accuracy'][label])
    for row in table['means']
    for label, (low, high) in row['interval'].items()
  )
  return (
    f'Accuracy in per cent on {table["examples"]:,} examples of {table["split"]!r}; 95 % intervals are at most '
    f'+- {100 * farthest:.1f}. Accuracies are averaged over seeds. Intervals are over examples, not over seeds. '
    'Mean and worst are over the subsets that a run was evaluated on.'
  )


def _tera(macs: float) -> str:
  """MACs in TMACs; two digits of what is below one."""
  return f'{macs / 1e12:,.1f}' if macs >= 1e12 else f'{macs / 1e12:.2g}'


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


def _runs(rows: Sequence[Mapping[str, Any]]) -> str:
  """What each run differs in, its time, its commits and its state."""
  lines = [
    [
      row['name'],
      '; '.join(f'{key}={value}' for key, value in row['changes'].items()),
      row['seed'],
      '' if row['seconds'] is None else f'{row["seconds"] / 3600:.2f}',
      ', '.join(map(short_commit, row['commits'])),
      row['error'] or row['status'] + (f', {row["skipped_steps"]} steps skipped' if row.get('skipped_steps') else ''),
    ]
    for row in rows
  ]
  return markdown_grid(['run', 'differs in', 'seed', 'hours', 'commit', 'state'], lines)


def _points(value: float | None) -> str:
  return '' if value is None else f'{100 * value:.1f}'
