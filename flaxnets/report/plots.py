"""The plots of a report: learning curves, accuracy by size and cost, worth of channels, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxnets.report import figures
from flaxnets.report.figures import COLOURS, MOST, Plot

FEW = 10  # examples in a bin, below which its accuracy is left out as chance


def of_report(report: Mapping[str, Any]) -> dict[str, list[Plot]]:
  """All plots of a report by section: 'subsets', 'curves', 'macs', 'worth', 'calibration'."""
  runs = report['runs']
  evaluated = [run for run in runs if run['evaluated']]
  with figures.settings():
    return {
      'subsets': [_by_size(evaluated)] if any(len(run['subsets']) > 1 for run in evaluated) else [],
      'curves': _curves([run for run in runs if 'absent' not in run['curves']]),
      'macs': [_against_macs(evaluated)] if _with(evaluated, 'macs') else [],
      'worth': [_worth(known)] if (known := [run for run in evaluated if 'absent' not in run['worth']]) else [],
      'calibration': [
        _calibration(run, number) for number, run in enumerate(evaluated) if 'absent' not in run['calibration']
      ],
    }


def _with(runs: Sequence[Mapping[str, Any]], key: str) -> bool:
  return any(row.get(key) is not None for run in runs for row in run['subsets'])


def _numbers(values: Sequence[float | None], scale: float = 1) -> np.ndarray:
  return scale * np.array([np.nan if value is None else value for value in values], float)


def _curves(runs: Sequence[Mapping[str, Any]]) -> list[Plot]:
  """Loss and accuracy, training and validation: in one plot for a run, in one each for several."""
  if not runs:
    return []
  quantities = (('loss', 'loss', 1), ('accuracy', 'accuracy, %', 100))
  if len(runs) == 1:
    curve, name = runs[0]['curves'], runs[0]['name']
    lines = {'training': curve['train'], 'validation': curve['validation']}
    plots = [
      _lines(key, f'{label.split(",")[0].capitalize()} of {name}', lines, key, label, scale)
      for key, label, scale in quantities
    ]
    subsets = curve['validation']['subsets']
    steps = curve['validation']['step']
    if len(subsets) > 1:
      first = dict(list(subsets.items())[:MOST])
      by_subset = {label: {'step': steps, 'accuracy': values} for label, values in first.items()}
      more = '' if len(first) == len(subsets) else f' (the first {len(first)} of {len(subsets)})'
      caption = f'Validation accuracy of {name} on each subset{more}'
      plots.append(_lines('by-subset', caption, by_subset, 'accuracy', 'accuracy, %', 100))
    return plots
  shown = runs[:MOST]
  more = '' if len(shown) == len(runs) else f' (the first {len(shown)} of {len(runs)} runs)'
  return [
    _lines(
      f'{split}-{key}',
      f'{words.capitalize()} {key}{more}',
      {run['name']: run['curves'][split] for run in shown},
      key,
      label,
      scale,
    )
    for key, label, scale in quantities
    for split, words in (('train', 'training'), ('validation', 'validation'))
  ]


def _lines(name: str, caption: str, lines: Mapping[str, Mapping[str, Any]], key: str, label: str, scale: float) -> Plot:
  figure, axes = figures.new_axes(len(lines))
  for number, (line, values) in enumerate(lines.items()):
    few = len(values['step']) <= 12
    axes.plot(
      values['step'],
      _numbers(values[key], scale),
      label=figures.short(line),
      marker='o' if few else None,
      markersize=3,
      **figures.look(number),
    )
  axes.set(xlabel='step', ylabel=label)
  known = np.concatenate([_numbers(values[key], scale) for values in lines.values()])
  known = known[np.isfinite(known) & (known > 0)]
  if key == 'loss' and known.size and known.max() > 20 * np.median(known):
    axes.set_yscale('log')  # one wild value would flatten all others
    axes.yaxis.set_major_formatter('{x:g}')
  else:
    axes.set_ylim(bottom=0)
  figures.legend(axes)
  return Plot(f'curves-{name}', caption, figure)


def _by_size(runs: Sequence[Mapping[str, Any]]) -> Plot:
  """Accuracy against the number of channels: each subset a point, the mean of each size a line."""
  shown = [run for run in runs if run['subsets']][:MOST]
  figure, axes = figures.new_axes(len(shown))
  for number, run in enumerate(shown):
    sizes = np.array([row['size'] for row in run['subsets']])
    accuracy = 100 * np.array([row['accuracy'] for row in run['subsets']])
    shift = 0.12 * (number - (len(shown) - 1) / 2) / max(len(shown) / 4, 1)  # apart, so that runs don't hide each other
    look = figures.look(number)
    axes.plot(sizes + shift, accuracy, 'o', color=look['color'], markersize=3.5, alpha=0.55)
    means = [accuracy[sizes == size].mean() for size in np.unique(sizes)]
    axes.plot(np.unique(sizes) + shift, means, label=figures.short(run['name']), **look)
  axes.set(xlabel='number of channels', ylabel='accuracy, %')
  axes.locator_params('x', integer=True)
  axes.set_ylim(bottom=0)
  figures.legend(axes)
  caption = 'Accuracy on each subset against its number of channels; the line is the mean of a size'
  return Plot('subsets-by-size', caption, figure)


def _against_macs(runs: Sequence[Mapping[str, Any]]) -> Plot:
  shown = [run for run in runs if run['subsets']][:MOST]
  figure, axes = figures.new_axes(len(shown))
  label = len(shown) == 1 and len(shown[0]['subsets']) <= 16
  for number, run in enumerate(shown):
    rows = [row for row in run['subsets'] if row.get('macs') is not None]
    macs, accuracy = ([row[key] * scale for row in rows] for key, scale in (('macs', 1e-6), ('accuracy', 100)))
    ends = [
      [100 * max(row['accuracy'] - row.get('accuracy_low', row['accuracy']), 0) for row in rows],
      [100 * max(row.get('accuracy_high', row['accuracy']) - row['accuracy'], 0) for row in rows],
    ]
    colour = COLOURS[number % len(COLOURS)]
    axes.errorbar(
      macs, accuracy, ends, fmt='o', color=colour, markersize=4, elinewidth=0.8, label=figures.short(run['name'])
    )
  axes.set(xlabel='MACs of one image, millions', ylabel='accuracy, %')
  axes.set_ylim(bottom=0)
  axes.margins(x=0.1)
  if label:
    _name_points(
      axes, {row['channels']: point for row, point in zip(rows, zip(macs, accuracy, strict=True), strict=True)}
    )
  figures.legend(axes)
  return Plot('macs-accuracy', 'Accuracy of each subset against its cost, with 95 % intervals', figure)


def _name_points(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
  """Writes a name beside each point. Names of points with one x are moved apart vertically where they would overlap."""
  scale = 72 / axes.figure.dpi
  for column in {x for x, _ in points.values()}:
    names = sorted((name for name, (x, _) in points.items() if x == column), key=lambda name: points[name][1])
    heights = [scale * axes.transData.transform(points[name])[1] for name in names]
    for name, height, place in zip(names, heights, spread(heights, 9), strict=True):
      axes.annotate(
        figures.short(name, 14), points[name], (5, 2 + place - height), textcoords='offset points', fontsize=8
      )


def spread(places: Sequence[float], gap: float) -> list[float]:
  """Ascending places, moved as little as needed for neighbours to be `gap` apart."""
  groups: list[list[float]] = []  # neighbours that touch, by the places that they want
  for place in places:
    groups.append([place])
    while len(groups) > 1 and _first(groups[-1], gap) - _first(groups[-2], gap) < gap * len(groups[-2]):
      last = groups.pop()
      groups[-1] += last
  return [_first(group, gap) + gap * number for group in groups for number in range(len(group))]


def _first(group: Sequence[float], gap: float) -> float:
  """Where the first of a group stands, so that the group is centred on the places that it wants."""
  return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _worth(runs: Sequence[Mapping[str, Any]]) -> Plot:
  shown = runs[: len(COLOURS)]
  names = list(dict.fromkeys(row['channel'] for run in shown for row in run['worth']['channels']))
  figure, axes = figures.new_axes(
    len(shown), height=0.8 + max(0.3 * len(names), 0.17 * len(names) * len(shown)), left=0.9
  )
  thick = 0.8 / len(shown)
  for number, run in enumerate(shown):
    rows = {row['channel']: row for row in run['worth']['channels']}
    places = [place + thick * (number - (len(shown) - 1) / 2) for place, name in enumerate(names) if name in rows]
    values = [rows[name] for name in names if name in rows]
    errors = [100 * (row['standard_error'] or 0) for row in values]
    axes.barh(
      places,
      [100 * row['worth'] for row in values],
      thick * 0.9,
      xerr=errors if any(errors) else None,
      color=COLOURS[number],
      label=figures.short(run['name']),
    )
  axes.set_yticks(range(len(names)), [figures.short(name, 10) for name in names])
  axes.set_ylim(len(names) - 0.5, -0.5)
  axes.set(xlabel='worth, points of accuracy')
  axes.grid(axis='y', visible=False)
  figures.legend(axes)
  return Plot('worth-channels', 'What each channel is worth: its Shapley value in points of accuracy', figure)


def _calibration(run: Mapping[str, Any], number: int) -> Plot:
  """Accuracy against confidence for some subsets; a well-calibrated network lies on the diagonal."""
  bins, all_small = run['calibration']['bins'], False
  figure, axes = figures.new_axes(len(bins), height=3.4)
  axes.plot([0, 100], [0, 100], color=figures.INK, alpha=0.4, linewidth=0.8)
  for place, (label, found) in enumerate(bins.items()):
    known = [each for each in found if each['count'] >= FEW]
    if not known:
      known, all_small = [each for each in found if each['count']], True
    axes.plot(
      [100 * each['confidence'] for each in known],
      [100 * each['accuracy'] for each in known],
      marker='o',
      markersize=3,
      clip_on=False,
      label=figures.short(label),
      **figures.look(place),
    )
  axes.set(xlabel='confidence, %', ylabel='accuracy, %', xlim=(0, 100), ylim=(0, 100))
  figures.legend(axes)
  shown = f'bins of {FEW} examples or more' + (', or all bins of a subset that has none of these' if all_small else '')
  return Plot(f'calibration-{number}', f'Calibration of {run["name"]}: {shown}', figure)
