"""Folders of runs with results that are made up: as large, as odd and as incomplete as a test wants them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxnets import config as configs
from flaxnets.analysis import metrics
from flaxnets.channels import ChannelSet

CALIBRATED = [
  {'count': 10, 'confidence': (place + 0.5) / 15, 'accuracy': place / 14} if place % 3 else
  {'count': 0, 'confidence': None, 'accuracy': None}
  for place in range(15)
]  # fmt: skip


def make_run(
  folder: pathlib.Path,
  *,
  names: Sequence[str] = ('R', 'G', 'B'),
  classes: Sequence[str] = ('cat', 'dog', 'owl'),
  examples: int = 60,
  subsets: str = 'all',
  seed: int = 0,
  steps: int = 40,
  config: dict[str, Any] | None = None,
  **scores: Any,
) -> dict[str, np.ndarray]:
  """Writes config.json, metrics.jsonl and eval/test.json with its .npz; returns the arrays of the .npz.

  Args:
    folder: made where it is missing.
    names: the channels.
    classes: names of the classes.
    examples: how many were judged; their labels take turns.
    subsets: those that were judged.
    seed: of the predictions, which are right more often with more channels.
    steps: lines of metrics.jsonl.
    config: dotted fields and their values.
    scores: further keys of the result file.
  """
  begin_run(folder, steps=steps, config=config)
  random, channels = np.random.default_rng(seed), ChannelSet(tuple(names))
  label = np.arange(examples, dtype=np.int32) % len(classes)
  arrays = {'id': np.array([str(place) for place in range(examples)]), 'label': label}
  rows = []
  for subset in channels.subsets(subsets):
    name = channels.label(subset)
    wrong = random.random(examples) > 0.2 + 0.7 * len(subset) / len(channels)
    predicted = np.where(wrong, random.integers(len(classes), size=examples), label).astype(np.int32)
    arrays[f'prediction/{name}'] = predicted
    arrays[f'kernel/{name}'] = random.normal(size=(3, 3, len(subset), 8)).astype(np.float32)
    rows.append(_row(name, len(subset), label, predicted, len(classes)))
  (folder / 'eval').mkdir(exist_ok=True)
  np.savez_compressed(folder / 'eval' / 'test.npz', **arrays)
  result = {
    'model': 'resnet18', 'step': 100, 'split': 'test', 'recalibrated': False, 'ema': False, 'seed': seed,
    'examples': examples, 'unreadable': 0, 'commit': 'c' * 40, 'versions': {'jax': '0.10.2'},
    'date': '2026-01-02T03:04:05+00:00', 'classes': list(classes), 'channels': list(names), 'subsets': rows,
    'device': '2 x cpu', **scores,
  }  # fmt: skip
  (folder / 'eval' / 'test.json').write_text(json.dumps(result))
  return arrays


def begin_run(folder: pathlib.Path, *, steps: int = 40, config: dict[str, Any] | None = None) -> None:
  """A run that is not evaluated: config.json and metrics.jsonl."""
  folder.mkdir(parents=True, exist_ok=True)
  fields = configs.named('demo')
  fields.data.test = 'test[:60]'
  fields.update_from_flattened_dict(config or {})
  (folder / 'config.json').write_text(json.dumps(configs.to_json(fields)))
  lines = []
  for step in range(1, steps + 1):
    lines.append({'step': step, 'split': 'train', 'loss': 3 / step, 'accuracy': step / steps, 'images_per_second': 64})
    if step % 10 == 0:
      lines.append({'step': step, 'split': 'validation', 'loss': 4 / step, 'accuracy': 0.5, 'accuracy/RGB': 0.6,
                    'accuracy/R': 0.4})  # fmt: skip
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))


def _row(name: str, size: int, label: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, Any]:
  confusion = np.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes)
  if classes <= 100:
    scores = metrics.summary(confusion, bootstrap=20)
  else:  # a thousand classes need no bootstrap here
    accuracy = float((label == predicted).mean())
    scores = dict.fromkeys(('accuracy', 'precision', 'recall', 'f1', 'accuracy_low', 'accuracy_high'), accuracy)
  row = {
    'channels': name, 'recalibrated': False, **scores, 'top5': None, 'loss': 1.5, 'params': 700_000,
    'macs': 2_000_000 + 100_000 * size, 'mixing_macs': 2_000, 'flops': 3_000_000, 'ece': 0.1,
    'calibration': CALIBRATED,
  }  # fmt: skip
  if classes <= 100:
    row['confusion'] = confusion.tolist()
  return row
