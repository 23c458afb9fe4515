"""Several runs, one table.

    python -m flaxnets.study.runner --config=configs/studies/rgb.py --out=DIR [--only=NAME,NAME] [--table] \
        [--split=test] [--root=DIR] [--subsets=all] [--against=NAME] [--config.field=value ...]

The config file has two functions. `get_config()` gives what all runs share; `--config.field=value` changes it.
`get_runs()` gives the runs in their order: a dict from name to a dict of the fields in which the run differs, as
{'model.completion': 'none'}. Second seeds come after all first ones. Two keys mean more:

- `seed` may be a tuple: a run for each, averaged in table.md. Another seed than the shared one is written behind the
  name, as in `hierarchical-seed1`.
- `weights`, no field, names a run of the study that this one takes its weights from, and trains nothing: for networks
  that differ only in what they do about absent channels, which training on all channels never sees.

A run with `train.subset` is an expert: the yardstick on its subset of all runs with the same network (model.name,
model.width, image_size). `--only` takes names with or without seeds, and patterns such as 'expert-*'.

Each run is a process of its own, in DIR/NAME: one that is finished is passed over, one that was cut goes on, one that
fails is named in the table and the others go on. SIGTERM or Ctrl-C save the run that is going. Exit codes: 0 all
done, 1 some failed, 75 stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import runpy
import sys
import time
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import config_flags

from flaxnets import experiment
from flaxnets.cli import flags
from flaxnets.errors import InputError
from flaxnets.study.runner.job import PREEMPTED, RECORD, launch, note, read_json
from flaxnets.study.runner.plan import Run, chosen, plan
from flaxnets.study.runner.table import reference_of, write_table


@dataclasses.dataclass(frozen=True)
class Study:
  """Runs, the folder that they lie in, and what they are judged on.

  Attributes:
    runs: all, in their order.
    out: the folder.
    split, root, subsets: as eval_main.py's flags.
  """

  runs: Sequence[Run]
  out: pathlib.Path
  split: str = 'test'
  root: str = ''
  subsets: str = 'all'

  def folder(self, run: Run) -> pathlib.Path:
    return self.out / run.name

  def scores_file(self, run: Run) -> pathlib.Path:
    return self.folder(run) / 'eval' / f'{experiment.scores_name(self.split)}.json'

  def judging(self, run: Run) -> dict[str, str]:
    """What the run is to be judged on; always all of its channels, for the cost of training is read off there."""
    subsets = self.subsets if self.subsets == 'all' else f'full;{self.subsets}'
    return {'split': self.split, 'root': self.root, 'subsets': 'full' if run.config.train.subset else subsets}

  def conflict(self, run: Run) -> str:
    """Why the run's folder is another run's; '' where it is not."""
    there = read_json(self.folder(run) / 'config.json')
    differing = experiment.differences(there, experiment.as_json(run.config)) if there else {}
    return '; '.join(f'{name} is {old!r} in its folder and {new!r} here' for name, (old, new) in differing.items())

  def finished(self, run: Run) -> bool:
    record = read_json(self.folder(run) / RECORD)
    return not record.get('error') and record.get('judged') == self.judging(run) and (
      self.scores_file(run).exists() and not self.conflict(run))

  def do(self, run: Run, lock: int | None = None) -> int:
    """Trains and judges one run in a process of its own, and notes how that went; returns the exit code."""
    folder, began = self.folder(run), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    if run.weights and not self.finished(self.named(run.weights)):
      note(folder, error=f'needs the weights of {run.weights}, which is not finished')
      return 1
    code, said = launch({
      'config': experiment.as_json(run.config), 'workdir': str(folder), 'file': self.scores_file(run).stem,
      'weights': str(self.out / run.weights) if run.weights else '', **self.judging(run),
    }, folder / 'log.txt', lock)
    seconds = read_json(folder / RECORD).get('seconds', 0) + time.monotonic() - began
    note(folder, seconds=round(seconds, 1), error=said if code not in (0, PREEMPTED) else '',
         judged=self.judging(run) if code == 0 else None)
    return code

  def named(self, name: str) -> Run:
    return next(run for run in self.runs if run.name == name)


def carry_out(study: Study, only: str = '', against: str = '') -> int:
  """Does what is not finished, one run after another, writing the table after each; returns the exit code.

  Raises:
    InputError: for an unknown name, a folder that cannot be written, or one in which another study is going on.
  """
  # First seeds first, so that there is a whole table before any second one begins.
  again = {run.name: sum(other.stem == run.stem for other in study.runs[:i]) for i, run in enumerate(study.runs)}
  selected = sorted(chosen(study.runs, only), key=lambda run: again[run.name])
  reference_of(study.runs, against)
  with _only_study_in(study.out) as lock:
    for place, run in enumerate(selected, 1):
      told = f'{place} of {len(selected)}, {run.name}'
      if study.finished(run):
        print(f'{told}: finished before', flush=True)
        continue
      print(f'{told}: begins, see {study.folder(run) / "log.txt"}', flush=True)
      code = study.do(run, lock)
      write_table(study, against)
      if code == PREEMPTED:
        print(f'{told}: stopped; the same command goes on from there', file=sys.stderr)
        return PREEMPTED
      print(f'{told}: {read_json(study.folder(run) / RECORD)["error"] or "done"}', flush=True)
    write_table(study, against)
  return 0 if all(study.finished(run) for run in selected) else 1


@contextlib.contextmanager
def _only_study_in(out: pathlib.Path) -> Iterator[int]:
  """Locks a folder for as long as this process or a child of it lives."""
  import fcntl

  try:
    out.mkdir(parents=True, exist_ok=True)
    file = (out / '.lock').open('w')
  except OSError as error:
    raise InputError(f'--out={out} cannot be written: {error.strerror}') from None
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise InputError(f'--out={out}: another study is going on there, or a run that it left behind') from None
    yield file.fileno()


def run() -> None:
  """The command line."""
  config = config_flags.DEFINE_config_file('config', None, 'a file of configs/studies/, with get_config and get_runs')
  out = flags.DEFINE_string('out', None, 'the folder of the study; one that lives there goes on')
  only = flags.DEFINE_string('only', '', "names or patterns with ',' between: do only these")
  split = flags.DEFINE_string('split', 'test', "what to judge on, as eval_main.py's")
  root = flags.DEFINE_string('root', '', "where the split lies, if not in the config's data.root")
  subsets = flags.DEFINE_string('subsets', 'all', "what to judge, as eval_main.py's")
  against = flags.DEFINE_string('against', '', 'the run that differences are taken to; the first if left out')
  table = flags.DEFINE_bool('table', False, 'run nothing, write the table of what there is')
  flags.mark_flags_as_required(['config', 'out'])

  def main() -> int:
    path = config_flags.get_config_filename(flags.FLAGS['config'])
    get_runs = runpy.run_path(path).get('get_runs')
    if get_runs is None:
      raise InputError(f'{path} has no get_runs(); a study is a file such as configs/studies/rgb.py')
    study = Study(plan(config.value, get_runs()), pathlib.Path(out.value), split.value, root.value, subsets.value)
    if not table.value:
      return carry_out(study, only.value, against.value)
    if not study.out.is_dir():
      raise InputError(f'--out={study.out} is no folder of a study')
    write_table(study, against.value)
    print((study.out / 'table.md').read_text(), end='')
    return 0

  flags.run(main)


if __name__ == '__main__':
  run()
