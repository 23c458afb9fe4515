"""metrics.jsonl and TensorBoard's event file. A disk that cannot be written delays or ends them, and never the run."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator, Mapping

from absl import logging
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from flaxnets.runtime import atomic, records

Values = Mapping[str, float | None]
_FLUSH_SECONDS = 30  # TensorBoard's file is brought to the disk this often


class Journal:
  """metrics.jsonl, a line at a time; each is a record with its digest.

  Lines that cannot be written wait, and are written before the next ones. Each call writes whole lines or none, so that
  a killed process leaves no half of one.

  Args:
    path: the file. Lines of steps after `start` are removed from it, because they will be written again.
    start: steps taken before.
  """

  def __init__(self, path: pathlib.Path, start: int):
    self._path, self._start = path, start
    self._file: int | None = None
    self._size = 0
    self._waiting: list[str] = []
    self._failed = False
    self._write()

  def append(self, step: int, split: str, values: Values) -> None:
    """Writes a line."""
    self._waiting.append(records.dumps({'step': step, 'split': split, **values}) + '\n')
    self._write()

  def _write(self) -> None:
    try:
      if self._file is None:
        _forget_after(self._path, self._start)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(self._file).st_size
      data = ''.join(self._waiting).encode()
      while data:
        data = data[os.write(self._file, data) :]
    except OSError as error:
      if self._file is not None:
        with contextlib.suppress(OSError):
          os.ftruncate(self._file, self._size)
      if not self._failed:
        logging.warning('%s cannot be written: %s. Training goes on, and its lines wait', self._path, error.strerror)
      self._failed = True
      return
    self._size += sum(len(line.encode()) for line in self._waiting)
    self._waiting.clear()
    if self._failed:
      logging.warning('%s is written again, and complete', self._path)
      self._failed = False

  def close(self) -> None:
    """Closes the file. Says what was not written."""
    if self._waiting:
      self._write()
    if self._waiting:
      logging.warning('%s lacks its last %d lines, which could not be written', self._path, len(self._waiting))
    if self._file is not None:
      os.close(self._file)
      self._file = None


def _forget_after(path: pathlib.Path, step: int) -> None:
  """Removes the lines after a step, and corrupt ones such as a last line that a crash cut short."""
  if not path.exists():
    return
  text, lines = path.read_bytes(), []
  for line in text.splitlines(keepends=True):
    try:
      if records.loads(line.decode())['step'] <= step:
        lines.append(line.removesuffix(b'\n') + b'\n')
    except (ValueError, KeyError, TypeError):
      logging.warning('%s: removed a corrupt line', path)
  kept = b''.join(lines)
  if text.startswith(kept):
    os.truncate(path, len(kept))  # needs no room on the disk
  else:
    with atomic.replacing(path) as beside:
      beside.write_bytes(kept)


class Board:
  """TensorBoard's event file. After a write that fails it stays as it is, and says so once.

  Args:
    folder: of the event files; a new one is begun.
    start: steps taken before; TensorBoard then forgets what an earlier file says of later ones.
  """

  def __init__(self, folder: pathlib.Path, start: int):
    self._writer: EventsWriter | None = None
    self._folder, self._flushed = folder, time.monotonic()
    with self._ending_it():
      folder.mkdir(parents=True, exist_ok=True)
      self._writer = EventsWriter(str(folder / 'events'), f'.{os.getpid()}')
      if start:
        self._writer.write_event(Event(step=start + 1, file_version='brain.Event:2'))
        self._writer.write_event(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

  def add(self, step: int, split: str, values: Values) -> None:
    """Writes values, each under 'split/name'; those that are None are left out."""
    with self._ending_it():
      for name, value in values.items():
        if self._writer is not None and value is not None:
          event = Event(summary=summary.scalar(f'{split}/{name}', value), step=step, wall_time=time.time())
          self._writer.write_event(event)
      if self._writer is not None and time.monotonic() > self._flushed + _FLUSH_SECONDS:
        self._writer.flush()
        self._flushed = time.monotonic()

  def close(self) -> None:
    with self._ending_it():
      if self._writer is not None:
        self._writer.close()
    self._writer = None

  @contextlib.contextmanager
  def _ending_it(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      logging.warning(
        '%s cannot be written: %s. TensorBoard ends here, metrics.jsonl has the same figures',
        self._folder,
        error.strerror,
      )
      if self._writer is not None:
        with contextlib.suppress(OSError):  # its buffer cannot be written either
          self._writer._py_recordio_writer.close()
      self._writer = None
