"""Prints what each channel is worth in accuracy (Shapley values), and the best subset of each size.

    flaxnets worth runs/mine/eval/test.json

For more than ten channels the worths are averages over sampled orders. Evaluate the subsets that `--list` prints first:

    flaxnets eval --workdir=runs/mine --subsets="$(flaxnets worth --list runs/mine/eval/test.json)"
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.errors import InputError

ARGUMENTS = 'RESULT.json'


def define(flags: absl_flags.FlagValues) -> None:
  values = {'flag_values': flags}
  absl_flags.DEFINE_bool('json', False, 'print one object and nothing else', **values)
  absl_flags.DEFINE_integer('orders', 30, 'sampled orders, for more than ten channels', **values)
  absl_flags.DEFINE_integer('seed', 0, 'seed of the sampled orders', **values)
  absl_flags.DEFINE_bool('list', False, 'print the subsets that are needed, for flaxnets eval --subsets', **values)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  from flaxnets.analysis import results, worth

  path = arguments[0]
  table = results.read_accuracies(path)
  count = len(table.channels)
  if flags.list:
    needed = worth.subsets_needed(count, orders=flags.orders, seed=flags.seed)
    print('all' if count <= worth.MAX_EXACT else ';'.join(map(table.channels.label, needed)))
    return
  try:
    result = worth.worth(table, orders=flags.orders, seed=flags.seed)
  except InputError as error:
    raise InputError(f'{path}: {error}; --list prints the subsets for flaxnets eval --subsets') from None
  print(json.dumps(result, indent=1) if flags.json else worth.text(result))
