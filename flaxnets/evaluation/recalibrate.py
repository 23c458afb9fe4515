"""Recalibration: BatchNorm statistics re-estimated for one subset on training images, weights untouched.

The statistics of training are averages over all training inputs, complete or not. On a single subset the features
differ. Re-estimation for a known target: Y. Li et al., Revisiting Batch Normalization for
Practical Domain Adaptation, 2016; from pooled batches instead of a running average: Y. Wu and J. Johnson,
Rethinking "Batch" in BatchNorm, 2021, section 3 ("PreciseBN").
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.analysis.intervals import CONFIDENCE, difference_interval
from flaxnets.analysis.text import columns
from flaxnets.augment import pipeline
from flaxnets.augment.pipeline import Batch, View
from flaxnets.channels import Subset
from flaxnets.data.source import Source
from flaxnets.errors import InputError
from flaxnets.evaluation import batch_stats, judge, recalibration_store, splits
from flaxnets.evaluation.incremental import progress
from flaxnets.inference.network import Network
from flaxnets.inference.restore import load, restore_recalibrated
from flaxnets.inference.weights import weights_digest
from flaxnets.nn.stem import pixel_statistics
from flaxnets.runtime import devices

VIEWS = ('evaluation', 'training')
IMAGES = 2048
CHUNK = 16  # subsets that are recalibrated in one pass over the images


def run(
  workdir: str | os.PathLike[str],
  *,
  subsets: str | Sequence[Subset] = 'all',
  step: int | str = 'best',
  view: str = 'evaluation',
  images: int = IMAGES,
  batch_size: int = 0,
) -> dict[str, Any]:
  """Recalibrates a trained network for some subsets, and stores the result in DIR/recalibrated.

  The folder holds the statistics of one step. It is written after every CHUNK subsets, and subsets that were
  recalibrated before with the same settings are skipped.

  Args:
    workdir: a run's folder.
    subsets: as in `flaxnets.channels.ChannelSet.subsets`, or the subsets themselves.
    step: see `flaxnets.load`.
    view: 'evaluation', or 'training' (augmented, with all the channels of the subset).
    images: how many training images; half as many others decide what is kept. A small split has fewer. The number is
      rounded down to full batches.
    batch_size: images at a time; the config's where 0.

  Returns:
    What is stored beside the statistics: 'weights' (a digest), 'settings' (the view and the numbers of images), and
    'subsets', a row for each: its 'channels', accuracy 'before' and 'after' on the held-out images (fractions), the
    'interval' of their difference, whether they are 'kept', and 'examples', how many held-out images could be read.

  Raises:
    InputError: for a network without BatchNorm, too few images, or an unknown subset or view.
  """
  net = load(workdir, step)
  check_norm(net.config.model.norm)
  source, mesh = splits.open_split(net, 'train'), devices.data_mesh()
  settings = plan(len(source), images, batch_size or net.config.evaluate.batch_size, view, mesh)
  folder = pathlib.Path(workdir)
  statistics, meta = restore_recalibrated(folder, net) or ({}, {})
  if meta.get('settings') != settings:
    statistics, meta = {}, {'weights': weights_digest(net), 'settings': settings, 'subsets': []}
  wanted = experiment.subsets(net.config, net.channels, subsets) if isinstance(subsets, str) else subsets
  labels = [net.channels.label(subset) for subset in wanted]
  done = {row['channels'] for row in meta['subsets']}
  missing = [subset for subset, label in zip(wanted, labels, strict=True) if label not in done]
  with progress(len(missing), 'recalibrating', unit='subset') as bar:
    for found, rows in recalibrate(net, source, missing, settings, mesh):
      meta['subsets'] += rows
      statistics, meta = recalibration_store.store(folder, net, statistics | found, meta)
      bar.update(len(rows))
  if jax.process_index() == 0:
    print(table(meta, labels))
  return meta


def check_norm(norm: str) -> None:
  """InputError for a norm without statistics to recalibrate."""
  if norm != 'batch':
    raise InputError(
      f"a network with model.norm={norm!r} keeps no statistics, so there is nothing to recalibrate; only 'batch' does"
    )


def plan(examples: int, images: int, batch_size: int, view: str, mesh: Mesh) -> dict[str, Any]:
  """The view and how many images: 'images' for the statistics, a whole number of 'batch_size', and 'held_out' ones."""
  if view not in VIEWS:
    raise InputError(f'no recalibration view {view!r}; there are {", ".join(VIEWS)}')
  held_out = min(math.ceil(images / 2), examples // 3)
  images = min(images, examples - held_out)
  batch_size = min(batch_size, images) // mesh.size * mesh.size
  if batch_size < 1 or held_out < 1:
    raise InputError(
      f'{images} training images to recalibrate on and {held_out} others to decide are too few for '
      f'{mesh.size} devices; at least {mesh.size} and 1 are needed'
    )
  return {
    'view': view,
    'images': images // batch_size * batch_size,
    'held_out': held_out,
    'batch_size': batch_size,
    'confidence': CONFIDENCE,
  }


def recalibrate(
  net: Network, source: Source, subsets: Sequence[Subset], settings: Mapping[str, Any], mesh: Mesh
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
  """Estimates the statistics of some subsets and evaluates them on other images of the source, CHUNK at a time.

  Args:
    net: the network. Its weights are not changed.
    source: training examples.
    subsets: which.
    settings: see `plan`.
    mesh: the devices.

  Yields:
    For each chunk the 'batch_stats' of each subset by its label, kept or not, and the rows of `run`.
  """
  batch_size = settings['batch_size']
  chosen = np.random.default_rng(net.config.seed).choice(
    len(source), settings['images'] + settings['held_out'], replace=False
  )
  seen, held_out = chosen[: settings['images']], np.sort(chosen[settings['images'] :])
  view, missing = view_of(net, source, settings['view']), source.has_missing_channels
  # Compiled once for all chunks: how many functions there are depends on the number of all subsets.
  estimate = batch_stats.Estimator(net.model, subsets, view, has_missing_channels=missing, mesh=mesh)
  evaluate = judge.evaluator_of(net, source, subsets, mesh)

  def hits(chunk: Sequence[Subset], statistics: Mapping[Subset, Any]) -> list[np.ndarray]:
    variables, own = judge.on_devices(net, chunk, statistics, mesh)
    batches = splits.read(net, source, batch_size, held_out)
    by_subset, indices = evaluate(variables, batches, batch_stats=own, subsets=chunk)
    if not len(indices):
      raise InputError(f'{source.name}: none of {settings["held_out"]} examples held out can be read')
    return [by_subset[subset].hits for subset in chunk]

  for start in range(0, len(subsets), CHUNK):
    chunk = subsets[start : start + CHUNK]
    batches = batch_stats.replace_unreadable(splits.read(net, source, batch_size, seen), source.name)
    found = estimate(net.variables, batches, chunk)
    labels = [net.channels.label(subset) for subset in chunk]
    rows = [row_of(*row) for row in zip(labels, hits(chunk, {}), hits(chunk, found), strict=True)]
    yield {label: found[subset] for label, subset in zip(labels, chunk, strict=True)}, rows


def row_of(label: str, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
  """What recalibration did to a subset, and whether its statistics are kept.

  They are kept where the gain lies outside chance: where the 95 % interval of the paired difference is above 0.

  Args:
    label: the subset's.
    before, after: (n,) bool, the same held-out images classified correctly without and with recalibration.
  """
  low, high = difference_interval(after.astype(float) - before)
  return {
    'channels': label,
    'before': float(before.mean()),
    'after': float(after.mean()),
    'interval': [low, high],
    'kept': low > 0,
    'examples': len(before),
  }


def view_of(net: Network, source: Source, view: str) -> View:
  """The network's view of the source: a function of (number, batch) to raw images (B, S, S, C) and a mask (B, C)."""
  order, config = source.channels.order(net.channels.names), net.config
  if view == 'training':
    fields = configs.to_json(config)
    fields['presence'] |= {'mode': 'none', 'fill': 'absent'}
    statistics = jax.device_get(pixel_statistics(net.variables))
    seen = experiment.training_view_of(configs.from_json(fields), order, source.canvas, statistics)

    def training(number: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
      images, present = seen(number, batch)
      return images, present[:, 0]  # without sampling there is one pass

    return training

  def evaluation(number: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    images = pipeline.evaluation_images(
      pipeline.in_order(batch['image'], order),
      batch['size'],
      image_size=config.image_size,
      resize=config.augment.evaluation_resize,
      fill=net.fill,
    )
    return images, pipeline.in_order(batch['present'], order)

  return evaluation


def table(meta: Mapping[str, Any], labels: Sequence[str]) -> str:
  """What recalibration did to some subsets, in columns: accuracies in per cent, their difference in points."""
  settings, rows = meta['settings'], {row['channels']: row for row in meta['subsets']}
  # Rows of earlier versions do not say how many of the images held out could be read.
  examples = max((rows[label].get('examples', settings['held_out']) for label in labels), default=0)
  lines = [['channels', 'before', 'after', 'difference (95 %)', 'kept']]
  for row in (rows[label] for label in labels):
    low, high = row['interval']
    lines.append(
      [
        row['channels'],
        f'{row["before"]:.2%}',
        f'{row["after"]:.2%}',
        f'{100 * (row["after"] - row["before"]):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})',
        'yes' if row['kept'] else 'no',
      ]
    )
  return (
    f'recalibrated on {settings["images"]:,} training images ({settings["view"]} view), accuracy on '
    f'{examples:,} others; kept where the interval of the difference is above 0\n{columns(lines)}\n'
  )
