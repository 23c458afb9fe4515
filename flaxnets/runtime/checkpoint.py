"""Saves and restores checkpoints: a state (arrays) and its meta (JSON). Every restore is verified.

This is the only file that imports Orbax. Orbax stores arrays without checksums, so a flipped bit would silently restore
as a wrong weight. The meta therefore holds a digest of every array, which every restore compares. Digests are computed
while the arrays are written, in the background.

A checkpoint appears by a rename when it is complete, and disappears by a rename before it is deleted: whenever a
process is killed, a folder with a number as its name is a whole checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import serialization
from jax.experimental import multihost_utils

from flaxnets.errors import InputError
from flaxnets.runtime import atomic, orbax_errors
from flaxnets.runtime.digests import array_digests, text_digest

METRIC = 'accuracy'
_LATEST = 2  # checkpoints that are kept besides the best
_LEFT_BEHIND = ('*.orbax-checkpoint-tmp*', '.deleted-*')  # what a process leaves behind that was killed


class CorruptCheckpoint(InputError):
  """A checkpoint that is incomplete or differs from what was saved."""


class SaveFailed(Exception):
  """A checkpoint could not be written; the message is the reason, in a few words."""


class _LateJson(ocp.JsonCheckpointHandler):
  """Writes JSON that a function gives, which is called in the background."""

  async def async_save(self, directory: Any, item: Any = None, args: Any = None) -> Any:
    async def write() -> None:
      values = await asyncio.to_thread(args.make)
      await asyncio.to_thread(directory.joinpath('metadata').write_text, json.dumps(values))

    if jax.process_index() != 0:
      return []
    return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name='late_json')]


@ocp.args.register_with_handler(_LateJson, for_save=True, for_restore=True)  # Orbax wants both
@dataclasses.dataclass
class _LateJsonArgs(ocp.args.CheckpointArgs):
  """What gives the JSON to save."""

  make: Callable[[], Mapping[str, Any]]


class Checkpoints:
  """The checkpoints of one run: the latest two and the best by METRIC.

  Args:
    directory: absolute or relative path; created if it does not exist and `writing` is true.
    writing: whether this run may save. What a killed process left half written is removed then.
  """

  def __init__(self, directory: str | os.PathLike[str], writing: bool = True):
    self.directory = pathlib.Path(directory).resolve()
    self._writing = writing
    self._metrics: dict[int, float | None] = {}  # METRIC by step, where it is known already
    self._started: int | None = None  # the step that is being written
    orbax_errors.silence()
    if writing:
      self._remove_left_behind()
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(create=self._writing),
      item_handlers={'state': ocp.PyTreeCheckpointHandler(), 'meta': _LateJson()},
    )

  def save(self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
    """Starts saving a checkpoint; it is written in the background. `metrics` holds METRIC if it was measured.

    Call `wait` before, to learn whether the save before has succeeded.

    Raises:
      SaveFailed: if this checkpoint, or the one before it, could not be written. All others are as they were.
      InputError: in its place, in a run of several processes, which cannot go on then.
    """
    self.wait()
    # Copies on the host: the next step donates the state, and what is hashed is what is written.
    tree = jax.tree.map(np.array, jax.device_get(serialization.to_state_dict(state)))
    meta = {**meta, 'step': step, 'metrics': dict(metrics or {})}
    arguments = ocp.args.Composite(
      state=ocp.args.PyTreeSave(tree),
      meta=_LateJsonArgs(lambda: {**meta, 'digests': digests(tree) | {'meta': text_digest(meta)}}),
    )
    self._started = step
    with self._failing():
      if not self._manager.save(step, args=arguments, force=True):
        raise RuntimeError(f'Orbax did not save step {step} into {self.directory}')
    self._metrics[step] = (metrics or {}).get(METRIC)

  def wait(self) -> None:
    """Waits until the checkpoint that is being written is on disk, and deletes those that are no longer to be kept.

    Raises:
      SaveFailed, InputError: as `save`, if it could not be written. Nothing was deleted then.
    """
    with self._failing():
      self._manager.wait_until_finished()
    self._started = None
    self._prune()

  def close(self) -> None:
    """Waits as `wait` does, and stops the threads that write checkpoints."""
    try:
      if self._writing:
        self.wait()
    finally:
      self._manager.close()

  @contextlib.contextmanager
  def _failing(self) -> Iterator[None]:
    """Raises SaveFailed for the errors of a save, and removes what it has written; of several processes, ends them.

    The other processes wait at a barrier, which this one no longer reaches. A JaxRuntimeError is such a barrier's: it
    passes unchanged, as another process has failed.
    """
    try:
      yield
    except Exception as error:
      orbax_errors.ignore_abandoned_coroutines()
      if jax.process_count() > 1:
        if isinstance(error, jax.errors.JaxRuntimeError):
          raise
        raise InputError(
          f'{self.directory}: the checkpoint of step {self._started} was not saved: {orbax_errors.reason(error)}; the '
          'same command on every host resumes the run, once the folder can be written'
        ) from error
      with contextlib.suppress(Exception):
        self._manager.close()
      self._metrics.pop(self._started or 0, None)
      self._started = None
      self._remove_left_behind()
      self._manager = self._open()
      raise SaveFailed(orbax_errors.reason(error)) from error

  def _prune(self) -> None:
    """Deletes all checkpoints but the latest and the best. One that cannot be read is not judged, and stays."""
    if jax.process_index() != 0:
      return
    steps = self.steps()
    measured, keep = [], set(steps[-_LATEST:])
    for step in steps:
      try:
        measured += [(metric, step)] if (metric := self.metric(step)) is not None else []
      except InputError:
        keep.add(step)
    keep |= {max(measured)[1]} if measured else set()
    for step in set(steps) - keep:
      gone = self.directory / f'.deleted-{step}-{secrets.token_hex(4)}'
      with contextlib.suppress(OSError):  # a folder that cannot be deleted now is tried again at the next save
        os.replace(self.directory / str(step), gone)
        shutil.rmtree(gone)

  def _remove_left_behind(self) -> None:
    if jax.process_index() == 0:
      for pattern in _LEFT_BEHIND:
        for path in self.directory.glob(pattern):
          shutil.rmtree(path, ignore_errors=True)

  def steps(self) -> list[int]:
    """The steps that seem to have a checkpoint (unverified), oldest first."""
    if not self.directory.is_dir():
      return []
    return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir())

  def best_step(self) -> int | None:
    """The step with the highest METRIC, the latest if none was measured; None without checkpoints.

    Raises:
      CorruptCheckpoint: if the metric of a checkpoint cannot be read, so that the best is unknown.
    """
    steps = self.steps()
    if len(steps) < 2:
      return steps[0] if steps else None
    known = {}
    for step in steps:
      try:
        known[step] = self.metric(step)
      except CorruptCheckpoint:
        if (self.directory / str(step)).exists():
          raise  # otherwise the process that trains has deleted it since, because it is not the best
    return max(known, key=lambda step: (-np.inf if known[step] is None else known[step], step), default=None)

  def metric(self, step: int) -> float | None:
    """METRIC of a checkpoint, None if it was not measured; raises as `restore`."""
    if step not in self._metrics:
      self._metrics[step] = self.meta(step).get('metrics', {}).get(METRIC)
    return self._metrics[step]

  def meta(self, step: int) -> dict[str, Any]:
    """The meta of a checkpoint alone; raises as `restore`."""
    return self._verified_meta(step)[0]

  def _verified_meta(self, step: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The meta, and the digests of the arrays."""
    with self._reading(step):
      # Not through the manager, which would wait for all processes: one alone judges which checkpoints are to be kept.
      meta = dict(_LateJson().restore(self.directory / str(step) / 'meta'))
      expected = dict(meta.pop('digests'))
      own = expected.pop('meta')
    if text_digest(meta) != own:
      raise CorruptCheckpoint(self._differs(step, ['meta']))
    return meta, expected

  def restore(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state as nested dicts of NumPy arrays, and the meta. Does not depend on the number of devices.

    Raises:
      CorruptCheckpoint: if anything is missing or has changed.
      InputError: for an I/O error, which may be temporary.
    """
    meta, expected = self._verified_meta(step)
    with self._reading(step):
      shapes = self._manager.item_metadata(step)['state'].tree
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
      state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=as_numpy)))[
        'state'
      ]
      actual = digests(state)
    changed = sorted(key for key in actual.keys() | expected.keys() if actual.get(key) != expected.get(key))
    if changed:
      raise CorruptCheckpoint(self._differs(step, changed))
    return state, meta

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    """Raises CorruptCheckpoint for the errors of a read, and InputError for those that may be temporary."""
    try:
      yield
    except MemoryError:
      raise
    except Exception as error:
      orbax_errors.ignore_abandoned_coroutines()
      raise (InputError if orbax_errors.is_temporary(error) else CorruptCheckpoint)(
        f'checkpoint {self.directory / str(step)} cannot be read: {orbax_errors.reason(error)}'
      ) from error

  def _differs(self, step: int, names: list[str]) -> str:
    others = f' and {len(names) - 3} others' if len(names) > 3 else ''
    return (
      f'checkpoint {self.directory / str(step)} is corrupt: it differs from what was saved in '
      f'{", ".join(names[:3])}{others}'
    )

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
      names = (f'{step}.{count}' if count else str(step) for count in itertools.count())
      with atomic.writing(aside):
        aside.mkdir(exist_ok=True)
        os.replace(self.directory / str(step), next(aside / name for name in names if not (aside / name).exists()))
    # Without the barrier another host could list the folder before the rename, and keep the corrupt step.
    multihost_utils.sync_global_devices(f'checkpoint {step}: moved aside')
    self._manager.reload()

  def reached_preemption(self, step: int) -> bool:
    """Whether the cluster has announced to any host that it will be stopped; False for a single process."""
    return jax.process_count() > 1 and self._manager.reached_preemption(step)


def digests(tree: Any) -> dict[str, str]:
  """A digest of the dtype, shape and bytes of every array, by its path in the tree."""
  leaves = jax.tree.leaves_with_path(tree)
  return array_digests(
    {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in leaves}
  )
