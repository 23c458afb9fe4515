"""What all benchmarks share: command line, interleaved timing, the record of machine and versions, rows out."""

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
from flaxnets.runtime import provenance
from flaxnets.runtime.machine import cores

DISTRIBUTIONS = ('flaxnets', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch')
# Between two turns: threads of the one before still spin for a few milliseconds, waiting for more work.
PAUSE = 0.1
_load_at_start = os.getloadavg()[0]


def parser(module: str, description: str, *, repeats: int = 7, seconds: float = 0.5) -> argparse.ArgumentParser:
  """A parser of `python -m benchmarks.MODULE` with the flags that all share: --repeats, --seconds and --json."""
  made = argparse.ArgumentParser(prog=f'python -m benchmarks.{module}', description=description)
  made.add_argument('--repeats', type=positive, default=repeats, help='turns that each contender gets')
  made.add_argument('--seconds', type=float, default=seconds, help='least length of a turn')
  made.add_argument('--json', type=_in_a_folder, default='', metavar='FILE', help='write the rows there too')
  return made


def positive(text: str) -> int:
  """A type for argparse: a whole number from 1 on."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 on')
  return int(text)


def _in_a_folder(path: str) -> str:
  # Said before everything is measured, not after.
  if not pathlib.Path(path).parent.is_dir():
    raise argparse.ArgumentTypeError(f'there is no folder {pathlib.Path(path).parent}')
  return path


def listed(kind: Callable[[str], Any] = str, allowed: Sequence[Any] = ()) -> Callable[[str], list[Any]]:
  """A type for argparse: values of one kind with commas between them, all of those allowed if any are named."""

  def values(text: str) -> list[Any]:
    try:
      found = [kind(part) for part in text.split(',') if part]
    except ValueError:
      raise argparse.ArgumentTypeError(f'{text!r} is not a list such as 1,2') from None
    wrong = [value for value in found if allowed and value not in allowed]
    if wrong or not found:
      there = ','.join(map(str, allowed)) or 'values with commas between them'
      raise argparse.ArgumentTypeError(f'{text!r} is not a list of: {there}')
    return found

  return values


@dataclasses.dataclass
class Timing:
  """How long a contender's unit of work took.

  Attributes:
    first: seconds of its very first unit, with whatever was compiled or opened then.
    each: seconds a unit in each turn.
  """

  first: float
  each: list[float]

  @property
  def median(self) -> float:
    return statistics.median(self.each)

  def rate(self, amount: float = 1.0) -> float:
    """What is done a second, by the median, where a unit does this amount (of images, say)."""
    return amount / self.median

  def spread(self, amount: float = 1.0) -> dict[str, float]:
    """Of that rate the 'low' and the 'high' of all turns, and how many 'turns' there were."""
    return {'low': amount / max(self.each), 'high': amount / min(self.each), 'turns': len(self.each)}


def interleaved(
  contenders: Mapping[str, Callable[[int], Any]], repeats: int, *, seconds: float = 0.5, pause: float = PAUSE
) -> dict[str, Timing]:
  """Times contenders in turns, A B C A B C ..., so that what slows the machine for a while slows all of them.

  Args:
    contenders: by name, functions that do their unit of work n times and return when all of it is done, on
      the device too.
    repeats: turns of each, at least 1.
    seconds: the least length of a turn; n is chosen for it once, from the second call.
    pause: seconds of rest before every turn.

  Returns:
    A timing for each name, in the order given.

  Raises:
    InputError: where there is no turn.
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
    name: a path, as 'resnet18/train/float32'.
    value: in `unit`.
    unit: as 'images/s'.
    ratio: to the peer's best mode, above 1 where we are ahead (faster, smaller); None without a peer.
    peer: the peer and its mode, None without.
    details: whatever else belongs to it, JSON values; its keys stand beside the others in JSON.
  """

  name: str
  value: float
  unit: str
  ratio: float | None = None
  peer: str | None = None
  details: dict[str, Any] = dataclasses.field(default_factory=dict)


def finish(rows: Sequence[Row], path: str = '', distributions: Sequence[str] = DISTRIBUTIONS) -> None:
  """Prints machine, versions and a table of the rows, and writes them to a JSON file where one is named.

  Raises:
    InputError: where the file cannot be written.
  """
  record = {
    'machine': machine(),
    'versions': provenance.versions(distributions),
    'commit': provenance.commit(),
    'command': ' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
    'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
  }
  print(', '.join(f'{key} {value}' for key, value in record['machine'].items()))
  print(', '.join(f'{key} {value}' for key, value in record['versions'].items()) + f', commit {record["commit"]}')
  print(table(rows))
  if _load_at_start > 0.25 * cores():
    print(
      f'Other programs kept {_load_at_start:.1f} of {cores()} cores busy before this one began: '
      'neither rates nor ratios mean much'
    )
  if path:
    written = [{**_plain(row), **row.details, **record} for row in rows]
    try:
      pathlib.Path(path).write_text(json.dumps(written, indent=1) + '\n')
    except OSError as error:
      raise InputError(f'--json={path} cannot be written: {error.strerror}') from None


def _plain(row: Row) -> dict[str, Any]:
  return {'name': row.name, 'value': row.value, 'unit': row.unit, 'ratio': row.ratio, 'peer': row.peer}


def table(rows: Sequence[Row]) -> str:
  """Rows as text in columns."""
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
  """CPU, cores, memory, system, JAX's devices (which starts it), and the load before this program began."""
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
