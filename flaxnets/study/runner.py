"""Executes the runs of a study one after another, each in a new process, and writes the table after each."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from flaxnets import config as configs
from flaxnets.analysis.text import counted
from flaxnets.study.check import check_runs
from flaxnets.study.folder import Study, note, recorded
from flaxnets.study.job import launch
from flaxnets.study.locks import run_lock, study_lock
from flaxnets.study.plan import PlannedRun, chosen, share
from flaxnets.study.table import reference_of, write_table
from flaxnets.training.preemption import PREEMPTED


def run_study(study: Study, only: str = '', against: str = '', shard: str = '') -> int:
  """Executes the unfinished runs one after another, writing the table after each; returns the exit code.

  Args:
    study: the study.
    only: names or patterns of the runs to execute; '' for all.
    against: the reference run of the table's differences; see `make_table`.
    shard: 'i/n' for the i-th of n shares of these runs, which other processes or machines may execute at the same time
      in the same folder; '' for all of them, alone.

  Raises:
    InputError: for an unknown name, an invalid shard, data or subsets that do not exist (before any run trains), a
      folder that cannot be written, or a study that is already running in the folder.
  """
  # First seeds run first, so that the table has all runs before any second seed starts.
  seed_number = {run.name: sum(other.stem == run.stem for other in study.runs[:i]) for i, run in enumerate(study.runs)}
  selected = share(sorted(chosen(study.runs, only), key=lambda run: seed_number[run.name]), shard)
  reference_of(study.runs, against)
  check_runs(study, [run for run in selected if not study.finished(run)])
  waiting = sum(not study.finished(run) for run in selected)
  print(
    f'{counted(len(selected), "run")} in {study.out}, {len(selected) - waiting} already finished; '
    f'each is trained and then evaluated on {study.split}',
    flush=True,
  )
  with study_lock(study.out, shared=bool(shard)) as held:
    for place, run in enumerate(selected, 1):
      place_and_name = f'{place} of {len(selected)}, {run.name}'
      if conflict := study.conflict(run):
        print(f'{place_and_name}: not started, its folder holds a different run: {conflict}', flush=True)
        continue
      with run_lock(study.folder(run)) as lock:
        if study.finished(run):
          print(f'{place_and_name}: already finished', flush=True)
          continue
        if lock is None:
          print(f'{place_and_name}: another process is executing it', flush=True)
          continue
        print(f'{place_and_name}: started, logging to {study.folder(run) / "log.txt"}', flush=True)
        code = do(study, run, (held, lock))
      write_table(study, against)
      if code == PREEMPTED:
        print(f'{place_and_name}: stopped; the same command resumes it', file=sys.stderr)
        return PREEMPTED
      print(f'{place_and_name}: {recorded(study.folder(run))["error"] or "done"}', flush=True)
    write_table(study, against)
  print(f'table: {study.out / "table.md"}', flush=True)
  return 0 if all(study.finished(run) for run in selected) else 1


def do(study: Study, run: PlannedRun, locks: Sequence[int] = ()) -> int:
  """Trains and evaluates one run in a new process, and records the outcome; returns the exit code."""
  folder, began = study.folder(run), time.monotonic()
  folder.mkdir(parents=True, exist_ok=True)
  if run.weights and not study.finished(study.named(run.weights)):
    note(folder, error=f'needs the weights of {run.weights}, which has not finished')
    return 1
  code, said = launch(
    {
      'config': configs.to_json(run.config),
      'workdir': str(folder),
      'weights': str(study.out / run.weights) if run.weights else '',
      **study.judging(run),
    },
    folder / 'log.txt',
    locks,
  )
  seconds = recorded(folder).get('seconds', 0) + time.monotonic() - began
  note(
    folder,
    seconds=round(seconds, 1),
    error=said if code not in (0, PREEMPTED) else '',
    judged=study.judging(run) if code == 0 else None,
  )
  return code
