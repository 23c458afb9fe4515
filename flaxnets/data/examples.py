"""Whether the examples are still those that a run began with, and whether all hosts have the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from flaxnets.data.source import Source
from flaxnets.errors import InputError
from flaxnets.runtime.digests import array_digests, text_digest


def example_digests(source: Source) -> dict[str, str]:
  """What shows that the examples of a source, and so their order in training, are still the same.

  Returns:
    'examples', a digest of all ids and labels, and 'labels', a digest of the labels, by which checkpoints of version
    0.1.0 are compared.
  """
  labels = array_digests({'labels': source.labels})['labels']
  digest = hashlib.blake2b(labels.encode(), digest_size=16)
  for index in range(len(source)):
    digest.update(f'{source.ids[index]}\n'.encode(errors='surrogatepass'))
  return {'examples': digest.hexdigest(), 'labels': labels}


def check_hosts(sources: Mapping[str, Source]) -> None:
  """Compares the splits of all processes; called by all of them, with the same number of splits in the same order.

  Compared are the ids and labels of the examples, the classes, the channels, and the size and number type of the
  images. Pixels are not: each host reads only its share of them.

  Args:
    sources: by what the user calls the split, such as the field of the config that names it, for messages.

  Raises:
    InputError: in every process, naming the first split that differs.
  """
  import jax  # not at the top: data are divided and checked without it
  from jax.experimental import multihost_utils

  if jax.process_count() == 1:
    return
  ours = np.asarray([list(bytes.fromhex(_digest(source))) for source in sources.values()], np.uint8)
  every = np.asarray(multihost_utils.process_allgather(ours))  # (processes, splits, bytes)
  differs = (every != every[:1]).any(axis=-1)
  for number, (place, source) in enumerate(sources.items()):
    if differs[:, number].any():
      processes = ', '.join(map(str, np.flatnonzero(differs[:, number])))
      raise InputError(
        f"{place}: the hosts' copies of the data differ: {source.name} has other examples, classes, channels or image "
        f'sizes in process {processes} than in process 0; give every host the same files'
      )


def _digest(source: Source) -> str:
  shape = [*source.canvas, str(np.dtype(source.dtype)), *source.channels.names]
  return text_digest([example_digests(source)['examples'], list(source.classes), list(map(str, shape))])
