"""Judging a trained network: restore it, evaluate every subset, print a table, write it down."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxnets import experiment
from flaxnets.analysis.text import columns
from flaxnets.channels import ChannelSet, Subset
from flaxnets.data import batches
from flaxnets.data.source import Source
from flaxnets.errors import InputError
from flaxnets.evaluation.evaluator import Evaluator
from flaxnets.inference.network import Network, first_kernel
from flaxnets.models import cost
from flaxnets.runtime import devices, provenance


def evaluate(
  net: Network, *, subsets: str = '', split: str = 'test', root: str = '', batch_size: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Judges a restored network on the subsets of a split.

  Args:
    net: from `flaxnets.load`; subsets with recalibrated statistics in it are judged with those.
    subsets: as in `flaxnets.channels.ChannelSet.subsets`, of the channels that the data have; '' and an expert's
      'all' as in `flaxnets.experiment.subsets`.
    split, root: see `flaxnets.experiment.open_source`.
    batch_size: examples at a time; the config's where 0.

  Returns:
    The scores, as eval/<split>.json holds them (fractions, not per cent), and the arrays of the .npz beside it: `id`
    and `label` of every example judged, and for each subset XY its `prediction/XY` and `kernel/XY`.

  Raises:
    InputError: for subsets, splits or data that cannot be judged.
  """
  config = net.config
  source = experiment.open_source(config, split, root=root, classes=net.classes)
  wanted = subsets_in(net, source, subsets)
  mesh = devices.data_mesh()
  batch_size = batch_size or config.evaluate.batch_size
  devices.check_batch(batch_size, mesh, '--batch_size')
  evaluator, variables = evaluator_of(net, source, wanted, mesh), placed(net, wanted, net.recalibrated, mesh)
  judged, indices = evaluator(
    variables,
    on_the_scale(
      net,
      source,
      batches.evaluation_batches(
        source,
        batch_size=batch_size,
        host=jax.process_index(),
        hosts=jax.process_count(),
        threads=config.data.threads,
        on_bad_image=config.data.on_bad_image,
      ),
    ),
  )
  if not len(indices):
    raise InputError(f'{source.name}: none of its {len(source)} examples can be read')
  for subset, result in judged.items():
    if not np.isfinite(result.loss):
      raise InputError(
        f'the network has outputs on {net.channels.label(subset)} that are not finite: it judges '
        'nothing. Take another --step, or train with a lower train.learning_rate'
      )
  counts = cost.of_subsets(net.model, judged, config.image_size)
  rows, arrays = [], {'id': np.asarray([source.ids[i] for i in indices]), 'label': source.labels[indices]}
  for subset, result in judged.items():
    label = net.channels.label(subset)
    counted = counts[subset]
    rows.append(
      {
        'channels': label,
        'recalibrated': subset in net.recalibrated,
        **result.summary(),
        **counted,
        'confusion': result.confusion.tolist(),
      }
    )
    arrays[f'prediction/{label}'] = result.predictions
    arrays[f'kernel/{label}'] = first_kernel(net.model, net.variables, subset)
  scores = {
    'model': config.model.name,
    'step': net.step,
    'split': split,
    'recalibrated': bool(net.recalibrated),
    'ema': net.ema,
    'seed': config.seed,
    'examples': len(indices),
    'unreadable': len(source) - len(indices),
    'commit': provenance.commit(),
    'versions': provenance.versions(),
    'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
    'classes': list(net.classes),
    'channels': list(net.channels.names),
    'subsets': rows,
  }
  return scores, arrays


def source_index_of(net: Network, source: Source) -> tuple[int, ...]:
  """For each of a network's channels its place in a source, -1 for those that the source lacks."""
  names = source.channels.names
  return tuple(names.index(name) if name in names else -1 for name in net.channels.names)


def subsets_in(net: Network, source: Source, text: str) -> list[Subset]:
  """The subsets that a text asks for, of those of the network's channels that a source has: 'full' is all of these.

  Raises:
    InputError: if it has none of them, or the text asks for others.
  """
  there = [place for place, found in enumerate(source_index_of(net, source)) if found >= 0]
  if len(there) == len(net.channels):
    return experiment.subsets(net.config, net.channels, text)
  if not there:
    raise InputError(
      f"{source.name} has the channels {', '.join(source.channels.names)}, and none of the network's, "
      f'which are {", ".join(net.channels.names)}'
    )
  known = ChannelSet(tuple(net.channels.names[place] for place in there))
  try:
    found = experiment.subsets(net.config, known, text)
  except InputError as error:
    raise InputError(f'{source.name}: {error}') from None
  return [tuple(there[index] for index in subset) for subset in found]


def on_the_scale(
  net: Network, source: Source, batches: Iterable[Mapping[str, np.ndarray]]
) -> Iterator[Mapping[str, np.ndarray]]:
  """The batches; InputError at the first whose pixels cannot be meant for the network, see `Network.check_scale`."""
  places = source_index_of(net, source)
  there = [place for place, found in enumerate(places) if found >= 0]
  taken = [places[place] for place in there]
  for number, batch in enumerate(batches):
    if number == 0:
      try:
        net.check_scale(batch['image'][..., taken], there, batch['present'][:, taken] & batch['mask'][:, np.newaxis])
      except InputError as error:
        raise InputError(f'{source.name}: {error}') from None
    yield batch


def evaluator_of(net: Network, source: Source, subsets: Sequence[Subset], mesh: Mesh) -> Evaluator:
  """The compiled functions that judge a restored network on some subsets of a source."""
  return Evaluator(
    net.model,
    subsets,
    source_index=source_index_of(net, source),
    image_size=net.config.image_size,
    resize=net.config.augment.evaluation_resize,
    fill=net.fill,
    has_missing_channels=source.has_missing_channels,
    mesh=mesh,
  )


def placed(
  net: Network, subsets: Sequence[Subset], statistics: Mapping[Subset, Any], mesh: Mesh
) -> dict[Subset, dict[str, Any]]:
  """A network's variables for each subset, on all devices, with its own 'batch_stats' where given; the weights once."""
  whole = devices.replicated(mesh)
  variables = jax.device_put(net.variables, whole)
  own = jax.device_put({subset: statistics[subset] for subset in subsets if subset in statistics}, whole)
  return {subset: {**variables, 'batch_stats': own.get(subset, variables['batch_stats'])} for subset in subsets}


def table(scores: dict[str, Any]) -> str:
  """The scores of every subset in columns, in per cent, accuracy with its 95 % interval; * is recalibrated."""
  header = ['channels', 'accuracy', '95 %', 'precision', 'recall', 'F1', 'top-5', 'loss', 'MACs', 'FLOPs (XLA)']
  lines = [header]
  for row in scores['subsets']:
    lines.append(
      [
        row['channels'] + ('*' if row['recalibrated'] else ''),
        f'{row["accuracy"]:.2%}',
        f'{row["accuracy_low"]:.1%}-{row["accuracy_high"]:.1%}',
        *(f'{row[key]:.2%}' for key in ('precision', 'recall', 'f1')),
        '' if row['top5'] is None else f'{row["top5"]:.2%}',
        f'{row["loss"]:.3f}',
        *(f'{row[key]:,}' for key in ('macs', 'flops')),
      ]
    )
  return columns(lines)
