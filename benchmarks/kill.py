"""Kills runs with SIGKILL at seeded moments, resumes them, and compares them with a run that was never killed.

    python -m benchmarks.kill --out=docs/results/reliability/kills.json [--kills=100] [--seed=0] [--folder=DIR]

A run is trained for six steps, validated and saved every second step, recalibrated and evaluated. Equal means: the same
bits in parameters, optimiser state, statistics and running averages of every checkpoint, in the recalibrated statistics
and in the predictions and kernels; the same metrics.jsonl and result files apart from times and dates; and no file that
is half written. The test of the same name in tests/test_kills.py does 10.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import measure
from tests import kills


def main(argv: Sequence[str] | None = None) -> int:
  """Kills, prints and writes what came of it; returns the exit code, 1 if a run ended unlike the one not killed."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', default='', help='file of the result, JSON')
  parser.add_argument('--kills', type=measure.positive, default=100, help='how many')
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  parser.add_argument('--folder', default='', help='empty folder for the runs; a temporary one if left out')
  args = parser.parse_args(argv)
  began = time.monotonic()

  def finished(tally: kills.Tally, line: str) -> None:
    """Prints a line, and writes what is known so far."""
    print(line, flush=True)
    if args.out:
      measure.write(args.out, result(args, tally, time.monotonic() - began))

  with tempfile.TemporaryDirectory(prefix='flaxnets-kills-') as temporary:
    tally = kills.kill_runs(pathlib.Path(args.folder or temporary), args.kills, args.seed, finished=finished)
  print(f'{sum(tally.kills.values())} kills in {tally.runs} runs; not equal: {len(tally.wrong)}')
  return 1 if tally.wrong else 0


def result(args: argparse.Namespace, tally: kills.Tally, seconds: float) -> dict[str, Any]:
  """What came of the kills, and what made it."""
  return {
    'command': f'python -m benchmarks.kill --kills={args.kills} --seed={args.seed}',
    **measure.record(),
    'kills': sum(tally.kills.values()),
    'kills_by_phase': dict(sorted(tally.kills.items())),
    'runs': tally.runs,
    'runs_not_equal': tally.wrong,
    'seconds': round(seconds),
  }


if __name__ == '__main__':
  sys.exit(main())
