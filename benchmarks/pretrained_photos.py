"""Accuracy of a pretrained ResNet on every subset of R, G and B, by what makes up for absent channels. No training.

python -m benchmarks.pretrained_photos --weights=resnet18.safetensors --root=IMAGENETTE --out=docs/results/pretrained

IMAGENETTE is a folder in ImageNet-mini's layout (test.txt, train.txt, classes.txt, images/) whose images are 224 x 224
pixels, of the ImageNet classes in --keep. A prediction is the likeliest of these classes. Every rule is a first layer
for the channels that are present, so that each runs as an ordinary network of one, two or three channels:

none, scale, linear, unit: the completions of flaxnets, with the correlation that flaxnets convert stores.
gray: absent channels are the mean of the present ones, standardised.
pixels: absent channels are the mean of the present ones' raw pixels, as in a gray photo. (The input is filled.)
timm: timm's rule for pretrained weights. One channel: the kernels of R, G and B are added. Two: the present channels
  take the kernels of the first two channels, whatever they are, times 3/2.

With recalibration, BatchNorm statistics are re-estimated for a rule and subset on --recalibrate training images.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from flaxnets import config as configs
from flaxnets import experiment, models
from flaxnets.analysis.intervals import difference_interval, wilson
from flaxnets.channels import Subset
from flaxnets.data.batches import evaluation_batches
from flaxnets.evaluation.batch_stats import pool
from flaxnets.inference.convert import read_network
from flaxnets.inference.network import Network
from flaxnets.nn.completion import mixing
from flaxnets.nn.stem import bank, correlation, pixel_statistics
from flaxnets.runtime import devices

IMAGENETTE = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
RULES = ('unit', 'linear', 'none', 'scale', 'gray', 'pixels', 'timm')
PRESENT = 'all present'
REFERENCE = 'unit'  # what the others are compared with, image by image
SIDE, BATCH = 224, 50


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Judges every rule on every subset, then the chosen ones again recalibrated, and writes OUT/photos.json."""
  args = _parser().parse_args(argv)
  devices.start([1])
  config = configs.named('pretrained')
  config.data.root, config.data.canvas, config.data.classes = args.root, SIDE, 'classes.txt'
  config.augment.evaluation_resize = 1.0
  net, origin = read_network(args.weights, args.model, config, keep=args.keep)
  training = read(config, 'train', args.recalibrate)[0] if args.recalibrate else None
  judge = Judge(net, *read(config, 'test'), training)
  pairs = [(rule, subset) for subset in net.channels.subsets('all') for rule in rules_of(subset)]
  rows = [{'rule': rule, 'channels': net.channels.label(subset)} for rule, subset in pairs]
  result: dict[str, Any] = {
    'weights': origin,
    'images': len(judge.labels),
    'recalibration_images': args.recalibrate,
    'correlation': np.asarray(correlation(net.variables)).tolist(),
    **measure.record(),
    'labels': digits(judge.labels),
  }
  path = Path(args.out, 'photos.json')
  known = earlier(path, result)
  for kind in ('plain', 'recalibrated') if args.recalibrate else ('plain',):
    for row, (rule, subset) in zip(rows, pairs, strict=True):
      if kind == 'plain' or rule in (*args.recalibrate_rules, PRESENT):
        row[kind] = known.get((kind, rule, row['channels']))
        if row[kind] is None:
          row[kind] = judge.predictions(rule, subset, recalibrated=kind == 'recalibrated')
        print(f'{kind} {rule} {row["channels"]} {np.mean(row[kind] == judge.labels):.2%}', flush=True)
        result['rows'] = [summary(row, rows, judge.labels) for row in rows if 'plain' in row]
        measure.write(path, result)
  print(table(result))
  return result


def earlier(path: Path, result: dict[str, Any]) -> dict[tuple[str, str, str], np.ndarray]:
  """The predictions in a file of the same weights, images and correlation, by kind, rule and channels."""
  if not path.exists():
    return {}
  found = json.loads(path.read_text())
  if any(found[name] != result[name] for name in ('weights', 'labels', 'correlation', 'recalibration_images')):
    return {}
  return {
    (kind, row['rule'], row['channels']): np.asarray([int(digit) for digit in row[kind]['predictions']])
    for row in found['rows']
    for kind in ('plain', 'recalibrated')
    if kind in row
  }


