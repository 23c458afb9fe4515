"""Judging a trained network: restore it, evaluate every subset, print a table, write it down."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxnets import cost, experiment, parallel, provenance
from flaxnets.channels import Subset
from flaxnets.data import batches
from flaxnets.data.sources import Source
from flaxnets.errors import InputError
from flaxnets.evaluator import Evaluator
from flaxnets.network import Network, first_kernel, load


def evaluate(
  net: Network, *, subsets: str = 'all', split: str = 'test', root: str = '', batch_size: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Judges a restored network on the subsets of a split.

  Args:
    net: from `flaxnets.load`; subsets with recalibrated statistics in it are judged with those.
    subsets: as in `flaxnets.channels.ChannelSet.subsets`; 'all' of an expert's is its one.
    split, root: see `flaxnets.experiment.open_source`.
    batch_size: examples at a time; the config's where 0.

  Returns:
    The scores, as eval/<split>.json holds them (fractions, not per cent), and the arrays of the .npz beside it: `id`
    and `label` of every example judged, and for each subset XY its `prediction/XY` and `kernel/XY`.

  Raises:
    InputError: for subsets, splits or data that cannot be judged.
  """
  config = net.config
  wanted = experiment.subsets(config, net.channels, subsets)
  source = experiment.open_source(config, split, root=root, classes=net.classes)
  mesh = parallel.data_mesh()
  batch_size = batch_size or config.evaluate.batch_size
  parallel.check_batch(batch_size, mesh, '--batch_size')
  evaluator, variables = evaluator_of(net, source, wanted, mesh), placed(net, wanted, net.recalibrated, mesh)
  judged, indices = evaluator(variables, batches.evaluation_batches(
    source, batch_size=batch_size, host=jax.process_index(), hosts=jax.process_count(),
    threads=config.data.threads, on_bad_image=config.data.on_bad_image,
  ))
  if not len(indices):
    raise InputError(f'{source.name}: none of its {len(source)} examples can be read')
  rows, arrays = [], {'id': np.asarray([source.ids[i] for i in indices]), 'label': source.labels[indices]}
  for subset, judgement in judged.items():
    label = net.channels.label(subset)
    counted = cost.of_subset(net.model, subset, config.image_size)
    rows.append({
      'channels': label, 'recalibrated': subset in net.recalibrated, **judgement.summary(), **counted,
      'confusion': judgement.confusion.tolist(),
    })
    arrays[f'prediction/{label}'] = judgement.predictions
    arrays[f'kernel/{label}'] = first_kernel(net.model, net.variables, subset)
  scores = {
    'model': config.model.name, 'step': net.step, 'split': split, 'recalibrated': bool(net.recalibrated),
    'ema': net.ema, 'seed': config.seed, 'examples': len(indices), 'unreadable': len(source) - len(indices),
    'commit': provenance.commit(), 'versions': provenance.versions(),
    'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
    'classes': list(net.classes), 'channels': list(net.channels.names), 'subsets': rows,
  }
  return scores, arrays


def evaluator_of(net: Network, source: Source, subsets: Sequence[Subset], mesh: Mesh) -> Evaluator:
  """The compiled functions that judge a restored network on some subsets of a source."""
  return Evaluator(
    net.model, subsets, order=source.channels.order(net.channels.names), image_size=net.config.image_size,
    resize=net.config.augment.evaluation_resize, fill=net.fill, may_lack=source.may_lack, mesh=mesh,
  )


def placed(
  net: Network, subsets: Sequence[Subset], statistics: Mapping[Subset, Any], mesh: Mesh
) -> dict[Subset, dict[str, Any]]:
  """A network's variables for each subset, on all devices, with its own 'batch_stats' where given; the weights once."""
  whole = parallel.replicated(mesh)
  variables = jax.device_put(net.variables, whole)
  own = jax.device_put({subset: statistics[subset] for subset in subsets if subset in statistics}, whole)
  return {
    subset: {**variables, 'batch_stats': own.get(subset, variables['batch_stats'])} for subset in subsets
  }


def table(scores: dict[str, Any]) -> str:
  """The scores of every subset in columns, in per cent, accuracy with its 95 % interval; * is recalibrated."""
  header = ['channels', 'accuracy', '95 %', 'precision', 'recall', 'F1', 'top-5', 'loss', 'MACs', 'FLOPs (XLA)']
  lines = [header]
  for row in scores['subsets']:
    lines.append([
      row['channels'] + ('*' if row['recalibrated'] else ''),
      f'{row["accuracy"]:.2%}', f'{row["accuracy_low"]:.1%}-{row["accuracy_high"]:.1%}',
      *(f'{row[key]:.2%}' for key in ('precision', 'recall', 'f1')),
      '' if row['top5'] is None else f'{row["top5"]:.2%}', f'{row["loss"]:.3f}', *(
        f'{row[key]:,}' for key in ('macs', 'flops')),
    ])
  return cost.columns(lines)


def write(scores: dict[str, Any], arrays: dict[str, np.ndarray], folder: pathlib.Path, name: str) -> pathlib.Path:
  """Writes eval/<name>.json and .npz into a run's folder, whole or not at all; returns the JSON's path."""
  folder = folder / 'eval'
  folder.mkdir(exist_ok=True)
  path = folder / f'{name}.json'
  beside = folder / f'.{name}.npz'
  np.savez_compressed(beside, **arrays)
  os.replace(beside, folder / f'{name}.npz')
  beside = folder / f'.{name}.json'
  beside.write_text(json.dumps(scores) + '\n')
  os.replace(beside, path)
  return path


def run(
  workdir: str, *, subsets: str = 'all', split: str = 'test', root: str = '', step: str = 'best', batch_size: int = 0,
  recalibrated: bool = False,
) -> int:
  """What eval_main.py does, after `flaxnets.recalibrate.run` where `recalibrated`; returns the exit code."""
  net = load(workdir, step, recalibrated=recalibrated)
  scores, arrays = evaluate(net, subsets=subsets, split=split, root=root, batch_size=batch_size)
  scores['recalibrated'] = recalibrated  # also where it helped no subset
  if jax.process_index() == 0:
    name = experiment.scores_name(split) + ('' if step == 'best' else f'-step{net.step}')
    path = write(scores, arrays, pathlib.Path(workdir), name + ('-recalibrated' if recalibrated else ''))
    print(f'{scores["model"]}, step {scores["step"]}, {scores["examples"]:,} examples of {split!r}'
          + (', recalibrated where that helps (*)' if recalibrated else '')
          + (f', {scores["unreadable"]} unreadable ones left out' if scores['unreadable'] else ''))
    print(table(scores))
    print(f'written to {path}')
  return 0
