"""The lines that a run prints at its start and at its end."""

from __future__ import annotations

import jax
from clu import parameter_overview

from flaxnets.data import summary
from flaxnets.runtime import atomic
from flaxnets.training.progress import Progress
from flaxnets.training.setup import Setup

SHOWN_PARAMETERS = 12  # lines of the overview that are printed; parameters.txt has all


def beginning(setup: Setup) -> str:
  """What will be trained, on what, from which step. Keeps the full parameter overview as DIR/parameters.txt."""
  config, data, lengths, start = setup.config, setup.data, setup.lengths, int(setup.state.step)
  params = setup.state.params
  atomic.write_text(
    setup.workdir / 'parameters.txt', parameter_overview.get_parameter_overview(params, include_stats=False) + '\n'
  )
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  lines = [
    f'training:   {summary.describe(data.train)}',
    f'validation: {summary.describe(data.validation)}',
    *(f'warning: {line}' for line in summary.warnings_for(data.train, data.validation)),
    f'channels:   {", ".join(data.channels.names)}; validated on {len(data.subsets)} subsets',
    parameter_overview.get_parameter_overview(params, include_stats=False, max_lines=SHOWN_PARAMETERS),
    f'model:      {config.model.name}, {count:,} parameters, listed in {setup.workdir}/parameters.txt',
    f'devices:    {jax.device_count()} x {jax.devices()[0].device_kind}',
    f'steps:      {lengths.steps:,} of {config.train.batch_size} examples ({config.train.epochs:g} epochs); '
    f'validation every {lengths.evaluate_every:,}',
  ]
  if start:
    lines.append(f'resuming after step {start:,}')
  elif config.train.init_from:
    lines.append(f'starting from the weights of {config.train.init_from}')
  return '\n'.join(lines)


def ending(setup: Setup, progress: Progress, step: int) -> str:
  """Why the run is over, its best step, and the next command."""
  if progress.exhausted(setup.config.train.patience):
    lines = [
      f'stopped early after step {step:,} of {setup.lengths.steps:,}: '
      f'{progress.waited} validations without improvement (train.patience)'
    ]
  else:
    lines = [f'finished: {step:,} steps']
  if progress.best is not None:
    # The step that `flaxnets eval` takes: of equally good ones that is the latest.
    lines.append(f'best validation: {progress.best:.1%} at step {setup.checkpoints.best_step():,}')
  lines += [f'checkpoints: {setup.checkpoints.directory}', f'next: flaxnets eval --workdir={setup.workdir}']
  return '\n'.join(lines)


def nothing_left(setup: Setup, progress: Progress, step: int) -> str:
  """What a run says that is started again after its end."""
  return (
    f'{setup.workdir}: this run is already over, nothing was trained\n{ending(setup, progress, step)}\n'
    f'to train further, choose another --workdir with --config.train.init_from={setup.workdir}'
  )
