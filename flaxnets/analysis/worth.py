"""The worth of each channel in accuracy, from a table of all subsets. NumPy only.

The worth of a channel is its Shapley value (L. S. Shapley, A value for n-person games, 1953): the accuracy that it adds
when channels are added one after another, averaged over every order. The worths add up to the accuracy with all
channels minus the accuracy with none, which is the share of the largest class. They are exact for up to ten channels.
For more they are averages over sampled orders (J. Castro, D. Gomez, J. Tejada, Polynomial calculation of the Shapley
value based on sampling, Computers & Operations Research 36, 2009), and `subsets_wanted` lists the subsets of these.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flaxnets.analysis.results import AccuracyTable
from flaxnets.channels import Subset, larger_first
from flaxnets.errors import InputError

MAX_EXACT = 10  # channels; 1,023 subsets

Accuracy = Callable[[Subset], float]


def shapley(accuracy: Mapping[Subset, float], channels: int) -> np.ndarray:
  """The exact worth of each channel.

  Args:
    accuracy: of every subset of 0..channels-1, sorted tuples, including the empty one.
    channels: number of channels, up to MAX_EXACT.

  Returns:
    (channels,) float64; their sum is accuracy[all] - accuracy[()].

  Raises:
    InputError: for more channels, or missing subsets.
  """
  if channels > MAX_EXACT:
    raise InputError(
      f'{channels} channels have {2**channels - 1:,} subsets; exact worths are for up to '
      f'{MAX_EXACT}, and sampled_shapley for more'
    )
  everything = list(_subsets(channels))
  check_complete(accuracy, everything)
  values = np.empty(2**channels)
  for subset in everything:
    values[_bits(subset)] = accuracy[subset]
  places = np.arange(2**channels)
  sizes = np.bitwise_count(places).astype(int)
  # The share of all orders in which exactly the channels of a subset come before the channel in question.
  share = np.array([1 / (channels * math.comb(channels - 1, size)) for size in range(channels)] + [0.0])
  worth = np.empty(channels)
  for channel in range(channels):
    without = places[places >> channel & 1 == 0]
    worth[channel] = share[sizes[without]] @ (values[without | 1 << channel] - values[without])
  return worth


def sampled_shapley(
  accuracy: Accuracy, channels: int, *, orders: int = 30, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """The worth of each channel, averaged over random orders of the channels.

  Args:
    accuracy: a function of a subset (a sorted tuple, () too), called once for each subset in the drawn orders.
    channels: number of channels.
    orders: number of orders to draw, at least 2.
    seed: of the draws.

  Returns:
    (channels,) worths, whose sum is accuracy(all) - accuracy(()) for any orders, and their standard errors.

  Raises:
    InputError: for fewer than 2 orders.
  """
  known = functools.cache(accuracy)
  gains = np.empty((orders, channels))
  for row, order in zip(gains, _orders(channels, orders, seed), strict=True):
    values = [known(before) for before in _prefixes(order)]
    row[order] = np.diff(values)
  return gains.mean(axis=0), gains.std(axis=0, ddof=1) / math.sqrt(orders)


def best_subsets(accuracy: Mapping[Subset, float]) -> list[Subset]:
  """The subset of the highest accuracy of each size from 1 that occurs; of equal ones the first by index."""
  sizes = sorted({len(subset) for subset in accuracy} - {0})
  return [
    min((each for each in accuracy if len(each) == size), key=lambda each: (-accuracy[each], each)) for size in sizes
  ]


def greedy_subsets(
  accuracy: Accuracy, channels: int, prepare: Callable[[list[Subset]], Any] = lambda candidates: None
) -> list[Subset]:
  """A good subset of each size from 1: the one before, and the channel that adds most to it. Not always the best.

  Needs C (C + 1) / 2 subsets in place of 2^C - 1.

  Args:
    accuracy: a function of a subset.
    channels: number of channels.
    prepare: called with the candidates of a size before their accuracies are asked for, to evaluate them.
  """
  chosen: list[Subset] = [()]
  while len(chosen[-1]) < channels:
    left = [channel for channel in range(channels) if channel not in chosen[-1]]
    candidates = [tuple(sorted((*chosen[-1], channel))) for channel in left]
    prepare(candidates)
    chosen.append(best_subsets({candidate: accuracy(candidate) for candidate in candidates})[0])
  return chosen[1:]


def check_complete(
  accuracy: Mapping[Subset, float], wanted: Sequence[Subset], label: Callable[[Subset], str] = str
) -> None:
  """InputError naming the first of the wanted subsets that are missing."""
  missing = [subset for subset in wanted if subset not in accuracy]
  if missing:
    named = ' '.join(label(subset) or 'the empty one' for subset in missing[:8]) + (' ...' if missing[8:] else '')
    raise InputError(f'{len(missing)} of the {len(wanted)} subsets needed are missing: {named}')


def _subsets(channels: int) -> Iterator[Subset]:
  return itertools.chain.from_iterable(itertools.combinations(range(channels), m) for m in range(channels + 1))


def _bits(subset: Subset) -> int:
  return sum(1 << channel for channel in subset)


def _orders(channels: int, orders: int, seed: int) -> Iterator[np.ndarray]:
  if orders < 2:
    raise InputError(f'{orders} order of channels gives no standard error; give at least 2')
  random = np.random.default_rng(seed)
  return (random.permutation(channels) for _ in range(orders))


def _prefixes(order: np.ndarray) -> list[Subset]:
  """The subsets that grow as channels are added in an order, from the empty to the full one."""
  return [tuple(sorted(order[:count].tolist())) for count in range(len(order) + 1)]


def _sampled_subsets(channels: int, orders: int, seed: int) -> list[Subset]:
  """The subsets that `sampled_shapley` asks for, without the empty one; larger ones first."""
  found = {subset for order in _orders(channels, orders, seed) for subset in _prefixes(order)}
  return sorted(found - {()}, key=larger_first)


def subsets_wanted(channels: int, *, orders: int = 30, seed: int = 0) -> list[Subset]:
  """The subsets that `worth` needs, without the empty one: all, or those of sampled orders. Larger ones first."""
  if channels > MAX_EXACT:
    return _sampled_subsets(channels, orders, seed)
  return sorted((subset for subset in _subsets(channels) if subset), key=larger_first)


def worth(table: AccuracyTable, *, orders: int = 30, seed: int = 0) -> dict[str, Any]:
  """The worth of each channel and the best subset of each size, as plain JSON values; fractions.

  Raises:
    InputError: for missing subsets.
  """
  channels, accuracy = table
  count, exact = len(channels), len(channels) <= MAX_EXACT
  wanted = [(), *subsets_wanted(count, orders=orders, seed=seed)]
  check_complete(accuracy, wanted, channels.label)
  errors: np.ndarray | list[None]
  if exact:
    worths, errors = shapley(accuracy, count), [None] * count
  else:
    worths, errors = sampled_shapley(accuracy.__getitem__, count, orders=orders, seed=seed)
  return {
    'exact': exact,
    'orders': None if exact else orders,
    'none': accuracy[()],
    'full': accuracy[channels.full],
    'channels': [
      {'channel': name, 'worth': float(value), 'standard_error': None if error is None else float(error)}
      for name, value, error in zip(channels.names, worths, errors, strict=True)
    ],
    'evaluated': len(accuracy) - 1,
    'best': rows_of(table, best_subsets(accuracy)),
  }


def rows_of(table: AccuracyTable, subsets: Sequence[Subset]) -> list[dict[str, Any]]:
  """The 'size', 'channels' and 'accuracy' of some subsets."""
  return [
    {'size': len(subset), 'channels': table.channels.label(subset), 'accuracy': table.accuracy[subset]}
    for subset in subsets
  ]


def text(result: Mapping[str, Any]) -> str:
  """The result of `worth` as text, in points of accuracy; with 'greedy' rows added, those too."""
  how = 'exact' if result['exact'] else f'{result["orders"]} sampled orders'
  lines = [
    f'accuracy {result["none"]:.2%} with no channel (largest class), {result["full"]:.2%} with all',
    f'worth of each channel in points ({how}):',
  ]
  width = max(len(row['channel']) for row in result['channels'])
  for row in result['channels']:
    error = '' if row['standard_error'] is None else f' +- {100 * row["standard_error"]:.2f}'
    lines.append(f'  {row["channel"]:{width}} {100 * row["worth"]:6.2f}{error}')
  lines.append(
    'best subset of each size:'
    if result['exact']
    else f'best subset of each size, of the {result["evaluated"]:,} that were evaluated:'
  )
  lines += [_line(row) for row in result['best']]
  if result.get('greedy'):
    lines.append('greedy subset of each size (the one before and the channel that adds most; not always the best):')
    lines += [_line(row) for row in result['greedy']]
  return '\n'.join(lines)


def _line(row: Mapping[str, Any]) -> str:
  return f'  {row["size"]:2}  {row["accuracy"]:7.2%}  {row["channels"]}'
