"""What the folders of runs and studies hold, as one plain dict: the content of every format of a report.

A section without data is `{'absent': sentence, 'command': command}`, with the command that would give them or ''.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxnets import config as configs
from flaxnets.analysis import results, worth
from flaxnets.analysis.results import AccuracyTable
from flaxnets.channels import ChannelSet
from flaxnets.data.source import Source
from flaxnets.errors import InputError
from flaxnets.report import compare, confusions, curves, examples, folders, pictures, words
from flaxnets.report.folders import Run
from flaxnets.runtime import provenance

SHOWN = 6  # subsets of a run whose kernels and calibration are shown
COMPARED = 4  # subsets of a run whose right and wrong images are compared
PICTURED = 8  # runs of a report whose images are shown
FEATURES = 24  # kernels in a row
_LEFT_OUT = ('confusion', 'calibration')  # of a result's row: in sections of their own


def gather(names: Sequence[str], *, result: str = '', against: str = '', root: str = '') -> dict[str, Any]:
  """Reads some folders of runs and studies.

  Args:
    names: the folders.
    result: the name of the result file, eval/<name>.json; '' for 'test', or the latest where there is none.
    against: the name of the run that differences are taken to; '' for the first that is no expert.
    root: where the images are, if not where the result files say.

  Returns:
    Plain values for JSON: 'title', 'date', 'summary' (sentences), 'runs', 'comparison', 'studies',
    'config_differences'.

  Raises:
    InputError: for a folder that is neither a run nor a study, or an unknown reference.
  """
  runs, tables = folders.find(names, result)
  shared = compare.compared(runs, against)
  sides = confusions.bins_of(
    [len(run.scores.get('classes', [])) for run in runs], [max(len(run.rows), 1) for run in runs]
  )
  tabled = confusions.with_classes(
    [len(run.scores.get('classes', [])) for run in runs], [len(run.rows) for run in runs]
  )
  return {
    'title': ', '.join([table.name for table in tables] or [run.name for run in runs[:4]]),
    'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
    'versions': provenance.versions(('flaxnets', 'numpy', 'matplotlib')),
    'summary': [*map(words.of_study, tables), *([] if shared is None else words.of_comparison(shared))],
    'runs': [
      _run(run, _compared_row(shared, run.name), side, per_class, _open(run, root, place))
      for place, (run, side, per_class) in enumerate(zip(runs, sides, tabled, strict=True))
    ],
    'comparison': shared or words.absent(*_why_not_compared(runs)),
    'studies': [{'name': table.name, 'table': dict(table.table)} for table in tables],
    'config_differences': compare.config_differences(runs),
  }


def _why_not_compared(runs: Sequence[Run]) -> tuple[str, str]:
  if len(runs) < 2:
    own = shlex.quote(str(runs[0].folder)) if runs else 'DIR'
    return 'There is no second run to compare with.', f'flaxnets report {own} OTHER_DIR'
  missing = next((run for run in runs if not run.arrays), None)
  command = words.evaluate_command(missing) if missing else ''
  return 'Fewer than two runs were evaluated on the same images.', command


def _compared_row(shared: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
  return next((row for row in shared['rows'] if row['run'] == name), None) if shared else None


def _run(
  run: Run, compared: Mapping[str, Any] | None, side: int, per_class: bool, opened: tuple[Source | None, str]
) -> dict[str, Any]:
  """Everything about one run; `opened` is what `_open` gives."""
  curve = curves.of(run.metrics)
  source, reason = opened
  found = {
    'name': run.name,
    'folder': str(run.folder),
    'study': run.study,
    'evaluated': bool(run.rows),
    'evaluate': words.evaluate_command(run),
    'train': words.train_command(run),
    'result': run.result.stem if run.result else '',
    'other_results': run.others,
    'expert_of': run.expert_of,
    'model': run.scores.get('model') or run.config.get('model', {}).get('name', ''),
    'channels': list(run.scores.get('channels', [])),
    'curves': curve if curve['step'] is not None else words.absent('No step is logged yet.', words.train_command(run)),
    'subsets': _subset_rows(run, compared),
    'worth': _worth(run),
    'confusions': confusions.of_run(run, side, per_class) if run.rows else {'classes': [], 'subsets': {}},
    'calibration': _calibration(run),
    'kernels': _kernels(run),
    'channel_stats': _channel_stats(run, source, reason),
    'examples': _examples(run, source, reason),
    'config': configs.flattened(run.config),
    'provenance': _provenance(run, curve),
  }
  if not found['confusions']['subsets']:
    missing = 'The predictions of this run are missing.' if run.rows else 'The run is not evaluated yet.'
    found['confusions'] |= words.absent(missing, words.evaluate_command(run))
  found['summary'] = words.of_run(run, curve['step'], curve['skipped'])
  return found


def _subset_rows(run: Run, compared: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  """The result's rows without matrices, each with its size, and its difference and regret where runs are compared."""
  rows = []
  for row in run.rows:
    kept = {key: value for key, value in row.items() if key not in _LEFT_OUT}
    kept['size'] = _size(run, row['channels'])
    label = results.shared_label(row['channels'])
    for key in ('difference', 'difference_interval', 'regret', 'regret_interval'):
      kept[key] = compared[key].get(label) if compared else None
    rows.append(kept)
  return rows


