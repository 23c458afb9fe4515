"""Trains and evaluates a list of networks one after another, and writes one table with differences and regret.

    flaxnets study --config=studies/rgb --config.data.root=DIR --out=runs/study [--only=NAME,NAME] [--table]

The config file has two functions. `get_config()` gives what all runs share; `--config.field=value` changes it.
`get_runs()` gives the runs in their order: a dict from name to a dict of the fields in which the run differs, as
{'model.completion': 'none'}. Additional seeds run last. Two keys are special:

- `seed` may be a tuple: a run for each, averaged in table.md. A seed other than the shared one is appended to the name,
  as in `hierarchical-seed1`.
- `weights`, which is not a field, names a run of the study whose weights this one uses; nothing is trained. It serves
  networks that differ only in how they treat absent channels, which training on all channels never sees.

A run with `train.subset` is an expert: the yardstick on its subset for all runs with the same network (model.name,
model.width, image_size). `--only` takes names with or without seeds, and patterns such as 'expert-*'.

Each run is a process of its own, in DIR/NAME. Finished runs are skipped, interrupted runs resume, and failed runs are
listed in the table without stopping the rest. SIGTERM or Ctrl-C save the current run. Exit codes: 0 all done, 1 some
failed, 75 stopped.
"""

from __future__ import annotations

import pathlib
import runpy
from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError

ARGUMENTS = ''


def define(flags: absl_flags.FlagValues) -> None:
  values = {'flag_values': flags}
  cli_flags.define_config(flags)
  absl_flags.DEFINE_string('out', None, "the study's folder; a study found there is continued", **values)
  absl_flags.DEFINE_string('only', '', "names or patterns with ',' between: run only these", **values)
  absl_flags.DEFINE_string('split', 'test', 'the split to evaluate on, as in flaxnets eval', **values)
  absl_flags.DEFINE_string('root', '', "where the split is, if not in the config's data.root", **values)
  absl_flags.DEFINE_string('subsets', '', 'the subsets to evaluate, as in flaxnets eval', **values)
  absl_flags.DEFINE_string('against', '', 'the run that differences are taken to; the first if left out', **values)
  absl_flags.DEFINE_bool('table', False, 'run nothing; print the table of what is there', **values)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  del arguments
  from flaxnets.study.folder import Study
  from flaxnets.study.plan import plan
  from flaxnets.study.runner import run_study
  from flaxnets.study.table import write_table

  get_runs = runpy.run_path(flags.config_file).get('get_runs')
  if get_runs is None:
    raise InputError(f'{flags.config_file} has no get_runs(); see configs/studies/rgb.py for the form of a study')
  study = Study(plan(flags.config, get_runs()), pathlib.Path(flags.out), flags.split, flags.root, flags.subsets)
  if not flags.table:
    return run_study(study, flags.only, flags.against)
  if not study.out.is_dir():
    raise InputError(f'--out={study.out} is not the folder of a study')
  write_table(study, flags.against)
  print((study.out / 'table.md').read_text(), end='')
  return 0
