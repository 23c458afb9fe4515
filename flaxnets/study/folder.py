"""Where a study's runs lie, and what it records about them. Runs nothing.

A run's folder holds RECORD, what the study knows of the run besides its results: `seconds` over all processes that
ended (a process that was killed together with the study is not counted), `commits` of flaxnets that trained or
evaluated it, `versions`, `device`, `error` ('' for none), `judged`, what it was last evaluated on, and `training_macs`,
the forward MACs of an image with all channels by its side in pixels, for image_size and all training images.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from flaxnets import config as configs
from flaxnets.analysis import results
from flaxnets.analysis.result_names import result_path
from flaxnets.errors import InputError
from flaxnets.runtime import atomic, records, workdir
from flaxnets.study.plan import PlannedRun

RECORD = 'study.json'


def recorded(folder: pathlib.Path) -> dict[str, Any]:
  """What a run's RECORD holds; nothing if it is absent, incomplete or corrupt."""
  return records.read_or_empty(folder / RECORD)


def note(folder: pathlib.Path, **fields: Any) -> None:
  """Updates some fields of a run's RECORD; the others stay. Raises InputError if it cannot be written."""
  with atomic.writing(folder / RECORD):
    records.write(folder / RECORD, {**recorded(folder), **fields}, indent=1)


@dataclasses.dataclass(frozen=True)
class Study:
  """Runs, the folder that they lie in, and what they are judged on.

  Attributes:
    runs: all, in their order.
    out: the folder.
    split, root, subsets: as the flags of `flaxnets eval`.
  """

  runs: Sequence[PlannedRun]
  out: pathlib.Path
  split: str = 'test'
  root: str = ''
  subsets: str = ''

  def folder(self, run: PlannedRun) -> pathlib.Path:
    return self.out / run.name

  def scores_file(self, run: PlannedRun) -> pathlib.Path:
    return result_path(self.folder(run), {'split': self.split, 'root': self.root})

  def judging(self, run: PlannedRun) -> dict[str, str]:
    """What the run is to be judged on; always all of its channels, for the cost of training is read off there."""
    subsets = f'full;{self.subsets}' if self.subsets else ''
    return {'split': self.split, 'root': self.root, 'subsets': 'full' if run.config.train.subset else subsets}

  def conflict(self, run: PlannedRun) -> str:
    """Why the run's folder holds a different run; '' where it does not, or holds no run that can be read."""
    try:
      stored = workdir.stored_config(self.folder(run) / 'config.json')
    except InputError as error:
      return str(error)
    except (OSError, ValueError):
      return ''
    differing = workdir.differences(stored, configs.to_json(run.config))
    return '; '.join(f'{name} is {old!r} in its folder and {new!r} here' for name, (old, new) in differing.items())

  def finished(self, run: PlannedRun) -> bool:
    record = recorded(self.folder(run))
    return (
      not record.get('error')
      and record.get('judged') == self.judging(run)
      and not self.conflict(run)
      and self._readable(run)
    )

  def _readable(self, run: PlannedRun) -> bool:
    """Whether the run has a result that can be read; one that cannot is evaluated again."""
    try:
      results.read_hits(self.scores_file(run))
    except InputError:
      return False
    return True

  def named(self, name: str) -> PlannedRun:
    return next(run for run in self.runs if run.name == name)
