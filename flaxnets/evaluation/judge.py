"""A trained network evaluated on a split: opens the data, evaluates subsets, makes the rows of a result file."""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxnets.analysis import result_names, results
from flaxnets.analysis.text import columns
from flaxnets.channels import Subset
from flaxnets.data import summary
from flaxnets.data.constant_planes import ConstantPlanes
from flaxnets.data.source import Source
from flaxnets.errors import InputError
from flaxnets.evaluation import splits
from flaxnets.evaluation.evaluator import Evaluator, SubsetResult
from flaxnets.inference.network import Network
from flaxnets.inference.weights import weights_digest
from flaxnets.models import cost
from flaxnets.models.classifier import Classifier
from flaxnets.nn.stem import stored_statistics
from flaxnets.runtime import devices, provenance


class SplitEvaluation:
  """A restored network and a split, ready to be evaluated on subsets, all at once or some at a time.

  Args:
    net: from `flaxnets.load`. Subsets with recalibrated statistics in it are evaluated with those.
    subsets: as in `flaxnets.channels.ChannelSet.subsets`, of the channels that the data have; '' and an expert's
      'all' as in `flaxnets.experiment.subsets`. Or the subsets themselves.
    split, root: see `flaxnets.experiment.open_source`.
    batch_size: examples at a time; the config's where 0.
    source: examples to evaluate in place of a split of the run's data.

  Attributes:
    subsets: the subsets, larger ones first.
    steps: batches in one pass over the split.
    identity: the fields of a result file that say what was evaluated; see `flaxnets.analysis.results.IDENTITY`.
    lacking: after `evaluate`, how many examples lack a channel, see `flaxnets.data.summary.lacking_channels`; with
      several hosts '' for a source that knows it only when it reads.

  Raises:
    InputError: for subsets, splits or data that cannot be evaluated.
  """

  def __init__(
    self,
    net: Network,
    *,
    subsets: str | Sequence[Subset] = '',
    split: str = 'test',
    root: str = '',
    batch_size: int = 0,
    source: Source | None = None,
  ):
    config, self.net, self.lacking = net.config, net, ''
    self.source = source or splits.open_split(net, split, root)
    if isinstance(subsets, str):
      self.subsets = splits.subsets_in(net, self.source, subsets)
    else:
      self.subsets = splits.check_available(net, self.source, subsets)
    self.mesh, self.batch_size = devices.data_mesh(), batch_size or config.evaluate.batch_size
    devices.check_batch(self.batch_size, self.mesh, 'batch_size' if batch_size else 'evaluate.batch_size')
    self.steps = math.ceil(len(self.source) / self.batch_size)
    self._planes = ConstantPlanes(self.source, net.channels.names)
    self.evaluator = evaluator_of(net, self.source, self.subsets, self.mesh)
    self.variables, self.batch_stats = on_devices(net, self.subsets, net.recalibrated, self.mesh)
    self.identity: dict[str, Any] = {
      'split': split,
      'root': result_names.absolute_root(root or config.data.root),
      'step': net.step,
      'recalibrated': bool(net.recalibration),  # also where statistics are kept for no subset
      'weights': weights_digest(net),
      'commit': provenance.commit(),
      'versions': provenance.versions(),
    }
    if net.recalibration:
      self.identity['recalibration'] = net.recalibration
    if net.switched:
      self.identity['completion'] = net.switched

  def evaluate(
    self, subsets: Sequence[Subset] | None = None, on_batch: Callable[[], Any] = lambda: None
  ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Evaluates some of `subsets`, or all, in one pass over the split.

    Args:
      subsets: which; all if None.
      on_batch: called after each batch.

    Returns:
      The scores as a result file holds them (fractions, not per cent), and the arrays of the .npz beside it: `id` and
      `label` of every example, and for each subset XY its `prediction/XY` and `kernel/XY`.

    Raises:
      InputError: for examples that cannot be read, pixels on another scale or outputs that are not finite.
    """
    stream = splits.check_scale(self.net, self.source, splits.read(self.net, self.source, self.batch_size))
    lacking = summary.LackingChannels(self.source)
    stream = _counted(lacking.counted(self._planes.counted(stream)), on_batch)
    by_subset, indices = self.evaluator(self.variables, stream, batch_stats=self.batch_stats, subsets=subsets)
    self._check(by_subset, indices)
    self.lacking = summary.lacking_channels(self.source) or (lacking.text() if jax.process_count() == 1 else '')
    self._planes.warn()
    net = self.net
    arrays = {'id': np.asarray([self.source.ids[i] for i in indices]), 'label': self.source.labels[indices]}
    for subset, result in by_subset.items():
      label = net.channels.label(subset)
      arrays[f'prediction/{label}'] = result.predictions
      arrays[f'kernel/{label}'] = net.model.first_kernel(net.variables, subset)
    return self._scores(len(indices), self._rows(by_subset)), arrays

  def _check(self, by_subset: Mapping[Subset, SubsetResult], indices: np.ndarray) -> None:
    if not len(indices):
      raise InputError(f'{self.source.name}: none of its {len(self.source)} examples can be read')
    for subset, result in by_subset.items():
      if not np.isfinite(result.loss):
        raise InputError(
          f'the outputs of the network on {self.net.channels.label(subset)} are not finite, so it cannot be evaluated. '
          'Take another --step, or train with a lower train.learning_rate'
        )

  def _rows(self, by_subset: Mapping[Subset, SubsetResult]) -> list[dict[str, Any]]:
    """A result file's row for each subset. Costs are counted on host 0 alone, which writes the file."""
    net, counts, rows = self.net, {}, []
    if jax.process_index() == 0:
      counts = cost.of_subsets(net.model, by_subset, net.config.image_size)
    for subset, result in by_subset.items():
      row = {'channels': net.channels.label(subset), 'recalibrated': subset in net.recalibrated}
      row |= {**result.summary(), **counts.get(subset, {})}
      if result.num_classes <= results.MAX_CLASSES_OF_MATRIX:
        row['confusion'] = result.confusion.tolist()
      rows.append(row)
    return rows

  def _scores(self, examples: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    net, config = self.net, self.net.config
    return {
      'model': config.model.name,
      **self.identity,
      'ema': net.ema,
      'seed': config.seed,
      'examples': examples,
      'unreadable': len(self.source) - examples,
      'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
      'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
      'classes': list(net.classes),
      'channels': list(net.channels.names),
      'channel_stats': stored_statistics(net.variables),
      'subsets': list(rows),
    }


def evaluate(
  net: Network,
  *,
  subsets: str = '',
  split: str = 'test',
  root: str = '',
  batch_size: int = 0,
  source: Source | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The scores and arrays of a network on subsets of a split; see `SplitEvaluation` and its `evaluate`."""
  evaluation = SplitEvaluation(net, subsets=subsets, split=split, root=root, batch_size=batch_size, source=source)
  return evaluation.evaluate()


def _counted(stream: Iterable[Any], on_batch: Callable[[], Any]) -> Iterator[Any]:
  for batch in stream:
    yield batch
    on_batch()


def evaluator_of(net: Network, source: Source, subsets: Sequence[Subset], mesh: Mesh) -> Evaluator:
  """The functions that evaluate a restored network on some subsets of a source, compiled once for equal arguments."""
  return _evaluator(
    net.model,
    tuple(subsets),
    splits.source_index_of(net, source),
    net.config.image_size,
    net.config.augment.evaluation_resize,
    tuple(net.fill.tolist()),
    source.has_missing_channels,
    mesh,
  )


@functools.lru_cache(maxsize=8)
def _evaluator(
  model: Classifier,
  subsets: tuple[Subset, ...],
  source_index: tuple[int, ...],
  image_size: int,
  resize: float,
  fill: tuple[float, ...],
  has_missing_channels: bool,
  mesh: Mesh,
) -> Evaluator:
  return Evaluator(
    model,
    subsets,
    source_index=source_index,
    image_size=image_size,
    resize=resize,
    fill=np.asarray(fill, np.float32),
    has_missing_channels=has_missing_channels,
    mesh=mesh,
  )


def on_devices(
  net: Network, subsets: Sequence[Subset], batch_stats: Mapping[Subset, Any], mesh: Mesh
) -> tuple[dict[str, Any], dict[Subset, Any]]:
  """A network's variables on all devices, and the 'batch_stats' of those of the subsets that have some."""
  own = {subset: batch_stats[subset] for subset in subsets if subset in batch_stats}
  return jax.device_put((net.variables, own), devices.replicated(mesh))


def _percent(key: str) -> Callable[[Mapping[str, Any]], str]:
  return lambda row: '' if row.get(key) is None else f'{row[key]:.2%}'


def _count(key: str) -> Callable[[Mapping[str, Any]], str]:
  return lambda row: f'{row[key]:,}'


COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
  ('channels', lambda row: row['channels'] + ('*' if row['recalibrated'] else '')),
  ('accuracy', _percent('accuracy')),
  ('95 %', lambda row: f'{row["accuracy_low"]:.1%}-{row["accuracy_high"]:.1%}'),
  ('precision', _percent('precision')),
  ('recall', _percent('recall')),
  ('F1', _percent('f1')),
  ('top-5', _percent('top5')),
  ('loss', lambda row: f'{row["loss"]:.3f}'),
  ('ECE', _percent('ece')),
  ('MACs', _count('macs')),
  ('FLOPs (XLA)', _count('flops')),
  ('latency, ms', lambda row: f'{1e3 * row["latency"]:.2f}' if 'latency' in row else ''),
)


def table(scores: Mapping[str, Any]) -> str:
  """The scores of every subset in COLUMNS, in per cent, accuracy with its 95 % interval; * is recalibrated.

  A column without a value in any row is left out: top-5 for up to five classes, and latencies that were not measured.
  """
  by_column = [[name, *map(text, scores['subsets'])] for name, text in COLUMNS]
  return columns(list(zip(*(cells for cells in by_column if any(cells[1:])), strict=True)))
