"""Shared by all benchmarks: command line, interleaved timing, the record of machine and versions, output of rows."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from flaxnets.analysis.text import columns
from flaxnets.errors import InputError
from flaxnets.runtime import atomic, provenance
from flaxnets.runtime.machine import cores

DISTRIBUTIONS = ('flaxnets', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch')
# Seconds between two turns: threads of the previous contender spin for a few milliseconds, waiting for more work.
PAUSE = 0.1
_load_at_start = os.getloadavg()[0]


def parser(
  module: str, description: str, *, repeats: int | None = 7, seconds: float | None = 0.5
) -> argparse.ArgumentParser:
  """The parser of `python -m benchmarks.MODULE`, with the shared flags --repeats, --seconds and --json.

  Args:
    module, description: of the benchmark.
    repeats, seconds: the defaults of these flags; None for a benchmark that takes no turns, or none of a length.
  """
  made = argparse.ArgumentParser(prog=f'python -m benchmarks.{module}', description=description)
  if repeats is not None:
    made.add_argument('--repeats', type=positive, default=repeats, help='turns per contender')
  if seconds is not None:
    made.add_argument('--seconds', type=float, default=seconds, help='minimum length of a turn')
  made.add_argument('--json', type=_in_a_folder, default='', metavar='FILE', help='also write the rows to this file')
  return made


def positive(text: str) -> int:
  """An argparse type: an integer of at least 1."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1')
  return int(text)


def _in_a_folder(path: str) -> str:
  # Checked before the measurement, which takes minutes.
  if not pathlib.Path(path).parent.is_dir():
    raise argparse.ArgumentTypeError(f'there is no folder {pathlib.Path(path).parent}')
  return path


def listed(kind: Callable[[str], Any] = str, allowed: Sequence[Any] = ()) -> Callable[[str], list[Any]]:
  """An argparse type: comma-separated values of one kind, each of them in `allowed` unless that is empty."""

  def values(text: str) -> list[Any]:
    try:
      found = [kind(part) for part in text.split(',') if part]
    except ValueError:
      raise argparse.ArgumentTypeError(f'{text!r} is not a list such as 1,2') from None
    wrong = [value for value in found if allowed and value not in allowed]
    if wrong or not found:
      expected = ','.join(map(str, allowed)) or 'comma-separated values'
      raise argparse.ArgumentTypeError(f'{text!r} is not a list of: {expected}')
    return found

  return values


@dataclasses.dataclass
class Timing:
  """How long a contender took per unit of work.

  Attributes:
    first: seconds of the first unit, including compilation and opening files.
    each: seconds per unit, for each turn.
  """

  first: float
  each: list[float]

  @property
  def median(self) -> float:
    return statistics.median(self.each)

  def rate(self, amount: float = 1.0) -> float:
    """Amount per second at the median turn, where one unit does `amount` (images, for example)."""
    return amount / self.median

  def spread(self, amount: float = 1.0) -> dict[str, float]:
    """The 'low' and 'high' of that rate over all turns, and the number of 'turns'."""
    return {'low': amount / max(self.each), 'high': amount / min(self.each), 'turns': len(self.each)}


def interleaved(
  contenders: Mapping[str, Callable[[int], Any]], repeats: int, *, seconds: float = 0.5, pause: float = PAUSE
) -> dict[str, Timing]:
  """Times contenders in turns, A B C A B C ..., so that a slow phase of the machine slows all of them.

  Args:
    contenders: functions by name. Each does its unit of work n times and returns when all of it is done, also on the
      device.
    repeats: turns per contender, at least 1.
    seconds: the minimum length of a turn. It determines n, once, from the time of the second call.
    pause: seconds of rest before every turn.

  Returns:
    A timing per name, in the order of `contenders`.

  Raises:
    InputError: for fewer than one turn.
  """
  if repeats < 1:
    raise InputError(f'--repeats is {repeats}; give 1 or more')
  first = {name: _timed(run, 1, pause) for name, run in contenders.items()}
  units = {name: max(math.ceil(seconds / _timed(run, 1, pause)), 1) for name, run in contenders.items()}
  each: dict[str, list[float]] = {name: [] for name in contenders}
  for _ in range(repeats):
    for name, run in contenders.items():
      each[name].append(_timed(run, units[name], pause) / units[name])
  return {name: Timing(first[name], each[name]) for name in contenders}


