"""From a run's folder to a trained network, every array verified."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Any

import ml_collections
from absl import logging

from flaxnets import config as configs
from flaxnets.errors import InputError
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.network import Network
from flaxnets.inference.weights import weights_digest
from flaxnets.runtime.checkpoint import METRIC, Checkpoints, CorruptCheckpoint
from flaxnets.runtime.local import check_local
from flaxnets.runtime.workdir import stored_config


def load(
  workdir: str | os.PathLike[str], step: int | str = 'best', recalibrated: bool = False, completion: str = ''
) -> Network:
  """Restores a trained network from a run's folder, on any number of devices.

  Args:
    workdir: of `flaxnets train`.
    step: 'best' (highest mean validation accuracy over the config's subsets), 'latest', or the number of a step
      that is still kept.
    recalibrated: whether to use the statistics that `flaxnets eval --recalibrate` stored for this step, for the subsets
      whose accuracy they raised. By default the network is as it was trained, as in `flaxnets eval` without the flag.
    completion: how absent channels are treated, in place of the run's own model.completion; '' for that.

  Raises:
    InputError: where there is no such run, step or completion, the checkpoint or the stored statistics are corrupt, or
      recalibrated statistics are asked for where there are none for this step, or with another completion than they
      were measured with.
  """
  check_local(workdir, '--workdir')
  folder = pathlib.Path(workdir)
  if not (folder / 'checkpoints').is_dir():
    raise InputError(f'{folder} holds no trained network; train one with flaxnets train --workdir={folder}')
  with contextlib.closing(Checkpoints(folder / 'checkpoints', writing=False)) as checkpoints:
    kept = checkpoints.steps()
    if not kept:
      raise InputError(f'{folder}/checkpoints is empty; the run has not saved yet')
    wanted = str(_best(checkpoints) if step == 'best' else kept[-1] if step == 'latest' else step)
    if wanted not in map(str, kept):
      raise InputError(
        f'{folder} has no checkpoint of step {step}; there are best, latest, {", ".join(map(str, kept))}'
      )
    state, meta = checkpoints.restore(int(wanted))
  averaged = bool(state.get('ema'))
  weights = state['ema'] if averaged else state
  variables = {
    'params': weights['params'],
    'batch_stats': weights['batch_stats'],
    'channel_stats': state['channel_stats'],
  }
  config = _as_resumed(configs.from_json(meta['config']), folder)
  switched = completion if completion != config.model.completion else ''
  if switched and recalibrated:
    raise InputError(
      f'recalibrated statistics are for the completion of the run, {config.model.completion!r}, and not for '
      f'{completion!r}; leave out one of them'
    )
  config.model.completion = completion or config.model.completion
  net = Network(config, Metadata.from_saved(meta), variables, int(wanted), averaged, switched=switched)
  if recalibrated:
    found = restore_recalibrated(folder, net)
    if found is None:
      raise InputError(
        f'{folder} holds no recalibrated statistics for step {net.step}; flaxnets eval --workdir={folder} '
        f'--step={net.step} --recalibrate makes them'
      )
    statistics, meta = found
    net.recalibration = meta['settings']
    for row in meta['subsets']:
      if row['kept']:
        net.recalibrated[net.channels.subset(row['channels'])] = statistics[row['channels']]
  return net


def _as_resumed(config: ml_collections.ConfigDict, folder: pathlib.Path) -> ml_collections.ConfigDict:
  """A checkpoint's config that reads data as the run did last: a resume changes config.json, not the checkpoints."""
  try:
    data = stored_config(folder / 'config.json')['data']
  except (OSError, ValueError):  # the checkpoint's own fields do
    return config
  for name in configs.READING:
    config.data[name] = data[name]
  return config


def _best(checkpoints: Checkpoints) -> int | None:
  """The best step. Warns if the run has validated better than any checkpoint that is there."""
  try:
    best = checkpoints.best_step()
  except CorruptCheckpoint as error:
    raise CorruptCheckpoint(f'{error}; so the best step is unknown: choose a step (--step), or latest') from error
  try:
    reached = checkpoints.meta(checkpoints.steps()[-1]).get('progress', {}).get('best')
    metric = checkpoints.meta(best)['metrics'].get(METRIC) if best is not None else None
  except InputError:  # the latest is not the one that is asked for
    return best
  if reached is not None and metric is not None and metric < reached:
    logging.warning(
      '%s: the best validation reached %.4f, but its checkpoint is missing; step %d has %.4f',
      checkpoints.directory,
      reached,
      best,
      metric,
    )
  return best


def restore_recalibrated(folder: pathlib.Path, net: Network) -> tuple[dict[str, Any], dict[str, Any]] | None:
  """The recalibrated statistics that were stored for exactly these weights.

  Args:
    folder: of the run.
    net: the network.

  Returns:
    The statistics by the subset's label, kept or not, and their metadata; see
    `flaxnets.evaluation.recalibrate.run`. None where there are none, or only those of another step or other weights.

  Raises:
    InputError: if they are corrupt.
  """
  path = folder / 'recalibrated'
  if not path.is_dir():
    return None
  store = Checkpoints(path, writing=False)
  try:
    if net.step not in store.steps():
      return None
    statistics, meta = store.restore(net.step)
  except CorruptCheckpoint as error:
    raise InputError(f'{error}; delete {path} and run flaxnets eval --recalibrate again') from error
  finally:
    store.close()
  if meta['weights'] != weights_digest(net):
    logging.warning('%s belongs to other weights than those of step %d, and is ignored', path, net.step)
    return None
  return statistics, meta
