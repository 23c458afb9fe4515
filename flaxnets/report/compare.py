"""Runs of a report side by side: paired differences, regrets, and the fields in which their configs differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaxnets import config as configs
from flaxnets.analysis import comparison
from flaxnets.errors import InputError
from flaxnets.report.folders import Run
from flaxnets.runtime import workdir


def compared(runs: Sequence[Run], against: str = '') -> dict[str, Any] | None:
  """All runs that were judged on the images of a reference, against it and against the experts among them.

  Args:
    runs: all of a report.
    against: the name of the reference; '' for the first run with predictions that is no expert.

  Returns:
    'reference', 'rows' (for each run what `comparison.compared` gives, with 'run', its name) and 'left_out', the names
    of the runs that were judged on other images or not at all; None where fewer than two runs can be compared.

  Raises:
    InputError: for a reference that is no run with predictions.
  """
  judged = {run.name: run.hits for run in runs if run.hits is not None}
  if against and against not in judged:
    raise InputError(f'--against={against} is no run with predictions; there are {", ".join(judged) or "none"}')
  candidates = [run.name for run in runs if run.name in judged]
  trained_on_all = [run.name for run in runs if run.name in judged and not run.expert_of]
  reference = against or next(iter(trained_on_all or candidates), '')
  if not reference:
    return None
  same = [run for run in runs if run.name in judged and judged[run.name].same_images(judged[reference])]
  if len(same) < 2:
    return None
  experts = comparison.experts_by_network((_network(run), judged[run.name]) for run in same if run.expert_of)
  rows = []
  for run in same:
    other = None if run.name == reference else judged[reference]
    theirs = {} if run.expert_of else experts.get(_network(run), {})
    rows.append({'run': run.name, **comparison.compared(judged[run.name], theirs, other)})
  names = {run.name for run in same}
  return {'reference': reference, 'rows': rows, 'left_out': [run.name for run in runs if run.name not in names]}


def _network(run: Run) -> tuple[Any, ...]:
  """What an expert has to share with a run."""
  model = run.config.get('model', {})
  return model.get('name'), model.get('width'), run.config.get('image_size')


def config_differences(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
  """The fields in which the configs of some runs differ: for each dotted name the value of each run, None for none."""
  known = [run for run in runs if run.config]
  fields = dict.fromkeys(name for run in known[1:] for name in workdir.differences(known[0].config, run.config))
  flat = {run.name: configs.flattened(run.config) for run in known}
  return {name: {run: fields.get(name) for run, fields in flat.items()} for name in fields}