def _size(run: Run, label: str) -> int:
  return len(ChannelSet(tuple(run.scores['channels'])).subset(label)) if run.scores.get('channels') else len(label)


def _worth(run: Run) -> dict[str, Any]:
  if not run.rows:
    return words.absent('The run is not evaluated yet.', words.evaluate_command(run))
  least = confusions.largest_class_share(run)
  if least is None or not run.scores.get('channels'):
    return words.absent('The labels of the images are missing.', words.evaluate_command(run))
  channels = ChannelSet(tuple(run.scores['channels']))
  accuracy = {channels.subset(row['channels']): float(row['accuracy']) for row in run.rows}
  try:
    return worth.worth(AccuracyTable(channels, {(): least, **accuracy}))
  except InputError as error:
    return words.absent(f'Worths need the accuracy of more subsets: {error}.', words.worth_command(run))


def chosen(rows: Sequence[Mapping[str, Any]], sizes: Sequence[int], most: int) -> list[str]:
  """Labels of some subsets that stand for all: the largest, the worst of each size, then others in their order."""
  by_size: dict[int, list[int]] = {}
  for place, size in enumerate(sizes):
    by_size.setdefault(size, []).append(place)
  worst = [min(places, key=lambda place: rows[place]['accuracy']) for _, places in sorted(by_size.items())]
  order = list(dict.fromkeys([0, *worst, *range(len(rows))]))[:most]
  return [rows[place]['channels'] for place in sorted(order)]


def _chosen(run: Run, most: int) -> list[str]:
  return chosen(run.rows, [_size(run, label) for label in run.labels], most)


def _calibration(run: Run) -> dict[str, Any]:
  known = {row['channels']: row['calibration'] for row in run.rows if row.get('calibration')}
  if not known:
    return words.absent('The result file has no calibration.', words.evaluate_command(run))
  return {'bins': {label: known[label] for label in _chosen(run, SHOWN) if label in known}}