def rules_of(subset: Subset) -> tuple[str, ...]:
  """The rules for a subset; where all three channels are present there is nothing to make up for."""
  return RULES if len(subset) < 3 else (PRESENT,)


def read(config: Any, split: str, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Images (n, 224, 224, 3) uint8 and labels of a split, or of `count` of its examples, evenly spaced."""
  source = experiment.open_source(config, split)
  chosen = np.unique(np.linspace(0, len(source) - 1, count).round().astype(int)) if count else np.arange(len(source))
  batches = evaluation_batches(source, batch_size=BATCH, examples=chosen)
  found = [(batch['image'][batch['mask']], batch['label'][batch['mask']]) for batch in batches]
  images, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
  assert images.shape[1:] == (SIDE, SIDE, 3)
  return images, labels


def kernel(rule: str, subset: Subset, kernels: np.ndarray, correlated: np.ndarray) -> np.ndarray:
  """The first layer (h, w, m, features) that a rule makes of the kernels of R, G and B for a subset of m channels."""
  count = len(subset)
  if count == 3:
    return kernels
  if rule == 'timm':
    return kernels.sum(axis=2, keepdims=True) if count == 1 else kernels[:, :, :count] * (3 / count)
  if rule == 'gray':
    mix = np.full((3, count), 1 / count)
    mix[list(subset)] = np.eye(count)
  else:
    mix = np.asarray(mixing(rule, subset, jnp.asarray(correlated)))
  return np.einsum('hwcf,cs->hwsf', kernels, mix).astype(np.float32)


class Judge:
  """Runs a network with another first layer; rules that give the same first layer are run once."""

  def __init__(self, net: Network, images: np.ndarray, labels: np.ndarray, training: np.ndarray | None):
    self.net, self.images, self.labels, self.training = net, images, labels, training
    self._done: dict[Any, np.ndarray] = {}

  def predictions(self, rule: str, subset: Subset, *, recalibrated: bool) -> np.ndarray:
    """The predictions (n,), without or with recalibration."""
    if rule == 'pixels':
      assert not recalibrated, 'not for a filled input'
      return self._of_filled(subset)
    variables = self.net.variables
    made = kernel(rule, subset, np.asarray(bank(variables)), np.asarray(correlation(variables)))
    key = (subset, recalibrated, np.round(made, 5).tobytes())
    if key not in self._done:
      changed = self._variables(made, subset)
      if recalibrated:
        changed['batch_stats'] = self._estimate(changed, subset)
      self._done[key] = self._predict(changed, subset)
    return self._done[key]

  def _of_filled(self, subset: Subset) -> np.ndarray:
    filled = self.images.astype(np.float32)
    absent = [channel for channel in range(3) if channel not in subset]
    filled[..., absent] = filled[..., list(subset)].mean(axis=-1, keepdims=True)
    full = self.net.channels.full
    return self._predict(self._variables(np.asarray(bank(self.net.variables)), full), full, filled)

  def _variables(self, made: np.ndarray, subset: Subset) -> dict[str, Any]:
    params = {**self.net.variables['params']}
    params['stem'] = {**params['stem'], 'conv': {'kernel': made}}
    pixels = {name: np.asarray(value)[list(subset)] for name, value in pixel_statistics(self.net.variables).items()}
    return jax.device_put({
      'params': params,
      'batch_stats': self.net.variables['batch_stats'],
      'channel_stats': {'stem': {'standardize': pixels}},
    })  # fmt: skip

  def _predict(self, variables: Any, subset: Subset, images: np.ndarray | None = None) -> np.ndarray:
    predict = _functions(self.net.config.model.name, len(subset), len(self.net.classes))[0]
    images = self.images[..., list(subset)] if images is None else images
    parts = np.array_split(images, max(len(images) // BATCH, 1))
    return np.concatenate([np.asarray(predict(variables, part)) for part in parts])

  def _estimate(self, variables: Any, subset: Subset) -> Any:
    statistics_of = _functions(self.net.config.model.name, len(subset), len(self.net.classes))[1]
    pooled = jax.tree.map(jnp.zeros_like, variables['batch_stats'])
    assert self.training is not None
    images = self.training[..., list(subset)]
    for number, start in enumerate(range(0, len(images) // BATCH * BATCH, BATCH)):
      found = statistics_of(variables, images[start : start + BATCH])
      pooled = pool(pooled, found, 1 / (number + 1))
    return pooled


@functools.cache
def _functions(model: str, channels: int, classes: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Predictions, and the BatchNorm statistics of one batch, of an ordinary network of so many channels."""
  network = models.build(model, num_channels=channels, num_classes=classes, stem='conv', completion='mean')
  forgetful = network.clone(norm=functools.partial(network.norm, momentum=0.0))

  @jax.jit
  def predict(variables, images):
    return network.apply(variables, images).argmax(axis=-1)

  @jax.jit
  def statistics(variables, images):
    return forgetful.apply(variables, images, train=True, mutable=['batch_stats'])[1]['batch_stats']

  return predict, statistics


def summary(row: dict[str, Any], rows: Sequence[dict[str, Any]], labels: np.ndarray) -> dict[str, Any]:
  """Accuracies with their intervals, and differences in hits from the reference rule, from the network as it was."""
  same = [other for other in rows if other['channels'] == row['channels'] and other['rule'] == REFERENCE]
  reference = same[0] if same and set(row) <= set(same[0]) else row
  result: dict[str, Any] = {'rule': row['rule'], 'channels': row['channels']}
  for name in [name for name in ('plain', 'recalibrated') if name in row]:
    hits = row[name] == labels
    differences = hits.astype(float) - (reference[name] == labels)
    result[name] = {
      'accuracy': float(hits.mean()),
      'interval': wilson(hits.sum(), len(hits)),
      'difference': float(differences.mean()),
      'difference_interval': difference_interval(differences),
      'predictions': digits(row[name]),
    }
  if 'recalibrated' in row:
    gain = (row['recalibrated'] == labels).astype(float) - (row['plain'] == labels)
    result |= {'recalibration_gain': float(gain.mean()), 'gain_interval': difference_interval(gain)}
  return result


def digits(classes: np.ndarray) -> str:
  """Labels of up to ten classes, one digit each."""
  return ''.join(map(str, classes.tolist()))


def table(result: dict[str, Any]) -> str:
  """The accuracies in per cent, and differences from the reference in points with 95 % intervals, in Markdown."""
  labels = list(dict.fromkeys(row['channels'] for row in result['rows']))
  cells = {(row['rule'], row['channels']): row for row in result['rows']}
  lines = []
  for kind in ('plain', 'recalibrated'):
    lines += ['', kind, '', '| absent channels | ' + ' | '.join(labels) + ' |', '|---' * (len(labels) + 1) + '|']
    for rule in RULES:
      texts = []
      for label in labels:
        found = cells.get((rule, label), cells.get((PRESENT, label))).get(kind)
        if found is None:
          texts.append('')
          continue
        low, high = (100 * end for end in found['difference_interval'])
        text = f'{100 * found["accuracy"]:.1f}'
        same = rule == REFERENCE or (PRESENT, label) in cells
        texts.append(text if same else f'{text} ({low:+.1f} to {high:+.1f})')
      lines.append(f'| {rule} | ' + ' | '.join(texts) + ' |')
  return '\n'.join(lines)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--weights', required=True, help='.safetensors or .pth of an ImageNet ResNet')
  parser.add_argument('--model', default='resnet18', help='architecture of the weights')
  parser.add_argument('--root', required=True, help='folder with test.txt, train.txt, classes.txt and images')
  parser.add_argument(
    '--keep',
    type=lambda text: tuple(map(int, text.split(','))),
    default=IMAGENETTE,
    help='numbers of the ImageNet classes that the images are of',
  )
  parser.add_argument('--recalibrate', type=int, default=0, help='training images for the statistics; 0 for none')
  parser.add_argument(
    '--recalibrate_rules',
    type=lambda text: text.split(','),
    default=['unit', 'linear', 'none'],
    help='rules that are also judged with statistics of their own',
  )
  parser.add_argument('--out', default='docs/results/pretrained', help='folder for photos.json')
  return parser


if __name__ == '__main__':
  main()
