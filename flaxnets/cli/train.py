"""Trains a network. Rerunning the command resumes an interrupted run.

    flaxnets train --config=demo --workdir=runs/demo        or: flaxnets train --config=demo runs/demo
    flaxnets train --workdir=runs/mine --config.data.source=folders --config.data.root=/data/mine

DIR is the folder of the run. An existing run with the same config is resumed.

Exit codes: 0 finished; 1 invalid input, or a run that diverged or whose last save failed; 75 stopped by a signal after
saving.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets import config as configs
from flaxnets.cli import flags as cli_flags

ARGUMENTS = 'DIR'


def define(flags: absl_flags.FlagValues) -> None:
  cli_flags.define_config(flags, 'default')
  cli_flags.define_process_flags(flags)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  config = flags.config
  from flaxnets.runtime import devices, streams  # JAX is slow to import

  streams.make_stdout_optional()
  devices.start(
    configs.batch_sizes(config),
    coordinator=flags.coordinator,
    processes=flags.processes,
    process=flags.process,
    agree_to_stop=True,
  )
  from flaxnets.training import loop

  with devices.ending_with_others('flaxnets train', resumes=True):
    return loop.run(config, arguments[0])
