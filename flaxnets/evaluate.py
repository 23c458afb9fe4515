"""Judging a trained network: restore it, evaluate every subset, print a table, write it down."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from flaxnets import cost, experiment, parallel
from flaxnets.data import batches
from flaxnets.errors import InputError
from flaxnets.evaluator import Evaluator
from flaxnets.network import Network, first_kernel, load


def evaluate(
  net: Network, *, subsets: str = 'all', split: str = 'test', root: str = '', batch_size: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Judges a restored network on the subsets of a split.

  Args:
    net: from `flaxnets.load`.
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
  evaluator = Evaluator(
    net.model, wanted, order=source.channels.order(net.channels.names), image_size=config.image_size,
    resize=config.augment.evaluation_resize,
    fill=np.asarray(net.variables['channel_stats']['stem']['standardize']['mean']), may_lack=source.may_lack,
    mesh=mesh,
  )
  variables = jax.device_put(net.variables, parallel.replicated(mesh))
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
    rows.append({'channels': label, **judgement.summary(), **counted, 'confusion': judgement.confusion.tolist()})
    arrays[f'prediction/{label}'] = judgement.predictions
    arrays[f'kernel/{label}'] = first_kernel(net.model, net.variables, subset)
  scores = {
    'model': config.model.name, 'step': net.step, 'split': split, 'recalibrated': False, 'ema': net.ema,
    'examples': len(indices), 'unreadable': len(source) - len(indices), 'classes': list(net.classes), 'subsets': rows,
  }
  return scores, arrays


def table(scores: dict[str, Any]) -> str:
  """The scores of every subset as text in columns, in per cent, accuracy with its 95 % interval."""
  header = ['channels', 'accuracy', '95 %', 'precision', 'recall', 'F1', 'top-5', 'loss', 'MACs', 'FLOPs (XLA)']
  lines = [header]
  for row in scores['subsets']:
    lines.append([
      row['channels'], f'{row["accuracy"]:.2%}', f'{row["accuracy_low"]:.1%}-{row["accuracy_high"]:.1%}',
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
  workdir: str, *, subsets: str = 'all', split: str = 'test', root: str = '', step: str = 'best', batch_size: int = 0
) -> int:
  """What eval_main.py does; returns the exit code."""
  net = load(workdir, step)
  scores, arrays = evaluate(net, subsets=subsets, split=split, root=root, batch_size=batch_size)
  if jax.process_index() == 0:
    name = pathlib.Path(split).stem + ('' if step == 'best' else f'-step{net.step}')
    name = ''.join(letter if letter.isalnum() or letter in '-_.' else '_' for letter in name)
    path = write(scores, arrays, pathlib.Path(workdir), name)
    print(f'{scores["model"]}, step {scores["step"]}, {scores["examples"]:,} examples of {split!r}'
          + (f', {scores["unreadable"]} unreadable ones left out' if scores['unreadable'] else ''))
    print(table(scores))
    print(f'written to {path}')
  return 0
