"""Reads every file of a run, a study or an export, and compares it with its digest.

| what | its digest |
|---|---|
| `checkpoints/N`, `recalibrated/N` | of every array and of the meta, in the meta |
| `config.json`, `study.json`, `table.json`, `report.json`, `eval/*.json` | the field `digest` of the object |
| `eval/*.npz` | of every array, in the JSON beside it |
| `metrics.jsonl` | the field `digest` of every line |
| an exported FILE | sha256 of the file in FILE.json, which has a `digest`; of every array in a safetensors header |
| `tensorboard/events*` | the CRC-32C of every record, as TensorBoard's format has it |

Other files, such as `parameters.txt`, logs, pages and what people put there, are not compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import safetensors

from flaxnets.analysis import results
from flaxnets.analysis.text import counted
from flaxnets.errors import InputError, one_line
from flaxnets.inference.export import sidecar
from flaxnets.runtime import records
from flaxnets.runtime.checkpoint import METRIC, Checkpoints
from flaxnets.runtime.digests import array_digests, text_digest

_STORES = {'checkpoints': 'checkpoint', 'recalibrated': 'recalibration'}
_RECORDS = ('config.json', 'study.json', 'table.json', 'report.json')
_EXPORTS = ('.stablehlo', '.onnx')  # endings of files that must have a description beside them


class Undigested(Exception):
  """A file of version 0.1.0, which can be read but has no digest to compare it with."""


@dataclasses.dataclass(frozen=True)
class Part:
  """One thing to be compared.

  Attributes:
    path: the file, or a checkpoint's folder.
    kind: 'checkpoint', 'recalibration', 'result', 'record', 'journal', 'export', 'event file', or 'run' for what only
      several files tell together.
    check: reads and compares it. Raises ValueError (of which InputError is one) or OSError where it is corrupt, and
      Undigested.
  """

  path: pathlib.Path
  kind: str
  check: Callable[[], None]

  def problem(self) -> str:
    """One line that says what is wrong with it; '' where nothing is.

    Raises:
      Undigested: if there is nothing to compare it with.
    """
    try:
      self.check()
    except InputError as error:
      named = any(str(path) in str(error) for path in (self.path, self.path.resolve()))
      return str(error) if named else f'{self.path}: {error}'
    except OSError as error:
      return f'{error.filename or self.path}: cannot be read: {error.strerror or error}'
    except Undigested:
      raise
    except Exception as error:  # what a library raises for a damaged file may be anything
      return f'{self.path}: is corrupt: {one_line(error)}'
    return ''


def parts(root: pathlib.Path) -> Iterator[Part]:
  """What there is to compare in a folder and the folders in it, or of one exported file.

  Raises:
    InputError: if there is no such folder or file.
  """
  if root.is_file():
    described = sidecar(root) if sidecar(root).exists() else root
    yield from _of_file(described)
    return
  if not root.is_dir():
    raise InputError(f'{root} is not a folder; give that of a run or a study, or an exported file')
  for place, inner, files in os.walk(root):
    folder = pathlib.Path(place)
    inner[:] = sorted(name for name in inner if not name.startswith('.') and not name.endswith('-corrupt'))
    for name in [name for name in inner if name in _STORES]:
      inner.remove(name)
      yield from _of_store(folder / name, _STORES[name])
    if (folder / 'checkpoints').is_dir():
      yield Part(folder, 'run', lambda folder=folder: _check_run(folder))  # type: ignore[misc]
    for name in sorted(name for name in files if not name.startswith('.')):  # hidden: what a killed writer left
      yield from _of_file(folder / name)


def _of_store(folder: pathlib.Path, kind: str) -> Iterator[Part]:
  with contextlib.closing(Checkpoints(folder, writing=False)) as store:
    steps = store.steps()
  for step in steps:

    def check(step: int = step) -> None:
      with contextlib.closing(Checkpoints(folder, writing=False)) as store:
        store.restore(step)

    yield Part(folder / str(step), kind, check)


def _of_file(path: pathlib.Path) -> Iterator[Part]:
  if path.suffix == '.json' and path.parent.name == 'eval':
    yield Part(path, 'result', lambda: _check_result(path))
  elif path.name in _RECORDS or path.suffix == '.json' and _describes(path):
    yield Part(path, 'record', lambda: _check_record(path))
  elif path.name == 'metrics.jsonl':
    yield Part(path, 'journal', lambda: _check_journal(path))
  elif path.suffix == '.safetensors':
    yield Part(path, 'export', lambda: _check_safetensors(path))
  elif path.name.startswith('events.out.tfevents'):
    yield Part(path, 'event file', lambda: _check_events(path))
  elif path.suffix in _EXPORTS and not sidecar(path).exists():
    yield Part(path, 'export', lambda: _missing(sidecar(path)))


def _describes(path: pathlib.Path) -> bool:
  """Whether a .json is the description of an exported file, which may be missing."""
  described = path.with_suffix('')
  return described.suffix in _EXPORTS or described.is_file()


def _missing(path: pathlib.Path) -> None:
  raise InputError(f'{path} is missing; export again')


def _read(path: pathlib.Path) -> tuple[dict[str, Any], bool]:
  """A record, and whether it has a digest."""
  text = path.read_text(encoding='utf-8')
  if not text.strip():
    raise ValueError('the file is empty')
  try:
    values = json.loads(text)
  except ValueError as error:
    raise ValueError(f'not JSON ({error})') from None
  return records.checked(values)


def _check_record(path: pathlib.Path) -> None:
  """config.json, study.json, table.json, or the description of an exported file."""
  values, digested = _read(path)
  if str(values.get('format', '')).startswith('flaxnets-') and 'sha256' in values:
    exported = path.with_name(path.name.removesuffix('.json'))
    if hashlib.sha256(exported.read_bytes()).hexdigest() != values['sha256']:
      raise InputError(f'{exported} differs from the sha256 in {path.name}; export again')
  if not digested:
    raise Undigested


def _check_result(path: pathlib.Path) -> None:
  scores, digested = _read(path)
  results.read_arrays(path, scores)
  if not digested:
    raise Undigested


def _check_journal(path: pathlib.Path) -> None:
  digested = True
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    try:
      digested &= records.checked(json.loads(line))[1]
    except ValueError as error:
      raise InputError(f'{path}, line {number}: {error}') from None
  if not digested:
    raise Undigested


def _check_safetensors(path: pathlib.Path) -> None:
  try:
    with safetensors.safe_open(path, 'np') as file:
      texts = dict(file.metadata() or {})
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
  except safetensors.SafetensorError as error:
    raise ValueError(str(error)) from None
  if records.DIGEST not in texts:
    raise Undigested
  if texts.pop(records.DIGEST) != text_digest(texts):
    raise records.ChangedRecord(f'its header differs from the field {records.DIGEST!r}')
  _compare(array_digests(arrays), json.loads(texts['digests']))


def _compare(actual: Mapping[str, str], expected: Mapping[str, str]) -> None:
  changed = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
  if changed:
    raise ValueError(f'it differs from what was saved in {", ".join(changed[:3])}')


def _check_events(path: pathlib.Path) -> None:
  """A record is its length, the CRC of that, its data and the CRC of these. A killed run leaves the last one cut."""
  from tensorboardX.record_writer import masked_crc32c

  data, place = path.read_bytes(), 0
  while place + 12 <= len(data):
    length, crc = struct.unpack_from('<QI', data, place)
    if masked_crc32c(data[place : place + 8]) != crc:
      raise ValueError(f'the record at byte {place:,} differs from its checksum')
    end = place + 12 + length
    if end + 4 <= len(data) and masked_crc32c(data[place + 12 : end]) != struct.unpack_from('<I', data, end)[0]:
      raise ValueError(f'the record at byte {place:,} differs from its checksum')
    place = end + 4


def _check_run(folder: pathlib.Path) -> None:
  """That no file or checkpoint is missing, as far as the others tell."""
  if not (folder / 'config.json').exists():
    raise InputError(f'{folder / "config.json"} is missing')
  store = Checkpoints(folder / 'checkpoints', writing=False)
  try:
    metas = {step: store.meta(step) for step in store.steps()}
  except InputError:  # named as the checkpoint's own problem
    return
  finally:
    store.close()
  if not metas:
    return
  latest = max(metas)
  best = metas[latest].get('progress', {}).get('best')
  if best is not None and best not in [meta['metrics'].get(METRIC) for meta in metas.values()]:
    raise InputError(f'{folder / "checkpoints"}: the checkpoint of the best validation ({best:.4f}) is missing')
  if latest:  # at step 0 is what convert and adapt write, and nothing was trained
    _check_reaches(folder / 'metrics.jsonl', latest)


def _check_reaches(path: pathlib.Path, step: int) -> None:
  try:
    reached = max((records.loads(line)['step'] for line in path.read_text().splitlines()), default=0)
  except FileNotFoundError:
    raise InputError(f'{path} is missing') from None
  except (ValueError, KeyError, TypeError):  # named as the file's own problem
    return
  if reached < step:
    raise InputError(f'{path} ends at step {reached:,}, but there is a checkpoint of step {step:,}')


@dataclasses.dataclass
class Outcome:
  """What a verification found.

  Attributes:
    problems: a line for each corrupt part.
    intact: how many parts of each kind are as they were written.
    undigested: paths of intact parts that have no digest.
  """

  problems: list[str] = dataclasses.field(default_factory=list)
  intact: dict[str, int] = dataclasses.field(default_factory=dict)
  undigested: list[pathlib.Path] = dataclasses.field(default_factory=list)

  def summary(self) -> str:
    """What is intact, in words."""
    said = ', '.join(counted(count, kind) for kind, count in self.intact.items() if kind != 'run')
    return said or 'nothing'


def verify(root: str | os.PathLike[str]) -> Outcome:
  """Compares every part of a folder; see `parts`."""
  outcome = Outcome()
  for part in parts(pathlib.Path(root)):
    try:
      problem = part.problem()
    except Undigested:
      problem = ''
      outcome.undigested.append(part.path)
    if problem:
      outcome.problems.append(problem)
    else:
      outcome.intact[part.kind] = outcome.intact.get(part.kind, 0) + 1
  return outcome
