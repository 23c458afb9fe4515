"""Checkpoints: what is saved is a state (arrays) and a meta (JSON), and what is restored was verified.

The only file that imports Orbax. Orbax stores arrays without a checksum, so a flipped bit would restore as a wrong
weight and no error: the meta holds a digest of every array, and every restore compares them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import serialization
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from flaxnets.errors import InputError

METRIC = 'accuracy'


class DamagedCheckpoint(InputError):
  """A checkpoint that is incomplete, or not what was saved."""


class Checkpoints:
  """The checkpoints of one run: the latest two and the best by METRIC.

  Args:
    directory: absolute or relative path; made if absent, unless `writing` is off.
    writing: whether this run may save.
  """

  def __init__(self, directory: str | os.PathLike[str], writing: bool = True):
    self.directory = pathlib.Path(directory).resolve()

    def metric(metrics: Mapping[str, float]) -> float:
      return metrics.get(METRIC, -np.inf)

    keep = AnyPreservationPolicy([LatestN(2), BestN(get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False)])
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        create=writing,
        best_fn=metric,
        best_mode='max',
        preservation_policy=keep,
      ),
      item_handlers={'state': ocp.PyTreeCheckpointHandler(), 'meta': ocp.JsonCheckpointHandler()},
    )

  def save(self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
    """Begins to save; the writing goes on in the background. `metrics` holds METRIC where it was measured."""
    tree = serialization.to_state_dict(state)
    meta = {**meta, 'step': step}
    meta['digests'] = digests(tree) | {'meta': text_digest(meta)}
    arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta))
    if not self._manager.save(step, args=arguments, metrics=dict(metrics or {}), force=True):
      raise RuntimeError(f'Orbax did not save step {step} into {self.directory}')

  def steps(self) -> list[int]:
    """Steps that look saved, oldest first."""
    return sorted(self._manager.all_steps())

  def best_step(self) -> int | None:
    """The step of the highest METRIC; the latest where none was measured."""
    return self._manager.best_step() if self.steps() else None

  def restore(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as nested dicts of NumPy arrays, and the meta, as they were saved, on any number of devices.

    Raises:
      DamagedCheckpoint: where anything is missing or changed.
      InputError: where the file system refuses to read; that may pass.
    """
    where = self.directory / str(step)
    # Orbax reports damage as ValueError, KeyError, JSON and Unicode errors, a file that is not found or a bare
    # Exception: all mean the same to whoever asked.
    try:
      meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']
      shapes = self._manager.item_metadata(step)['state'].tree
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
      state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=as_numpy)))[
        'state'
      ]
      expected = meta.pop('digests')
      found = digests(state) | {'meta': text_digest(meta)}
    except MemoryError:
      raise
    except Exception as error:
      reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
      passing = isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError)
      raise (InputError if passing else DamagedCheckpoint)(f'checkpoint {where} cannot be read: {reason}') from error
    changed = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if changed:
      raise DamagedCheckpoint(
        f'checkpoint {where} is damaged: not what was saved: {", ".join(changed[:3])}'
        + (f' and {len(changed) - 3} others' if len(changed) > 3 else '')
      )
    return state, meta

  def restore_latest(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The newest checkpoint that is whole, or None for a run without any.

    Damaged ones that are newer are moved aside, into `checkpoints-damaged` beside the folder, with a warning.

    Raises:
      DamagedCheckpoint: where there are checkpoints and none is whole. All stay where they are: a run must not begin
        anew on the next start because of them.
      InputError: see `restore`.
    """
    damaged: dict[int, DamagedCheckpoint] = {}
    for step in reversed(self.steps()):
      try:
        restored = self.restore(step)
      except DamagedCheckpoint as error:
        damaged[step] = error
        continue
      for newer, reason in damaged.items():
        logging.warning('%s; going back to step %d', reason, step)
        self._move_aside(newer)
      return restored
    if damaged:
      raise DamagedCheckpoint(
        f'no checkpoint in {self.directory} is whole ({next(iter(damaged.values()))}); '
        'to train anew choose another --workdir'
      )
    return None

  def _move_aside(self, step: int) -> None:
    aside = self.directory.with_name(self.directory.name + '-damaged')
    if jax.process_index() == 0:
      aside.mkdir(exist_ok=True)
      names = (f'{step}.{count}' if count else str(step) for count in itertools.count())
      os.replace(self.directory / str(step), next(aside / name for name in names if not (aside / name).exists()))
    # Without the barrier another host could list the folder before the rename, and keep the corrupt step.
    multihost_utils.sync_global_devices(f'checkpoint {step}: moved aside')
    self._manager.reload()

  def reached_preemption(self, step: int) -> bool:
    """Whether the cluster has told any host that it will be stopped (with several processes)."""
    return jax.process_count() > 1 and self._manager.reached_preemption(step)

  def wait(self) -> None:
    """Waits until what is being saved is on the disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for what is being written, and ends the threads that write."""
    self._manager.close()


def digests(tree: Any) -> dict[str, str]:
  """A digest of every array: dtype, shape and bytes."""
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    digest = hashlib.blake2b(f'{array.dtype.str}{array.shape}'.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).tobytes())
    found[jax.tree_util.keystr(path, simple=True, separator='/')] = digest.hexdigest()
  return found


def text_digest(meta: Mapping[str, Any]) -> str:
  """A digest of JSON values, whatever the order of their keys."""
  return hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16).hexdigest()