def _timed(run: Callable[[int], Any], units: int, pause: float) -> float:
  time.sleep(pause)
  begin = time.perf_counter()
  run(units)
  return time.perf_counter() - begin


@dataclasses.dataclass
class Row:
  """One result.

  Attributes:
    name: a path such as 'resnet18/train/float32'.
    value: in `unit`.
    unit: for example 'images/s'.
    ratio: to the peer's best mode, above 1 if flaxnets leads (faster, smaller); None without a peer.
    peer: the peer and its mode; None without a peer.
    details: further JSON values, written beside the other fields.
  """

  name: str
  value: float
  unit: str
  ratio: float | None = None
  peer: str | None = None
  details: dict[str, Any] = dataclasses.field(default_factory=dict)


def finish(rows: Sequence[Row], path: str = '', distributions: Sequence[str] = DISTRIBUTIONS) -> None:
  """Prints machine, versions and a table of the rows; also writes them as JSON unless `path` is empty.

  Raises:
    InputError: if the file cannot be written.
  """
  command = ' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])
  made = {'machine': machine(), 'command': command, **record(distributions)}
  print(', '.join(f'{key} {value}' for key, value in made['machine'].items()))
  print(', '.join(f'{key} {value}' for key, value in made['versions'].items()) + f', commit {made["commit"]}')
  print(table(rows))
  if _load_at_start > 0.25 * cores():
    print(
      f'warning: other programs kept {_load_at_start:.1f} of {cores()} cores busy before this one started; '
      'rates and ratios are unreliable'
    )
  if path:
    write(path, [{**_plain(row), **row.details, **made} for row in rows])


def record(packages: Sequence[str] = provenance.PACKAGES) -> dict[str, Any]:
  """What a result came from: 'commit', the 'versions' of the packages that are installed, and the 'date'."""
  date = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
  return {'commit': provenance.commit(), 'versions': provenance.versions(packages), 'date': date}


def write(path: str | os.PathLike[str], result: Any, indent: int | None = 1) -> None:
  """Writes a result as JSON, complete or not at all; makes the folder where there is none.

  Raises:
    InputError: if the file cannot be written.
  """
  try:
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(pathlib.Path(path), json.dumps(result, indent=indent) + '\n')
  except OSError as error:
    raise InputError(f'{path} cannot be written: {error.strerror}') from None


def _plain(row: Row) -> dict[str, Any]:
  return {'name': row.name, 'value': row.value, 'unit': row.unit, 'ratio': row.ratio, 'peer': row.peer}


def table(rows: Sequence[Row]) -> str:
  """The rows as a text table."""
  return columns(
    [
      ('', 'value', 'unit', 'ratio', 'peer'),
      *(
        (
          row.name,
          f'{row.value:,.4g}' if abs(row.value) < 1000 else f'{row.value:,.0f}',
          row.unit,
          '' if row.ratio is None else f'{row.ratio:.2f}',
          row.peer or '',
        )
        for row in rows
      ),
    ]
  )


def machine() -> dict[str, Any]:
  """CPU, cores, memory, system, JAX's devices (this starts JAX), and the load before this program started."""
  devices = jax.devices()
  return {
    'cpu': _cpu(),
    'cores': cores(),
    'memory_gib': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1),
    'system': f'{platform.system()} {platform.release()}',
    'devices': f'{len(devices)} x {devices[0].device_kind}',
    'load': round(_load_at_start, 2),
  }


def _cpu() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  return names[0] if names else platform.processor() or platform.machine()
