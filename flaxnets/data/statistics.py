"""What a network learns to know of its channels before training: mean, deviation, correlation and range."""

from __future__ import annotations

import numpy as np
from absl import logging

from flaxnets.analysis.covariance import ChannelSums
from flaxnets.data.batches import evaluation_batches
from flaxnets.data.source import Source
from flaxnets.errors import InputError


def measure(
  source: Source, *, examples: int = 2000, seed: int = 0, threads: int = 0, on_bad_image: str = 'error'
) -> dict[str, np.ndarray]:
  """Statistics over all pixels of randomly chosen examples, in raw pixel units.

  A channel that an example lacks counts for nothing there: mean, deviation and range are over the examples
  that have it, a correlation over those that have both channels. A pair never seen together has correlation
  0. See `flaxnets.analysis.covariance.ChannelSums` for how gaps are repaired. A channel that is
  constant, or that no example has, gets deviation 1 and correlation 0, with a warning; in the latter case
  mean, low and high are 0 too.

  Args:
    source: the training examples.
    examples: how many to take; all where there are fewer.
    seed: of the choice.
    threads: that read; 0 for one a core.
    on_bad_image: 'error', or 'skip' to leave unreadable examples out.

  Returns:
    float32 arrays (summed in float64): 'mean', 'std', 'low' and 'high' (C,), the last two the least and the
    greatest pixel, and 'correlation' (C, C), positive semi-definite with a diagonal of 1.

  Raises:
    InputError: if no chosen example is readable, or for a value of an argument that cannot be.
    BadImage: for an unreadable example, if `on_bad_image` is 'error'.
  """
  if examples < 1:
    raise InputError(f'channel statistics of {examples} examples; at least 1 is needed')
  count = min(examples, len(source))
  chosen = np.sort(np.random.default_rng(seed).choice(len(source), count, replace=False))
  sums = ChannelSums(len(source.channels))
  for batch in evaluation_batches(
    source, batch_size=min(count, 32), threads=threads, examples=chosen, on_bad_image=on_bad_image
  ):
    for row in np.flatnonzero(batch['mask']):
      sums.add(batch['image'][row], batch['present'][row])
  if not sums.seen.any():
    raise InputError(f'{source.name}: none of the {count} examples for the channel statistics is readable')
  for name, seen, constant in zip(source.channels.names, sums.seen, sums.low == sums.high, strict=True):
    if not seen or constant:
      fact = 'is constant over' if seen else 'is absent from'
      logging.warning('%s: channel %s %s the %s examples measured', source.name, name, fact, count)
  return {name: values.astype(np.float32) for name, values in sums.statistics().items()}
