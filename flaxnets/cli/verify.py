"""Reads every checkpoint, recalibration, result and export in folders, and compares them with their digests.

    flaxnets verify runs/mine [runs/study ... net.stablehlo ...]

Prints a line for each corrupt or missing part, naming the array or the file. Exit codes: 0 all parts are as they were
written, 1 some are not.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence

from absl import flags as absl_flags

ARGUMENTS = 'PATH [PATH...]'


def define(flags: absl_flags.FlagValues) -> None:
  del flags


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  del flags
  from flaxnets.analysis.text import counted
  from flaxnets.errors import InputError
  from flaxnets.inference.verify import verify  # JAX takes seconds to import

  for name in arguments:
    if not pathlib.Path(name).exists():
      raise InputError(f'{name} does not exist; give the folder of a run or a study, or an exported file')
  found = 0
  for name in arguments:
    began = time.perf_counter()
    outcome = verify(name)
    if not outcome.problems and not outcome.intact and not outcome.undigested:
      raise InputError(f'{name} holds nothing to verify; give the folder of a run or a study, or an exported file')
    for problem in outcome.problems:
      print(problem, flush=True)
    if outcome.undigested:
      print(
        f'{name}: read, but not compared, since an earlier version wrote no digest: '
        f'{counted(len(outcome.undigested), "file")}'
      )
    found += len(outcome.problems)
    wrong = f'{counted(len(outcome.problems), "part")} corrupt or missing; ' if outcome.problems else ''
    print(f'{name}: {wrong}intact: {outcome.summary()} ({time.perf_counter() - began:.1f} s)', flush=True)
  return 1 if found else 0
