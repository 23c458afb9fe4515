"""Checks the data and the subsets of a study's runs before the first of them trains."""

from __future__ import annotations

import json
from collections.abc import Sequence

import ml_collections

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.study.folder import Study
from flaxnets.study.plan import PlannedRun


def check_runs(study: Study, runs: Sequence[PlannedRun]) -> None:
  """Opens the data of some runs and resolves the subsets that they will be validated and evaluated on.

  Raises:
    InputError: naming the first run whose data cannot be opened or whose subsets do not exist.
  """
  opened = _Opened()
  for run in runs:
    try:
      _check(study, run, opened)
    except InputError as error:
      raise InputError(f'run {run.name!r}: {error}') from None


def _check(study: Study, run: PlannedRun, opened: _Opened) -> None:
  config = run.config
  if config.train.recalibrate:
    raise InputError(
      'train.recalibrate has no effect in a study, which evaluates the statistics of training; '
      'recalibrate a finished run with `flaxnets eval --recalibrate`'
    )
  found, classes = opened.get(config, 'train')
  channels = experiment.channel_set(config, found)
  if not run.weights:
    opened.get(config, 'validation', classes=classes)
    experiment.validation_subsets(config, channels)
  judged, _ = opened.get(config, study.split, root=study.root, classes=classes)
  # Evaluation takes the channels of the network that its split has.
  shared = tuple(name for name in channels.names if name in judged.names)
  if not shared:
    raise InputError(
      f'{study.split} has the channels {", ".join(judged.names)}; the network takes {", ".join(channels.names)}'
    )
  experiment.subsets(config, ChannelSet(shared), study.judging(run)['subsets'])


class _Opened:
  """The channels and classes of sources. Each distinct source is opened once, and closed again: it can be large."""

  def __init__(self) -> None:
    self._known: dict[str, tuple[ChannelSet, tuple[str, ...]]] = {}

  def get(
    self, config: ml_collections.ConfigDict, split: str, *, root: str = '', classes: tuple[str, ...] | None = None
  ) -> tuple[ChannelSet, tuple[str, ...]]:
    data = configs.to_json(config)['data']
    key = json.dumps([data, configs.canvas_side(config), split, root, classes], sort_keys=True)
    if key not in self._known:
      source = experiment.open_source(config, split, root=root, classes=classes)
      self._known[key] = source.channels, tuple(source.classes)
    return self._known[key]
