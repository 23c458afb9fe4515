"""Kills runs with SIGKILL at seeded moments, resumes them, and compares them with a run that was never killed.

    python -m benchmarks.kill --out=docs/results/reliability/kills.json [--kills=100] [--seed=0] [--folder=DIR]

A run is trained for six steps, validated and saved every second step, recalibrated and evaluated. Equal means: the same
bits in parameters, optimiser state, statistics and running averages of every checkpoint, in the recalibrated statistics
and in the predictions and kernels; the same metrics.jsonl and result files apart from times and dates; and no file that
is half written. The test of the same name in tests/test_kills.py does 10.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time
from typing import Any

from absl import flags

from benchmarks import measure
from tests import kills

FLAGS = flags.FlagValues()
flags.DEFINE_string('out', None, 'file of the result, JSON', flag_values=FLAGS)
flags.DEFINE_integer('kills', 100, 'how many', flag_values=FLAGS)
flags.DEFINE_integer('seed', 0, 'of the moments', flag_values=FLAGS)
flags.DEFINE_string('folder', '', 'of the runs, empty; a temporary one if left out', flag_values=FLAGS)


def main(arguments: list[str]) -> int:
  FLAGS(arguments)
  began = time.monotonic()

  def finished(tally: kills.Tally, line: str) -> None:
    """Prints a line, and writes what is known so far."""
    print(line, flush=True)
    if FLAGS.out:
      measure.write(FLAGS.out, result(tally, time.monotonic() - began))

  with tempfile.TemporaryDirectory(prefix='flaxnets-kills-') as temporary:
    tally = kills.kill_runs(pathlib.Path(FLAGS.folder or temporary), FLAGS.kills, FLAGS.seed, finished=finished)
  print(f'{sum(tally.kills.values())} kills in {tally.runs} runs; not equal: {len(tally.wrong)}')
  return 1 if tally.wrong else 0


def result(tally: kills.Tally, seconds: float) -> dict[str, Any]:
  """What came of the kills, and what made it."""
  return {
    'command': f'python -m benchmarks.kill --kills={FLAGS.kills} --seed={FLAGS.seed}',
    **measure.record(),
    'kills': sum(tally.kills.values()),
    'kills_by_phase': dict(sorted(tally.kills.items())),
    'runs': tally.runs,
    'runs_not_equal': tally.wrong,
    'seconds': round(seconds),
  }


if __name__ == '__main__':
  sys.exit(main(sys.argv))
