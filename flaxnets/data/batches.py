"""Batches of NumPy arrays from a source: endless and shuffled for training, each example once for evaluation.

A batch is a dict, with b = batch_size / hosts examples of the global batch on this host:
  image (b, H, W, C) in the source's dtype: the canvas.
  size (b, 2) int32: height and width of the original in pixels.
  label (b,) int32.
  present (b, C) bool: the channels that the example has.
  index (b,) int32: the index of the example in the source.
  skipped (b,) bool, in training: the example of this row was unreadable and is replaced by the next readable one. The
    other arrays describe the replacement.
  mask (b,) bool, in evaluation: False for padding and unreadable rows.

One element of grain is one batch, so that grain's overhead of tens of microseconds per element is paid once per batch.
One thread or worker process reads one batch, directly into the arrays that are returned. At most threads + prefetch
batches are in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import grain
import numpy as np
from absl import logging

from flaxnets.data import opencv
from flaxnets.data.filled import FilledReport
from flaxnets.data.source import BadImage, Source
from flaxnets.data.workers import checked_workers, make_grain_flags_readable, start_worker
from flaxnets.errors import InputError
from flaxnets.runtime import machine

Batch = dict[str, np.ndarray]
Batches = Generator[Batch, None, None]  # close() stops reading ahead, and so does garbage collection

_ENDLESS = 2**40  # steps
_SHARED = 2**16  # bytes: larger arrays come from a worker through shared memory, smaller ones through a pipe


def train_batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  start: int = 0,
  host: int = 0,
  hosts: int = 1,
  threads: int = 0,
  workers: int = 0,
  prefetch: int = 2,
  on_bad_image: str = 'error',
) -> Batches:
  """This host's part of the global batches start, start + 1, ... without end.

  Every epoch visits each example once, in an order that depends only on the seed, the epoch and the number of
  examples. A batch can span two epochs, and no example is dropped. Host h of H gets the positions
  [h B / H, (h + 1) B / H) of each batch. Starting at `start` gives the same batches as reading `start` batches and
  discarding them. The numbers of threads and workers do not change the batches.

  Args:
    source: the examples.
    batch_size: B, the number of examples per batch over all hosts.
    seed: seed of the order, 0 or more.
    start: number of the first batch.
    host: index of this host, 0 .. hosts - 1.
    hosts: number of hosts.
    threads: number of threads, each of which reads one batch at a time; 0 for one per core.
    workers: number of processes that read in place of threads, each with a copy of the source; 0 for none. They import
      the main module again, which therefore needs `if __name__ == '__main__'`.
    prefetch: number of batches that may wait in host memory beyond those being read.
    on_bad_image: 'error', or 'skip': the next readable example (index + 1 and so on, from 0 after the last) replaces
      an unreadable one, and each unreadable one is logged once.

  Raises:
    InputError: for arguments outside their range; while iterating, if no example is readable, or if a worker was
      killed.
    BadImage: while iterating, for the first unreadable example, if `on_bad_image` is 'error'.
  """
  if start < 0 or seed < 0:
    raise InputError(f'start is {start} and seed is {seed}; both must be 0 or more')
  share = _Share(batch_size, host, hosts)
  read = functools.partial(_train_batch, source=source, share=share, seed=seed, skip=_skips(on_bad_image))
  return _deliver(grain.MapDataset.range(start, _ENDLESS), read, source.name, threads, workers, prefetch)


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  host: int = 0,
  hosts: int = 1,
  threads: int = 0,
  workers: int = 0,
  prefetch: int = 2,
  on_bad_image: str = 'error',
  examples: Sequence[int] | np.ndarray | None = None,
) -> Batches:
  """Every example exactly once over all hosts, in order. All hosts get the same number of batches of the same size.

  The last batches are padded with rows of index -1 and label 0. With 'skip' an unreadable example keeps its index and
  label. Both have mask False, an image of zeros, the size of the canvas, and all channels present.

  Args:
    examples: indices of the examples to read, in that order; None for all. For other arguments see `train_batches`.

  Raises:
    InputError: for arguments outside their range.
    BadImage: while iterating, for the first unreadable example, if `on_bad_image` is 'error'.
  """
  share = _Share(batch_size, host, hosts)
  order = np.arange(len(source)) if examples is None else np.asarray(examples, int)
  skip = _skips(on_bad_image)
  read = functools.partial(_evaluation_batch, source=source, share=share, order=order, skip=skip)
  steps = math.ceil(len(order) / batch_size)
  return _deliver(grain.MapDataset.range(steps), read, source.name, threads, workers, prefetch)


@dataclasses.dataclass(frozen=True)
class _Share:
  """This host's positions in the global batches."""

  batch_size: int
  host: int
  hosts: int

  def __post_init__(self):
    if not 0 <= self.host < self.hosts:
      raise InputError(f'host is {self.host}; with {self.hosts} hosts it must be from 0 to {self.hosts - 1}')
    if self.batch_size < 1:
      raise InputError(f'batch_size is {self.batch_size}; it must be at least 1')
    if self.batch_size % self.hosts:
      raise InputError(
        f'a batch of {self.batch_size} cannot be divided equally among {self.hosts} hosts; '
        f'choose a multiple of {self.hosts}'
      )

  def positions(self, step: int) -> np.ndarray:
    size = self.batch_size // self.hosts
    first = step * self.batch_size + self.host * size
    return np.arange(first, first + size)


class _Result(NamedTuple):
  """What grain hands over for a step.

  Attributes:
    batch: the batch.
    unreadable: by index, why an example cannot be read.
    filled: by index, how many pixels without data were filled in.
  """

  batch: Batch
  unreadable: dict[int, str]
  filled: dict[int, int]


