"""The runs of a study, each with its complete config, from the study's config file."""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from flaxnets.errors import InputError


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """One run of a study.

  Attributes:
    name: the name of its folder.
    stem: its name without a seed; all seeds of a run share it.
    config: its complete config.
    changes: the fields in which it differs from the shared config, and `weights`.
    weights: the name of the run whose weights it is evaluated with; '' for its own.
  """

  name: str
  stem: str
  config: ml_collections.ConfigDict
  changes: dict[str, Any]
  weights: str = ''

  @property
  def network(self) -> tuple[Any, ...]:
    """The fields that an expert shares with the runs that are compared with it."""
    return self.config.model.name, self.config.model.width, self.config.image_size


def plan(shared: ml_collections.ConfigDict, runs: Mapping[str, Mapping[str, Any]]) -> list[PlannedRun]:
  """The runs of a study.

  Args:
    shared: the config that all runs share.
    runs: for each stem the fields that differ, in the order of execution; see `flaxnets study --help`.

  Raises:
    InputError: for names that are not folder names or are repeated, unknown fields, values of the wrong type, and
      weights of a run that does not exist, or no seed.
  """
  planned: dict[str, PlannedRun] = {}
  for stem, changes in runs.items():
    fields = dict(changes)
    weights, seeds = fields.pop('weights', ''), fields.pop('seed', shared.seed)
    if seeds in ((), []):
      raise InputError(f'run {stem!r}: seed is empty; give one seed or several')
    for seed in seeds if isinstance(seeds, tuple | list) else (seeds,):
      suffix = '' if seed == shared.seed else f'-seed{seed}'
      name = stem + suffix
      if not stem or name != pathlib.PurePath(name).name or name in planned:
        raise InputError(f'run {name!r}: names must be unique and valid folder names')
      if weights and (weights + suffix not in planned or planned[weights + suffix].weights):
        raise InputError(
          f'run {name!r} uses the weights of {weights + suffix!r}, which is not an earlier run that trains'
        )
      config = shared.copy_and_resolve_references().lock()
      try:
        config.update_from_flattened_dict({**fields, 'seed': seed})
      except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'run {name!r}: {" ".join(str(error.args[0]).split())}') from None
      shown = {**fields, **({'seed': seed} if suffix else {}), **({'weights': weights + suffix} if weights else {})}
      planned[name] = PlannedRun(name, stem, config, shown, weights + suffix if weights else '')
  if not planned:
    raise InputError('the study has no runs; get_runs() must return a dict from name to changes')
  return list(planned.values())


def chosen(runs: Sequence[PlannedRun], only: str) -> list[PlannedRun]:
  """The runs whose name or stem matches one of the comma-separated patterns; all runs for ''.

  Raises:
    InputError: for a pattern that matches no run, or commas alone.
  """
  if not only:
    return list(runs)
  names: set[str] = set()
  for pattern in list(filter(None, map(str.strip, only.split(',')))) or [only]:
    matching = {run.name for run in runs if any(fnmatch.fnmatchcase(name, pattern) for name in (run.name, run.stem))}
    if not matching:
      raise InputError(f'--only={pattern} is not a run; choose from {", ".join(run.name for run in runs)}')
    names |= matching
  return [run for run in runs if run.name in names]


def share(runs: Sequence[PlannedRun], shard: str) -> list[PlannedRun]:
  """The runs of one of n shares, such as a job of a Slurm array: 'i/n', with i from 1; all runs for ''.

  The runs that train are dealt in turn. A run that only evaluates the weights of another belongs to that run's share.

  Raises:
    InputError: unless shard is '' or two whole numbers i/n with 1 <= i <= n.
  """
  if not shard:
    return list(runs)
  parts = re.fullmatch(r'([0-9]+)/([0-9]+)', shard)
  index, count = map(int, parts.groups()) if parts else (0, 0)
  if not 1 <= index <= count:
    raise InputError(f'--shard={shard} must be i/n with i from 1 to n, such as 1/4')
  trained = list(dict.fromkeys(run.weights or run.name for run in runs))
  return [run for run in runs if trained.index(run.weights or run.name) % count == index - 1]
