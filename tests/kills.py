"""Runs that are killed with SIGKILL at seeded moments and started again, until they are done.

A run is trained, recalibrated and evaluated by a child of a fork server. The child sends the name of each phase as it
enters it. The parent waits for a phase, then for a random time, and kills. It repeats this, and compares what is left
in the folder with what a run leaves that was never killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import signal
from collections.abc import Callable, Mapping
from typing import Any

from tests.fork_server import Server, serve

# Phases, how long after their beginning a kill may come (s), and how often a phase may have been entered before.
PHASES = {
  'start': (4.0, 1),
  'compile': (5.0, 1),
  'step': (0.05, 5),
  'save': (0.4, 3),
  'validate': (1.0, 3),
  'rename': (0.003, 12),
  'recalibrate': (4.0, 1),
  'evaluate': (3.0, 1),
}

FIELDS = {'train.epochs': 2.0, 'train.ema': 0.9, 'presence.mode': 'drop'}


def _work(enter: Callable[[str], Any], folder: str) -> int:
  """What a user does: train, recalibrate, evaluate. Every command is given again after a kill."""
  from flaxnets.cli import evaluate
  from flaxnets.evaluation import recalibrate
  from flaxnets.runtime import devices
  from flaxnets.training import loop
  from tests.small import small_config

  _announcing(enter)
  config = small_config(**FIELDS)
  devices.start([config.train.batch_size])
  if code := loop.run(config, folder):
    return code
  recalibrate.run(folder, subsets='RGB;R', images=64)
  return evaluate.run(folder, subsets='RGB;R')


def _announcing(enter: Callable[[str], Any]) -> None:
  """Makes the functions that begin a phase say so."""
  from flaxnets.evaluation import judge, recalibrate
  from flaxnets.runtime.checkpoint import Checkpoints
  from flaxnets.training import loop
  from flaxnets.training.metric_logger import MetricLogger

  for owner, name, phase in (
    (loop, '_compiled_first', 'compile'),
    (loop, '_validate', 'validate'),
    (MetricLogger, 'dispatched', 'step'),
    (Checkpoints, 'save', 'save'),
    (os, 'rename', 'rename'),
    (os, 'replace', 'rename'),
    (recalibrate, 'recalibrate', 'recalibrate'),
    (judge, 'SplitEvaluation', 'evaluate'),
  ):
    setattr(owner, name, _announced(getattr(owner, name), phase, enter))


def _announced(do: Callable[..., Any], phase: str, enter: Callable[[str], Any]) -> Callable[..., Any]:
  def announced(*args: Any, **options: Any) -> Any:
    enter(phase)
    return do(*args, **options)

  return announced


@dataclasses.dataclass
class Kill:
  """A kill that is planned: in the phase that is entered the n-th time, after some seconds."""

  phase: str
  number: int
  delay: float

  @classmethod
  def drawn(cls, rng: random.Random) -> Kill:
    phase = rng.choice(list(PHASES))
    longest, often = PHASES[phase]
    return cls(phase, rng.randint(1, often), rng.uniform(0, longest))


def _run(server: Server, folder: pathlib.Path, kill: Kill | None = None) -> tuple[int, str]:
  """Starts or resumes a run, and kills it as planned; returns its exit code and the last phase that it entered."""
  phase, entered = '', dict.fromkeys(PHASES, 0)
  for phase in server.run(folder):
    entered[phase] += 1
    if kill and (phase, entered[phase]) == (kill.phase, kill.number):
      server.kill(kill.delay)
  return server.code, phase


# Fields that differ between two runs that are equal: times, digests of lines that hold times, and the commit, where
# somebody commits meanwhile.
_TIMES = ('date', 'images_per_second', 'digest', 'commit')
LOCKS = ('.lock', '.eval-lock', '.recalibrated-lock')  # files that stay, and lock nothing once their process is gone


def _without_times(values: Mapping[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in values.items() if key not in _TIMES}


def contents(folder: pathlib.Path) -> dict[str, Any]:
  """What a run's folder says: digests of all arrays, the metas, the metrics and the results; times are left out."""
  from flaxnets.analysis import results
  from flaxnets.runtime import records
  from flaxnets.runtime.checkpoint import Checkpoints, digests

  found: dict[str, Any] = {}
  for name in ('checkpoints', 'recalibrated'):
    store = Checkpoints(folder / name, writing=False)
    for step in store.steps():
      state, meta = store.restore(step)
      found |= {f'{name}/{step}': digests(state), f'{name}/{step}/meta': meta}
    store.close()
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  found['metrics.jsonl'] = [_without_times(records.loads(line)) for line in lines]
  for path in sorted((folder / 'eval').glob('*.json')):
    scores = records.read(path)
    found[path.name] = _without_times(scores)
    found[path.name + ' arrays'] = {name: array.tolist() for name, array in results.read_arrays(path, scores).items()}
  return json.loads(json.dumps(found))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
  """The names of contents that are not equal."""
  return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def leftovers(folder: pathlib.Path) -> list[str]:
  """Files and folders that are half written."""
  return [str(path) for path in folder.rglob('*') if path.name.startswith('.') and path.name not in LOCKS] + [
    str(path) for path in folder.rglob('*orbax-checkpoint-tmp*')
  ]


@dataclasses.dataclass
class Tally:
  """What came of some kills.

  Attributes:
    kills: how many came while a run went on, by the phase that it was in.
    runs: how many runs were killed and finished.
    wrong: a line for each run that ended unlike the one that was not killed, or did not end.
  """

  kills: dict[str, int] = dataclasses.field(default_factory=dict)
  runs: int = 0
  wrong: list[str] = dataclasses.field(default_factory=list)


def kill_runs(
  folder: pathlib.Path,
  kills: int,
  seed: int,
  per_run: int = 5,
  finished: Callable[[Tally, str], None] = lambda tally, line: print(line),
) -> Tally:
  """Trains a run without a kill, then others that are killed, and compares.

  Args:
    folder: for all of them; empty.
    kills: how many in all.
    seed: of the moments.
    per_run: after how many kills a run is let go on to its end.
    finished: called after each run with the tally so far and a line about the run.
  """
  rng, tally, server = random.Random(seed), Tally(), Server('tests.kills')
  try:
    code, phase = _run(server, folder / 'whole')
    assert code == 0, f'the run that is not killed ended with {code} in {phase}; see {folder}/whole.log'
    expected = contents(folder / 'whole')
    while (done := sum(tally.kills.values())) < kills:
      tally.runs += 1
      run, survived, code = folder / f'run{tally.runs}', [], -9
      while code == -signal.SIGKILL:
        planned = Kill.drawn(rng) if len(survived) < min(per_run, kills - done) else None
        code, phase = _run(server, run, planned)
        if code == -signal.SIGKILL:
          survived.append(phase)
          tally.kills[phase] = tally.kills.get(phase, 0) + 1
      wrong = [f'exit code {code}'] if code else differing(expected, contents(run)) + leftovers(run)
      tally.wrong += [f'{run.name}, killed in {", ".join(survived)}: {", ".join(wrong)}'] if wrong else []
      finished(tally, f'{run.name}: killed in {", ".join(survived) or "no phase"}; ' + (', '.join(wrong) or 'equal'))
  finally:
    server.close()
  return tally


if __name__ == '__main__':
  from flaxnets.cli import evaluate  # noqa: F401  to be imported before the fork, as all below
  from flaxnets.evaluation import judge, recalibrate  # noqa: F401
  from flaxnets.training import loop  # noqa: F401

  serve(_work)
