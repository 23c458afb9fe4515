"""A split as a trained network reads it: opened, the same on all hosts, in batches, on the scale that it knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from flaxnets import experiment
from flaxnets.channels import ChannelSet, Subset
from flaxnets.data import batches
from flaxnets.data.examples import check_hosts
from flaxnets.data.source import Source
from flaxnets.errors import InputError
from flaxnets.inference.network import Network

FIELDS = ('train', 'validation', 'test')  # splits that a field of the config names


def open_split(net: Network, split: str, root: str = '') -> Source:
  """A split of a network's data, with the network's classes; called by all hosts, whose copies are compared.

  Args:
    net: a trained network.
    split, root: see `flaxnets.experiment.open_source`.

  Raises:
    InputError: see `flaxnets.experiment.open_source` and `flaxnets.data.examples.check_hosts`.
  """
  source = experiment.open_source(net.config, split, root=root, classes=net.classes)
  check_hosts({f'data.{split}' if split in FIELDS else f'split {split!r}': source})
  return source


def read(
  net: Network, source: Source, batch_size: int, examples: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
  """This host's share of a source's examples, or of some of them, each once, as the network's config reads data."""
  return batches.evaluation_batches(
    source,
    batch_size=batch_size,
    host=jax.process_index(),
    hosts=jax.process_count(),
    threads=net.config.data.threads,
    on_bad_image=net.config.data.on_bad_image,
    examples=examples,
  )


def source_index_of(net: Network, source: Source) -> tuple[int, ...]:
  """The index of each of a network's channels in a source, -1 for those that the source lacks."""
  names = source.channels.names
  return tuple(names.index(name) if name in names else -1 for name in net.channels.names)


def subsets_in(net: Network, source: Source, text: str) -> list[Subset]:
  """The subsets that a text asks for, of those of the network's channels that a source has: 'full' is all of these.

  Raises:
    InputError: if the source has none of the network's channels, or the text asks for others.
  """
  available = [channel for channel, index in enumerate(source_index_of(net, source)) if index >= 0]
  if len(available) == len(net.channels):
    return experiment.subsets(net.config, net.channels, text)
  if not available:
    raise InputError(
      f"{source.name} has the channels {', '.join(source.channels.names)}, and none of the network's, "
      f'which are {", ".join(net.channels.names)}'
    )
  known = ChannelSet(tuple(net.channels.names[channel] for channel in available))
  try:
    subsets = experiment.subsets(net.config, known, text)
  except InputError as error:
    raise InputError(f'{source.name}: {error}') from None
  return [tuple(available[index] for index in subset) for subset in subsets]


def check_available(net: Network, source: Source, subsets: Sequence[Subset]) -> list[Subset]:
  """The subsets as a list; InputError if the source lacks a channel of one."""
  lacking = [channel for channel, index in enumerate(source_index_of(net, source)) if index < 0]
  missing = [net.channels.names[channel] for channel in lacking if any(channel in subset for subset in subsets)]
  if missing:
    raise InputError(f'{source.name} has no channel {", ".join(missing)}; it has {", ".join(source.channels.names)}')
  return list(subsets)


def check_scale(
  net: Network, source: Source, batches: Iterable[Mapping[str, np.ndarray]]
) -> Iterator[Mapping[str, np.ndarray]]:
  """The batches; InputError if the first one's pixels are on another scale than the network's training data."""
  index_of = source_index_of(net, source)
  available = [channel for channel, index in enumerate(index_of) if index >= 0]
  planes = [index_of[channel] for channel in available]
  for number, batch in enumerate(batches):
    if number == 0:
      present = batch['present'][:, planes] & batch['mask'][:, np.newaxis]
      try:
        net.check_scale(batch['image'][..., planes], available, present)
      except InputError as error:
        raise InputError(f'{source.name}: {error}') from None
    yield batch
