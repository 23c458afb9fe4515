"""Trains and evaluates a list of networks one after another, and writes one table with differences and regret.

Regret is the accuracy of an expert, which was trained on one subset of the channels alone, minus that of the network.

    flaxnets study --config=studies/rgb --config.data.root=DIR --out=runs/study [--only=NAME,NAME] [--table]

The config file has two functions. `get_config()` returns the config that all runs share; `--config.FIELD=VALUE` changes
it. `get_runs()` returns the runs in order, a dict from name to a dict of the fields that differ, such as
{'model.completion': 'none'}. Additional seeds run last. Two keys are special:

- `seed` may be a tuple. Each seed is a run, and table.md averages over them. Seeds other than the shared one are
  appended to the name: `hierarchical-seed1`.
- `weights` is not a field. It names an earlier run whose weights this run uses instead of training. Use it for networks
  that were trained on all channels and differ only in how they treat absent channels.

A run with `train.subset` is an expert. Regret on its subset is measured against it, for all runs with the same network
(model.name, model.width, image_size). `--only` takes names with or without seeds, and patterns such as 'expert-*'.

`--shard=i/n` executes the i-th of n shares of the runs. Several machines, or the jobs of an array, can execute the
shares of one study at the same time in one folder that they share; each writes the table of what is there so far.

Each run is a separate process with the folder DIR/NAME. Finished runs are skipped, interrupted runs resume, and failed
runs are listed in the table without stopping the rest. SIGTERM, Ctrl-C or SIGHUP saves the current run and stops the
study. Exit codes: 0 all runs finished, 1 some failed or another process is executing them, 75 stopped.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError
from flaxnets.runtime import streams

ARGUMENTS = ''


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  cli_flags.define_config(flags)
  add.string('out', None, 'folder of the study; an existing study is continued')
  add.string('only', '', 'names or patterns of the runs to execute, separated by commas; without this flag all')
  add.string(
    'shard', '', 'share i of n of the runs, as i/n, for several processes in one folder; without this flag all'
  )
  add.string('split', 'test', 'split to evaluate on, as for flaxnets eval')
  add.string('root', '', "replaces the config's data.root in the evaluation")
  add.string('subsets', '', 'subsets to evaluate, as for flaxnets eval')
  add.string('against', '', 'reference run for differences; without this flag the first that is not an expert')
  add.boolean('table', False, 'execute no run, and print the table of the existing results')


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  del arguments
  from flaxnets.study.folder import Study
  from flaxnets.study.plan import plan
  from flaxnets.study.runner import run_study
  from flaxnets.study.table import write_table

  runs = cli_flags.called(pathlib.Path(flags.config_file), 'get_runs', 'configs/studies/rgb.py')
  if not isinstance(runs, dict) or not all(isinstance(changes, dict) for changes in runs.values()):
    raise InputError(
      f"{flags.config_file}: get_runs() must return a dict from a run's name to a dict of the fields that differ"
    )
  study = Study(plan(flags.config, runs), pathlib.Path(flags.out), flags.split, flags.root, flags.subsets)
  if not flags.table:
    streams.make_stdout_optional()
    return run_study(study, flags.only, flags.against, flags.shard)
  if not study.out.is_dir():
    raise InputError(f'--out={study.out} is not the folder of a study')
  write_table(study, flags.against)
  print((study.out / 'table.md').read_text('utf-8'), end='')
  return 0