def _kernels(run: Run) -> dict[str, Any]:
  """Sheets of the first layer's kernels, as data URIs, on one scale."""
  labels = [label for label in (_chosen(run, SHOWN) if run.rows else []) if f'kernel/{label}' in run.arrays]
  kernels = {label: np.asarray(run.arrays[f'kernel/{label}'], np.float64) for label in labels}
  if not kernels or any(kernel.ndim != 4 or not kernel.size for kernel in kernels.values()):
    return words.absent('The kernels of the first layer are not stored.', words.evaluate_command(run))
  first = kernels[labels[0]]
  features = pictures.strongest(first, FEATURES)
  scale = max(float(np.quantile(np.abs(first[..., features]), 0.995)), 1e-12)
  channels = ChannelSet(tuple(run.scores['channels'])) if run.scores.get('channels') else None
  zoom = max(28 // (first.shape[1] + 1), 2)  # screen pixels for a weight
  return {
    'features': int(first.shape[3]),
    'shown': len(features),
    'scale': scale,
    'sheets': [
      {
        'subset': label,
        'channels': [channels.names[place] for place in channels.subset(label)] if channels else [label],
        'width': zoom * (len(features) * (kernel.shape[1] + 1) - 1),
        'height': zoom * (kernel.shape[2] * (kernel.shape[0] + 1) - 1),
        'uri': pictures.uri(pictures.kernel_sheet(kernel, features, scale), 'png'),
      }
      for label, kernel in kernels.items()
    ],
  }


def _open(run: Run, root: str, place: int) -> tuple[Source | None, str]:
  """The images that a run was judged on, or None and the reason."""
  if not run.arrays:
    return None, 'its predictions are missing' if run.rows else 'the run is not evaluated yet'
  if place >= PICTURED:
    return None, f'a report shows those of its first {PICTURED} runs'
  try:
    return examples.open_images(run, root), ''
  except (OSError, KeyError, ValueError) as error:  # InputError is a ValueError
    return None, str(error) if isinstance(error, InputError) else f'{type(error).__name__}: {error}'


def _examples(run: Run, source: Source | None, reason: str) -> dict[str, Any]:
  if not run.arrays:
    return words.absent(f'No images are shown, for {reason}.', words.evaluate_command(run))
  if len(run.scores.get('channels', [])) == 1:
    return words.absent('The network has one channel, and so no two subsets to compare.')
  if len(run.rows) < 2:
    return words.absent('One subset alone was evaluated.', words.evaluate_command(run, 'all'))
  labels = _chosen(run, COMPARED)
  found: dict[str, Any] = {'labels': labels, 'images': examples.pick(run, labels)}
  if source is None:
    command = f'flaxnets report {shlex.quote(str(run.folder))} --root=FOLDER'
    return found | words.absent(f'The images are not shown: {reason}.', command)
  examples.add_pictures(found['images'], source)
  return found


def _channel_stats(run: Run, source: Source | None, reason: str) -> dict[str, Any]:
  stored = run.scores.get('channel_stats') or {}
  if stored.get('correlation'):  # a network with an ordinary first layer stores none
    return {**stored, 'images': None}
  if source is None:
    return words.absent(f'The channels cannot be measured: {reason}.', words.evaluate_command(run))
  measured = examples.measured_statistics(source, ChannelSet(tuple(run.scores['channels'])))
  return measured or words.absent('The images lack some of the channels.', words.evaluate_command(run))


def _provenance(run: Run, curve: Mapping[str, Any]) -> dict[str, Any]:
  scores, record = run.scores, run.record
  batch_size = run.config.get('train', {}).get('batch_size')
  commits = list(dict.fromkeys([*record.get('commits', []), *([scores['commit']] if 'commit' in scores else [])]))
  return {
    'commits': commits,
    'versions': scores.get('versions') or record.get('versions', {}),
    'device': scores.get('device') or record.get('device', ''),
    'seed': scores.get('seed', run.config.get('seed')),
    'step': scores.get('step', curve['step']),
    'evaluated': scores.get('date', ''),
    'split': scores.get('split', ''),
    'root': scores.get('root', ''),
    'examples': scores.get('examples'),
    'ema': scores.get('ema'),
    'recalibrated': scores.get('recalibrated'),
    'seconds': record.get('seconds'),
    'training_seconds': curves.seconds(run.metrics, batch_size) if batch_size else None,
    'images_per_second': curve['images_per_second'],
    'skipped_steps': curve['skipped'],
  }