def _train_batch(step: int, *, source: Source, share: _Share, seed: int, skip: bool) -> _Result:
  due = _shuffled(share.positions(step), len(source), seed)
  rows = _Rows.empty(source, len(due), skip)
  batch = rows.result.batch
  for row, index in enumerate(due.tolist()):
    batch['index'][row] = rows.read_next(row, index)
  batch['label'] = source.labels[batch['index']]
  batch['skipped'] = batch['index'] != due
  return rows.result


def _evaluation_batch(step: int, *, source: Source, share: _Share, order: np.ndarray, skip: bool) -> _Result:
  positions = share.positions(step)
  real = positions < len(order)
  rows = _Rows.empty(source, len(positions), skip)
  batch = rows.result.batch
  batch['index'][real] = order[positions[real]]
  batch['label'] = np.where(real, source.labels[batch['index']], 0).astype(np.int32)
  batch['mask'] = real
  for row in np.flatnonzero(real).tolist():
    batch['mask'][row] = rows.read(row, int(batch['index'][row]))
  batch['image'][~batch['mask']] = 0
  return rows.result


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Reads examples of a source into the rows of a batch.

  Attributes:
    source: the examples.
    skip: whether an unreadable example is noted in the result; otherwise it is an error.
    result: the batch, and what is to be said about it.
  """

  source: Source
  skip: bool
  result: _Result

  @classmethod
  def empty(cls, source: Source, rows: int, skip: bool) -> _Rows:
    batch = {
      'image': np.empty((rows, *source.canvas, len(source.channels)), source.dtype),
      'size': np.full((rows, 2), source.canvas, np.int32),
      'present': np.ones((rows, len(source.channels)), bool),
      'index': np.full(rows, -1, np.int32),
    }
    return cls(source, skip, _Result(batch, {}, {}))

  def read(self, row: int, index: int) -> bool:
    """Reads an example into a row; False if it is unreadable."""
    batch = self.result.batch
    try:
      reading = self.source.read(index, batch['image'][row])
    except BadImage as error:
      if not self.skip:
        raise
      self.result.unreadable[index] = str(error)
      return False
    batch['size'][row] = reading.size
    if reading.present is not None:
      batch['present'][row] = reading.present
    if reading.filled:
      self.result.filled[index] = reading.filled
    return True

  def read_next(self, row: int, index: int) -> int:
    """Reads the first readable example from `index` on into a row, and returns its index."""
    count = len(self.source)
    for candidate in range(index, index + count):
      if self.read(row, candidate % count):
        return candidate % count
    reason = self.result.unreadable[index]
    raise InputError(f'{self.source.name}: none of its {count} examples is readable, as {reason}')


def _shuffled(positions: np.ndarray, examples: int, seed: int) -> np.ndarray:
  """The index of the example at each position of the endless sequence of shuffled epochs, int32."""
  epochs, places = np.divmod(positions, examples)
  indices = np.empty(len(positions), np.int32)
  for epoch in np.unique(epochs).tolist():
    now = epochs == epoch
    indices[now] = _permutation(examples, seed, epoch)[places[now]]
  return indices


@functools.lru_cache(maxsize=4)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
  # Grain's shuffle holds the GIL for 10 us per example. Generator.permutation may change with the version of NumPy, and
  # raw bits do not: a resumed run must continue in the same order.
  bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(examples)
  return np.argsort(bits, kind='stable').astype(np.int32)


def _deliver(
  steps: grain.MapDataset, read: Callable[[int], _Result], name: str, threads: int, workers: int, prefetch: int
) -> Batches:
  if min(threads, workers, prefetch) < 0:
    raise InputError(f'threads is {threads}, workers is {workers}, prefetch is {prefetch}; none can be negative')
  results = steps.map(functools.partial(_caught, read))
  if not workers:
    threads = threads or machine.cores()
    return _batches(results.to_iter_dataset(grain.ReadOptions(threads, threads + prefetch)), name)
  make_grain_flags_readable()
  in_turn = results.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
  options = grain.experimental.DatasetOptions(min_shm_size=_SHARED)
  shared = grain.experimental.WithOptionsIterDataset(in_turn, options)
  waiting = max(1, math.ceil(prefetch / workers))
  options = grain.MultiprocessingOptions(workers, waiting)
  return _batches(shared.mp_prefetch(options, worker_init_fn=start_worker), name, copied=True)


def _caught(read: Callable[[int], _Result], step: int) -> _Result | InputError:
  # An error that is raised within grain gets grain's notes and, from a worker, a second traceback.
  try:
    return read(step)
  except InputError as error:
    return error


def _batches(results: grain.IterDataset, name: str, copied: bool = False) -> Batches:
  """The batches. Each unreadable example is logged once, whichever thread or process met it."""
  logged: set[int] = set()
  all_filled: dict[int, int] = {}
  with (
    opencv.single_threaded(),
    contextlib.closing(iter(results)) as iterator,
    contextlib.closing(FilledReport(name, all_filled)),
  ):
    for result in checked_workers(iterator, name) if copied else iterator:
      if isinstance(result, InputError):
        raise result
      batch, unreadable, filled = result
      all_filled |= filled
      for index in sorted(unreadable.keys() - logged):
        logging.warning('unreadable, skipped: %s', unreadable[index])
      logged |= unreadable.keys()
      # Shared memory is released at exit, with warnings if arrays still use it. A copy costs microseconds per image.
      yield {name: np.array(values) for name, values in batch.items()} if copied else batch


def _skips(on_bad_image: str) -> bool:
  if on_bad_image not in ('error', 'skip'):
    raise InputError(f"on_bad_image is {on_bad_image!r}; it must be 'error' or 'skip'")
  return on_bad_image == 'skip'
