"""What a study's config file asks for: its runs, each a whole config."""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from flaxnets.errors import InputError


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """One run of a study.

  Attributes:
    name: of its folder.
    stem: its name without a seed, which seeds share.
    config: whole.
    changes: the fields in which it differs from the shared config, and `weights`.
    weights: name of the run whose weights it is judged with; '' for its own.
  """

  name: str
  stem: str
  config: ml_collections.ConfigDict
  changes: dict[str, Any]
  weights: str = ''

  @property
  def network(self) -> tuple[Any, ...]:
    """What an expert must have in common with a run that it is the yardstick of."""
    return self.config.model.name, self.config.model.width, self.config.image_size


def plan(shared: ml_collections.ConfigDict, runs: Mapping[str, Mapping[str, Any]]) -> list[PlannedRun]:
  """The runs that a study's config file asks for.

  Raises:
    InputError: for names that are no folders' or come twice, unknown fields, values of another type, and weights of a
      run that there is not.
  """
  planned: dict[str, PlannedRun] = {}
  for stem, changes in runs.items():
    fields = dict(changes)
    weights, seeds = fields.pop('weights', ''), fields.pop('seed', shared.seed)
    for seed in seeds if isinstance(seeds, tuple | list) else (seeds,):
      suffix = '' if seed == shared.seed else f'-seed{seed}'
      name = stem + suffix
      if not stem or name != pathlib.PurePath(name).name or name in planned:
        raise InputError(f'a study with a run {name!r}: names are those of folders, each once')
      if weights and (weights + suffix not in planned or planned[weights + suffix].weights):
        raise InputError(f'run {name!r} takes weights of {weights + suffix!r}, which is no run before it that trains')
      config = shared.copy_and_resolve_references().lock()
      try:
        config.update_from_flattened_dict({**fields, 'seed': seed})
      except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'run {name!r}: {" ".join(str(error.args[0]).split())}') from None
      shown = {**fields, **({'seed': seed} if suffix else {}), **({'weights': weights + suffix} if weights else {})}
      planned[name] = PlannedRun(name, stem, config, shown, weights + suffix if weights else '')
  if not planned:
    raise InputError('a study without runs; its get_runs() gives a dict from name to changes')
  return list(planned.values())


def chosen(runs: Sequence[PlannedRun], only: str) -> list[PlannedRun]:
  """Those whose name or stem one of the patterns between commas fits; all for ''.

  Raises:
    InputError: for a pattern that fits none.
  """
  found = set()
  for pattern in filter(None, only.split(',')):
    fitting = {run.name for run in runs if any(fnmatch.fnmatchcase(name, pattern) for name in (run.name, run.stem))}
    if not fitting:
      raise InputError(f'--only={pattern} is no run; there are {", ".join(run.name for run in runs)}')
    found |= fitting
  return [run for run in runs if run.name in found or not only]
