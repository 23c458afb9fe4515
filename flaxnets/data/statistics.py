"""Mean, deviation, correlation and range of a source's channels, which a network gets before training."""

from __future__ import annotations

import numpy as np
from absl import logging

from flaxnets.analysis.covariance import ChannelSums
from flaxnets.data.batches import evaluation_batches
from flaxnets.data.constant_planes import ConstantPlanes
from flaxnets.data.source import Source
from flaxnets.data.summary import LackingChannels
from flaxnets.errors import InputError


def measure(
  source: Source, *, examples: int = 2000, seed: int = 0, threads: int = 0, on_bad_image: str = 'error'
) -> dict[str, np.ndarray]:
  """What `flaxnets.channel_statistics` measures, over all pixels of randomly chosen examples of a source.

  A channel that is constant, or that no example has, is logged as a warning, and so are `ConstantPlanes`. Where a
  source knows only when it reads which channels an example has, the number of examples that lack one is logged too.

  Args:
    source: the training examples.
    examples: number of examples to read; if the source has fewer, all of them.
    seed: seed of the choice of examples.
    threads: number of threads that read; 0 for one per core.
    on_bad_image: 'error', or 'skip' to leave unreadable examples out.

  Returns:
    float32 arrays, see `flaxnets.channel_statistics`.

  Raises:
    InputError: if none of the chosen examples is readable, or for an argument outside its range.
    BadImage: for the first unreadable example, if `on_bad_image` is 'error'.
  """
  if examples < 1:
    raise InputError(f'channel statistics need at least 1 example, not {examples}')
  count = min(examples, len(source))
  chosen = np.sort(np.random.default_rng(seed).choice(len(source), count, replace=False))
  sums, planes = ChannelSums(len(source.channels)), ConstantPlanes(source)
  read = evaluation_batches(
    source, batch_size=min(count, 32), threads=threads, examples=chosen, on_bad_image=on_bad_image
  )
  lacking = LackingChannels(source)
  for batch in lacking.counted(planes.counted(read)):
    for row in np.flatnonzero(batch['mask']):
      sums.add(batch['image'][row], batch['present'][row])
  if not sums.seen.any():
    raise InputError(f'{source.name}: none of the {count} examples for the channel statistics is readable')
  for name, seen, constant in zip(source.channels.names, sums.seen, sums.constant, strict=True):
    if not seen or constant:
      fact = 'is constant over' if seen else 'is absent from'
      logging.warning('%s: channel %s %s the %s examples measured', source.name, name, fact, count)
  planes.warn()
  if lacking.text() and not hasattr(source, 'presence'):
    logging.warning('%s: of the %s examples measured, %s', source.name, count, lacking.text())
  return sums.statistics()
