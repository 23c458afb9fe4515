"""Prints the contribution of each channel to the accuracy (Shapley values), and the best subset of each size.

    flaxnets worth runs/mine                    evaluates the subsets that runs/mine/eval/test.json lacks
    flaxnets worth runs/mine/eval/test.json     only reads a result file

The result file is updated after every few subsets, and rerunning the command resumes an interrupted evaluation. For
more than ten channels, the contributions are averages over sampled orders of the channels.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from flaxnets.channels import Subset
from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError

ARGUMENTS = 'DIR'  # or a result file


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.string('split', 'test', 'for a run: split to evaluate on, as for flaxnets eval')
  add.string('root', '', "for a run: replaces the config's data.root")
  add.string('step', 'best', 'for a run: checkpoint to evaluate: best, latest or a step')
  add.integer('batch_size', 0, "for a run: examples per batch; 0 for the config's evaluate.batch_size", lower_bound=0)
  add.integer('orders', 30, 'for more than ten channels: number of sampled orders', lower_bound=2)
  add.integer('seed', 0, 'for more than ten channels: seed of the sampled orders', lower_bound=0)
  add.boolean('greedy', False, 'for more than ten channels: also print the subsets that greedily add the best channel')
  add.boolean('json', False, 'print a JSON object')
  add.boolean('list', False, 'print the needed subsets in the form of flaxnets eval --subsets')


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  path = pathlib.Path(arguments[0])
  if path.is_dir():
    result, path = of_run(flags, path)
  else:
    result = of_result(flags, path)
  if result is None:
    return
  from flaxnets.analysis import worth

  print(json.dumps(result, indent=1) if flags.json else worth.text(result))
  print(f'from {path}', file=sys.stderr if flags.json else sys.stdout)


def of_result(flags: absl_flags.FlagValues, path: pathlib.Path) -> dict[str, Any] | None:
  """The contributions from a result file; None with --list."""
  from flaxnets.analysis import results, worth

  table = results.read_accuracies(path)
  if flags.list:
    _print_subsets(flags, table.channels)
    return None
  try:
    result = worth.worth(table, orders=flags.orders, seed=flags.seed)
    if flags.greedy and not result['exact']:
      greedy = worth.greedy_subsets(
        table.accuracy.__getitem__,
        len(table.channels),
        lambda candidates: worth.check_complete(table.accuracy, candidates, table.channels.label),
      )
      result['greedy'] = worth.rows_of(table, greedy)
  except InputError as error:
    raise InputError(f"{path}: {error}; flaxnets worth with the run's folder evaluates them") from None
  return result


def of_run(flags: absl_flags.FlagValues, folder: pathlib.Path) -> tuple[dict[str, Any] | None, pathlib.Path]:
  """Evaluates the subsets missing in a run's result file. Returns the contributions (None with --list) and its path."""
  from flaxnets.runtime import devices, workdir  # JAX takes seconds to import

  devices.start([flags.batch_size or workdir.stored_batch_size(folder)])
  from flaxnets.analysis import results, worth
  from flaxnets.evaluation.incremental import evaluate_missing
  from flaxnets.evaluation.judge import SplitEvaluation
  from flaxnets.inference.restore import load

  net = load(folder, flags.step)
  if flags.list:
    _print_subsets(flags, net.channels)
    return None, folder
  count = len(net.channels)
  subsets = worth.subsets_wanted(count, orders=flags.orders, seed=flags.seed)
  options = {'split': flags.split, 'root': flags.root, 'batch_size': flags.batch_size}
  evaluation = SplitEvaluation(net, subsets=subsets, **options)
  path = evaluate_missing(evaluation, folder)
  result = worth.worth(results.read_accuracies(path), orders=flags.orders, seed=flags.seed)
  if flags.greedy and not result['exact']:
    accuracy: dict[Subset, float] = {}

    def evaluated(candidates: list[Subset]) -> None:
      accuracy.update(results.read_accuracies(evaluate_missing(evaluation, folder, candidates)).accuracy)

    greedy = worth.greedy_subsets(accuracy.__getitem__, count, evaluated)
    result['greedy'] = worth.rows_of(results.read_accuracies(path), greedy)
  return result, path


def _print_subsets(flags: absl_flags.FlagValues, channels: Any) -> None:
  from flaxnets.analysis import worth

  subsets = worth.subsets_wanted(len(channels), orders=flags.orders, seed=flags.seed)
  print('all' if len(channels) <= worth.MAX_EXACT else ';'.join(map(channels.label, subsets)))
