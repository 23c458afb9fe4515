"""Reads the folders of runs and studies: configs, metrics, results. A corrupt file is named and skipped."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flaxnets.analysis import results
from flaxnets.errors import InputError
from flaxnets.runtime import records


@dataclasses.dataclass
class Run:
  """One run's folder.

  Attributes:
    name: unique in a report.
    folder: where the run is.
    study: the name of the study that it belongs to, or ''.
    config: config.json, or {}.
    record: study.json, what a study recorded about the run, or {}.
    metrics: the lines of metrics.jsonl.
    result: the result file, eval/<name>.json, that the report shows; None where the run was not evaluated.
    scores: what this file holds, or {}.
    others: the names of the run's other result files.
    problems: one sentence for each file that could not be read.
  """

  name: str
  folder: pathlib.Path
  study: str = ''
  config: dict[str, Any] = dataclasses.field(default_factory=dict)
  record: dict[str, Any] = dataclasses.field(default_factory=dict)
  metrics: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  result: pathlib.Path | None = None
  scores: dict[str, Any] = dataclasses.field(default_factory=dict)
  others: list[str] = dataclasses.field(default_factory=list)
  problems: list[str] = dataclasses.field(default_factory=list)

  @property
  def rows(self) -> list[dict[str, Any]]:
    """The results of the subsets, in the order of the result file."""
    return self.scores.get('subsets', [])

  @property
  def labels(self) -> list[str]:
    return [row['channels'] for row in self.rows]

  @property
  def expert_of(self) -> str:
    """The subset that an expert was trained on; '' for other runs."""
    return self.config.get('train', {}).get('subset') or ''

  @functools.cached_property
  def arrays(self) -> dict[str, np.ndarray]:
    """The arrays of the .npz beside the result file; {} where it is missing or corrupt."""
    if self.result is None:
      return {}
    try:
      return results.read_arrays(self.result, self.scores)
    except InputError as error:
      self.problems.append(f'{error}.')
      return {}

  @functools.cached_property
  def hits(self) -> results.Hits | None:
    """Which images each subset gets right; None where the predictions are missing."""
    if self.result is None or not self.arrays:
      return None
    try:
      return results.read_hits(self.result)[1]
    except InputError as error:
      self.problems.append(f'{error}.')
      return None


@dataclasses.dataclass(frozen=True)
class StudyTable:
  """A study's table.json."""

  name: str
  table: Mapping[str, Any]


def find(folders: Sequence[str], result: str = '') -> tuple[list[Run], list[StudyTable]]:
  """The runs and the studies' tables in some folders.

  Args:
    folders: of runs, or of studies: folders with a table.json or with runs in them.
    result: the name of the result file, eval/<name>.json; '' for 'test', or the latest where there is none.

  Raises:
    InputError: for a folder that is neither.
  """
  runs, tables = [], []
  for name in dict.fromkeys(folders):
    folder = pathlib.Path(name)
    if not folder.is_dir():
      raise InputError(f'{name} is not a folder; give the folder of a run or of a study')
    if _is_run(folder):
      runs.append(_read(folder, '', result))
      continue
    inside = sorted(child for child in folder.iterdir() if child.is_dir() and _is_run(child))
    table = _table(folder)
    if not inside and table is None:
      raise InputError(
        f'{name} holds neither a run (config.json, metrics.jsonl or eval) nor a study (table.json or runs)'
      )
    study = _name(folder, 1)
    children = [_read(child, study, result) for child in inside]
    runs += _in_order(children, table)
    if table is not None:
      tables.append(StudyTable(study, table))
  _make_unique(runs)
  return runs, tables


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A file's object; {} where the file is missing.

  Raises:
    InputError: if it is corrupt.
  """
  try:
    return records.read(path)
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as error:
    raise InputError(f'{path} cannot be read ({error})') from None


def _is_run(folder: pathlib.Path) -> bool:
  return any((folder / name).exists() for name in ('config.json', 'metrics.jsonl', 'eval'))


def _table(folder: pathlib.Path) -> dict[str, Any] | None:
  table = read_json(folder / 'table.json')
  if table and not {'rows', 'means', 'reference'} <= set(table):
    raise InputError(f'{folder / "table.json"} is not the table of a study; flaxnets study --table writes it')
  return table or None


def _in_order(runs: list[Run], table: Mapping[str, Any] | None) -> list[Run]:
  """A study's runs in the order of its table; those that it lacks last, and of these the experts."""
  order = [row['name'] for row in table['rows']] if table else []
  return sorted(runs, key=lambda run: (order.index(run.name) if run.name in order else len(order), bool(run.expert_of)))


def _read(folder: pathlib.Path, study: str, result: str) -> Run:
  run = Run(_name(folder, 1), folder, study)
  for field, file in (('config', 'config.json'), ('record', 'study.json')):
    try:
      setattr(run, field, read_json(folder / file))
    except InputError as error:
      run.problems.append(f'{error}.')
  run.metrics = _metrics(folder / 'metrics.jsonl', run.problems)
  _read_result(run, result)
  return run


def _metrics(path: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
  """The lines of a metrics.jsonl; the last may be half written while the run goes on."""
  if not path.exists():
    return []
  found, corrupt = [], 0
  lines = path.read_text('utf-8', 'replace').splitlines()
  for number, text in enumerate(lines):
    try:
      line = records.loads(text)
      found.append({**line, 'step': int(line['step']), 'split': str(line['split'])})
    except (ValueError, KeyError, TypeError):
      corrupt += number < len(lines) - 1
  if corrupt:
    problems.append(f'{path}: {corrupt} corrupt lines were skipped.')
  return found


def _read_result(run: Run, wanted: str) -> None:
  """Sets the run's result file: the one that is wanted, else 'test', else the latest."""
  scores = {}
  for path in sorted((run.folder / 'eval').glob('[!.]*.json')):  # hidden ones are of a writer that was killed
    try:
      found = read_json(path)
    except InputError as error:
      run.problems.append(f'{error}; evaluate the run again.')
      continue
    if found.get('subsets') and all('channels' in row and 'accuracy' in row for row in found['subsets']):
      scores[path.stem] = found
    else:
      run.problems.append(f'{path} is not a result file of flaxnets eval.')
  if wanted and wanted not in scores:
    names = ', '.join(scores) or 'none'
    run.problems.append(f'{run.folder} has no result {wanted!r} (results: {names}).')
    return
  if not scores:
    return
  latest = max(scores, key=lambda name: str(scores[name].get('date', '')))
  chosen = wanted or ('test' if 'test' in scores else latest)
  run.result, run.scores = run.folder / 'eval' / f'{chosen}.json', scores[chosen]
  run.others = [name for name in scores if name != chosen]


def _make_unique(runs: Sequence[Run]) -> None:
  """Puts as many of the folders above before a run's name as it takes to tell the runs apart."""
  for depth in range(2, 20):
    repeated = _repeated(run.name for run in runs)
    if not repeated:
      return
    for run in runs:
      if run.name in repeated:
        run.name = _name(run.folder, depth)


def _name(folder: pathlib.Path, depth: int) -> str:
  """The last parts of a folder's path; bytes that are not UTF-8, which Matplotlib refuses, become as in \\udce9."""
  return '/'.join(folder.resolve().parts[-depth:]).encode('utf-8', 'backslashreplace').decode()


def _repeated(names: Iterable[str]) -> set[str]:
  return {name for name, count in collections.Counter(names).items() if count > 1}
