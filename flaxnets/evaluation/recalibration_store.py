"""Stores recalibrated statistics in DIR/recalibrated, also where several processes do so at the same time."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from flaxnets.errors import InputError
from flaxnets.inference.network import Network
from flaxnets.inference.restore import restore_recalibrated
from flaxnets.runtime import locks
from flaxnets.runtime.checkpoint import Checkpoints, SaveFailed


def store(
  folder: pathlib.Path, net: Network, statistics: Mapping[str, Any], meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Replaces DIR/recalibrated, with digests, once the new ones are complete. To be called by all hosts.

  Subsets that another process has stored since, for the same weights and settings, stay.

  Args:
    folder: of the run.
    net: whose statistics they are.
    statistics, meta: see `restore_recalibrated`.

  Returns:
    What is stored now, as `restore_recalibrated` gives it.

  Raises:
    InputError: if they cannot be written; what was there before stays.
  """
  path, new, old = (folder / name for name in ('recalibrated', '.recalibrated-new', '.recalibrated-old'))
  first = jax.process_index() == 0
  try:
    with locks.exclusive(folder / '.recalibrated-lock') if first else contextlib.nullcontext():
      if first:
        if old.exists() and not path.exists():  # a process was killed between the two renames below
          os.replace(old, path)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
      multihost_utils.sync_global_devices('recalibrated: locked')  # nothing where there is one host
      statistics, meta = _joined(restore_recalibrated(folder, net), statistics, meta)
      with contextlib.closing(Checkpoints(new)) as saved:
        saved.save(net.step, statistics, meta)
      if first:
        _replace_folder(path, new, old)
      multihost_utils.sync_global_devices('recalibrated: saved')
  except (SaveFailed, OSError) as error:
    shutil.rmtree(new, ignore_errors=True)
    reason = error.strerror if isinstance(error, OSError) else error
    raise InputError(f'{path} cannot be written: {reason}; the statistics were not stored') from None
  return statistics, meta


def _joined(
  stored: tuple[dict[str, Any], dict[str, Any]] | None, statistics: Mapping[str, Any], meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The statistics and their meta, with those of other subsets that are stored for the same settings."""
  if stored is None or stored[1]['settings'] != meta['settings']:
    return dict(statistics), dict(meta)
  ours = {row['channels'] for row in meta['subsets']}
  others = [row for row in stored[1]['subsets'] if row['channels'] not in ours]
  return {**stored[0], **statistics}, {**meta, 'subsets': others + meta['subsets']}


def _replace_folder(path: pathlib.Path, new: pathlib.Path, old: pathlib.Path) -> None:
  """Puts `new` in the place of `path`, which waits in `old` and returns if that fails."""
  if path.exists():
    os.replace(path, old)
  try:
    os.replace(new, path)
  except OSError:
    if old.exists():
      os.replace(old, path)
    raise
  shutil.rmtree(old, ignore_errors=True)
