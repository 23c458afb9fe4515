"""Saves and restores checkpoints: a state (arrays) and its meta (JSON). Every restore is verified.

This is the only file that imports Orbax. Orbax stores arrays without checksums, so a flipped bit would silently restore
as a wrong weight. The meta therefore holds a digest of every array, which every restore compares.
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


class CorruptCheckpoint(InputError):
  """A checkpoint that is incomplete or differs from what was saved."""


class Checkpoints:
  """The checkpoints of one run: the latest two and the best by METRIC.

  Args:
    directory: absolute or relative path; created if it does not exist and `writing` is true.
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
    """Starts saving a checkpoint; it is written in the background. `metrics` holds METRIC if it was measured."""
    tree = serialization.to_state_dict(state)
    meta = {**meta, 'step': step}
    meta['digests'] = digests(tree) | {'meta': text_digest(meta)}
    arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta))
    if not self._manager.save(step, args=arguments, metrics=dict(metrics or {}), force=True):
      raise RuntimeError(f'Orbax did not save step {step} into {self.directory}')

  def steps(self) -> list[int]:
    """The steps that seem to have a checkpoint (unverified), oldest first."""
    return sorted(self._manager.all_steps())

  def best_step(self) -> int | None:
    """The step with the highest METRIC, the latest if none was measured; None without checkpoints."""
    return self._manager.best_step() if self.steps() else None

  def restore(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as nested dicts of NumPy arrays, and the meta. Does not depend on the number of devices.

    Raises:
      CorruptCheckpoint: if anything is missing or has changed.
      InputError: for an I/O error, which may be temporary.
    """
    where = self.directory / str(step)
    # For a corrupt checkpoint Orbax raises ValueError, KeyError, JSON and Unicode errors, FileNotFoundError or a bare
    # Exception. The caller need not tell them apart.
    try:
      meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']
      shapes = self._manager.item_metadata(step)['state'].tree
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
      state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=as_numpy)))[
        'state'
      ]
      expected = meta.pop('digests')
      actual = digests(state) | {'meta': text_digest(meta)}
    except MemoryError:
      raise
    except Exception as error:
      reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
      temporary = isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError)
      raise (InputError if temporary else CorruptCheckpoint)(f'checkpoint {where} cannot be read: {reason}') from error
    changed = sorted(key for key in actual.keys() | expected.keys() if actual.get(key) != expected.get(key))
    if changed:
      raise CorruptCheckpoint(
        f'checkpoint {where} is corrupt: it differs from what was saved in {", ".join(changed[:3])}'
        + (f' and {len(changed) - 3} others' if len(changed) > 3 else '')
      )
    return state, meta

  def restore_latest(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The newest intact checkpoint; None for a run without checkpoints.

    Newer checkpoints that are corrupt are moved to `checkpoints-corrupt` beside the folder, with a warning.

    Raises:
      CorruptCheckpoint: if all checkpoints are corrupt. None is moved then, because a run without checkpoints would
        silently start over the next time.
      InputError: see `restore`.
    """
    corrupt: dict[int, CorruptCheckpoint] = {}
    for step in reversed(self.steps()):
      try:
        restored = self.restore(step)
      except CorruptCheckpoint as error:
        corrupt[step] = error
        continue
      for newer, reason in corrupt.items():
        logging.warning('%s; falling back to step %d', reason, step)
        self._move_aside(newer)
      return restored
    if corrupt:
      raise CorruptCheckpoint(
        f'no checkpoint in {self.directory} is intact ({next(iter(corrupt.values()))}); '
        'to train from scratch, choose another --workdir'
      )
    return None

  def _move_aside(self, step: int) -> None:
    aside = self.directory.with_name(self.directory.name + '-corrupt')
    if jax.process_index() == 0:
      aside.mkdir(exist_ok=True)
      names = (f'{step}.{count}' if count else str(step) for count in itertools.count())
      os.replace(self.directory / str(step), next(aside / name for name in names if not (aside / name).exists()))
    # Without the barrier another host could list the folder before the rename, and keep the corrupt step.
    multihost_utils.sync_global_devices(f'checkpoint {step}: moved aside')
    self._manager.reload()

  def reached_preemption(self, step: int) -> bool:
    """Whether the cluster has announced to any host that it will be stopped; False for a single process."""
    return jax.process_count() > 1 and self._manager.reached_preemption(step)

  def wait(self) -> None:
    """Waits until all saved checkpoints are on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits until all saved checkpoints are on disk and stops the threads that write them."""
    self._manager.close()


def digests(tree: Any) -> dict[str, str]:
  """A digest of the dtype, shape and bytes of every array, by its path in the tree."""
  digest_of = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    digest = hashlib.blake2b(f'{array.dtype.str}{array.shape}'.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).tobytes())
    digest_of[jax.tree_util.keystr(path, simple=True, separator='/')] = digest.hexdigest()
  return digest_of


def text_digest(meta: Mapping[str, Any]) -> str:
  """A digest of JSON values; it does not depend on the order of keys."""
  return hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16).hexdigest()
