"""The messages that a run prints at its start and end."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from clu import parameter_overview

from flaxnets.analysis.text import counted
from flaxnets.data import summary
from flaxnets.runtime import atomic
from flaxnets.training.progress import Progress
from flaxnets.training.setup import Setup

MAX_PRINTED_SUBSETS = 8  # of more subsets, a validation prints only the lowest and the highest accuracy
MAX_PRINTED_OTHERS = 4  # of the subsets that are not trained
MAX_PRINTED_LINES = 12  # lines of the parameter overview that are printed; parameters.txt has all


def beginning(setup: Setup) -> str:
  """The data, model, devices and steps of a run. Process 0 also writes all parameters to DIR/parameters.txt."""
  config, data, lengths, start = setup.config, setup.data, setup.lengths, int(setup.state.step)
  params = setup.state.params
  if jax.process_index() == 0:
    _write_overview(setup.workdir / 'parameters.txt', params)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  overview = parameter_overview.get_parameter_overview(params, include_stats=False, max_lines=MAX_PRINTED_LINES)
  epochs = config.train.epochs
  lines = [
    overview,
    f'model:      {config.model.name}, {count:,} parameters, all listed in {setup.workdir}/parameters.txt',
    f'channels:   {", ".join(data.channels.names)}; validation on {counted(len(data.subsets), "subset")}',
    f'training:   {summary.describe(data.train)}',
    f'validation: {summary.describe(data.validation)}',
    *(f'warning: {line}' for line in [*summary.warnings_for(data.train, data.validation), *_never_drawn(setup)]),
    f'devices:    {jax.device_count()} x {jax.devices()[0].device_kind}',
    f'steps:      {lengths.steps:,} of {config.train.batch_size} examples '
    f'({epochs:g} epoch{"s" * (epochs != 1)}); validation every {counted(lengths.evaluate_every, "step")}',
  ]
  if sides := config.train.image_sizes:
    grown = f'{", ".join(map(str, sides))} pixels, in equal shares of the steps'
    lines.append(f'sizes:      training images of {grown}; evaluation at {config.image_size}')
  if start:
    lines.append(f'resuming from step {start:,}')
  elif config.train.init_from:
    lines.append(f'starting from the weights of {config.train.init_from}')
  return '\n'.join(lines)


def _write_overview(path: pathlib.Path, params: Any) -> None:
  try:
    atomic.write_text(path, parameter_overview.get_parameter_overview(params, include_stats=False) + '\n')
  except OSError as error:
    logging.warning('%s cannot be written: %s', path, error.strerror)


def _never_drawn(setup: Setup) -> list[str]:
  """The warning about subsets that a run validates on and does not train, as presence.subsets does not list them."""
  data = setup.data
  if setup.config.presence.mode != 'listed':
    return []
  others = [data.channels.label(subset) for subset in data.subsets if subset not in data.listed]
  if not others:
    return []
  shown = ', '.join(others[:MAX_PRINTED_OTHERS]) + ', ...' * (len(others) > MAX_PRINTED_OTHERS)
  return [
    f'training never draws {len(others):,} of the {counted(len(data.subsets), "subset")} of evaluate.subsets, which '
    f'presence.subsets does not list, but they count in the choice of the best checkpoint: {shown}'
  ]


def validated(step: int, accuracies: Mapping[str, float]) -> str:
  """The accuracies of a validation: the mean, and each subset or, of many, the lowest and the highest."""
  mean = sum(accuracies.values()) / len(accuracies)
  shown = list(accuracies.items())
  if len(shown) > MAX_PRINTED_SUBSETS:
    ordered = sorted(shown, key=lambda item: item[1])
    shown = [(f'lowest {ordered[0][0]}', ordered[0][1]), (f'highest {ordered[-1][0]}', ordered[-1][1])]
  listed = ', '.join(f'{name} {accuracy:.1%}' for name, accuracy in shown)
  return f'step {step:,}: mean validation accuracy {mean:.1%} ({listed})'


def ending(setup: Setup, progress: Progress, step: int) -> str:
  """How the run ended, its best step, and the next command."""
  if progress.exhausted(setup.config.train.patience):
    lines = [
      f'stopped early after step {step:,} of {setup.lengths.steps:,}: '
      f'{counted(progress.waited, "validation")} without improvement (train.patience)'
    ]
  else:
    lines = [f'finished after {counted(step, "step")}']
  # The step that `flaxnets eval` uses: the latest of the best that could be saved.
  best = setup.checkpoints.best_step()
  if best is not None and (accuracy := setup.checkpoints.metric(best)) is not None:
    lines.append(f'best validation accuracy: {accuracy:.1%} at step {best:,}')
  command = shlex.join(['flaxnets', 'eval', f'--workdir={setup.workdir}'])
  lines += [f'checkpoints: {setup.workdir}/checkpoints', f'next: {command}']
  return '\n'.join(lines)


def nothing_left(setup: Setup, progress: Progress, step: int) -> str:
  """The message of a run that is started again after its end."""
  return (
    f'{setup.workdir}: this run has already finished; nothing was trained\n{ending(setup, progress, step)}\n'
    f'to continue from its weights, use another --workdir and --config.train.init_from={setup.workdir}'
  )
