"""A linear probe on frozen ImageNet features of EuroSAT, for subsets of its 13 bands and several ways to adapt.

python -m benchmarks.eurosat_bands --weights=resnet18.safetensors --data=eurosat_13band.npz --out=docs/results/eurosat
[--size=96] [--trunk=torch]

The archive holds X_*, y_* and 'bands'. All its images are used: a ridge regression on 512 features is fitted and judged
by cross-validation over five folds, four times, its strength chosen by leave-one-out within the training folds. The
network is not trained. Every way to adapt is a matrix from standardised bands to the network's R, G and B:

zero unit, zero linear: flaxnets adapt --init=zero on all 13 bands, and the completion of the subset.
nearest: flaxnets adapt --init=nearest on all 13 bands, completion unit.
distinct: flaxnets adapt --init=distinct on data that have the subset's bands only.
timm: kernels by position, times 3 / m; for one band their sum. A network for each subset, bands in the files' order
  except where RGB stands for red, green, blue.
zero-filling: absent R, G and B are zero, the mean, and other bands are not used; nothing is left without R, G and B.

--trunk=torch computes what follows the first layer's input with PyTorch, whose features are the same up to rounding.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import eurosat, measure
from benchmarks.eurosat import FOLDS, SUBSETS
from flaxnets import config as configs
from flaxnets.analysis.covariance import channel_statistics
from flaxnets.analysis.intervals import difference_interval, wilson
from flaxnets.channels import ChannelSet
from flaxnets.inference import adapt, matching
from flaxnets.inference.convert import read_network
from flaxnets.nn.completion import mixing

WAYS = ('zero unit', 'zero linear', 'nearest', 'distinct', 'timm', 'zero-filling')
REFERENCE = 'timm'  # what the others are compared with, image by image
REPEATS, BATCH = 4, 48
STRENGTHS = 10.0 ** np.arange(1, 6, 0.5)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Measures, prints a table and writes OUT/probe.json; returns what it wrote."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--weights', required=True, help='.safetensors or .pth of an ImageNet ResNet-18')
  parser.add_argument('--data', required=True, help='the .npz of EuroSAT')
  parser.add_argument('--out', required=True, help='folder for probe.json')
  parser.add_argument('--size', type=int, default=96, help='side that images are enlarged to, pixels')
  parser.add_argument('--trunk', choices=['flaxnets', 'torch'], default='flaxnets', help='who computes the features')
  options = parser.parse_args(argv)
  begun = time.time()
  images, labels, channels = eurosat.read(options.data)
  images = images.transpose(0, 2, 3, 1)
  statistics = channel_statistics(images)
  images = ((images - statistics['mean']) / statistics['std']).astype(np.float32)
  config = configs.named('pretrained')
  net, origin = read_network(options.weights, 'resnet18', config)
  extract = Features((flax_trunk if options.trunk == 'flaxnets' else torch_trunk)(options, net), images, options.size)
  rows: dict[str, dict[str, Any]] = {}
  for name, text in SUBSETS.items():
    order = channels.order(text) if text else channels.full
    hits = {}
    for way in WAYS:
      matrix = matrix_of(way, net, channels, statistics['correlation'], order)
      if matrix is not None:
        hits[way] = extract.hits(matrix, labels)
    rows[name] = {way: judged(hits[way], hits[REFERENCE]) for way in hits}
    print(name, '  '.join(f'{way} {100 * row["accuracy"]:.1f}' for way, row in rows[name].items()), flush=True)
  result = {
    'weights': origin,
    'data': {'file': Path(options.data).name, 'images': len(labels), 'bands': list(channels.names)},
    'size': options.size,
    'trunk': options.trunk,
    'folds': FOLDS,
    'repeats': REPEATS,
    'compared_with': REFERENCE,
    'subsets': rows,
    'seconds': round(time.time() - begun),
    **measure.record(),
  }
  measure.write(Path(options.out, 'probe.json'), result)
  return result


def matrix_of(
  way: str, net: Any, channels: ChannelSet, correlation: np.ndarray, order: Sequence[int]
) -> np.ndarray | None:
  """The matrix (3, C) from standardised bands to what the network sees as R, G and B; None where a way has none."""
  count, subset = len(channels), tuple(sorted(order))
  matrix = np.zeros((3, count))
  if way == 'timm':
    places = np.arange(len(order))
    matrix[:, order] = 1 if len(order) == 1 else (places % 3 == np.arange(3)[:, None]) * 3 / len(order)
    return matrix
  if way == 'distinct':
    known = ChannelSet(tuple(channels.names[index] for index in subset))
    among = correlation[np.ix_(subset, subset)]
    matrix[:, list(subset)] = adapt.bank_matrix(net, known, matching.match(net.channels, known), among, 'distinct')
    return matrix
  init, completion = {
    'nearest': ('nearest', 'unit'),
    'zero-filling': ('zero', 'none'),
  }.get(way, ('zero', way.removeprefix('zero ')))
  bank = adapt.bank_matrix(net, channels, matching.match(net.channels, channels), correlation, init)
  matrix[:, list(subset)] = bank @ np.asarray(mixing(completion, subset, correlation))
  return matrix if matrix.any() else None


class Features:
  """The network's features by matrix, each computed once."""

  def __init__(self, trunk: Callable[[np.ndarray], np.ndarray], images: np.ndarray, size: int):
    self.trunk, self.images, self.size = trunk, images, size
    self._known: dict[bytes, np.ndarray] = {}

  def hits(self, matrix: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(REPEATS, N) bool: which images the probe classifies correctly."""
    key = matrix.round(4).tobytes()
    if key not in self._known:
      seen = np.einsum('bhwc,rc->bhwr', self.images, matrix.astype(np.float32), optimize=True)
      parts = [self.trunk(seen[start : start + BATCH]) for start in range(0, len(seen), BATCH)]
      self._known[key] = cross_validated(np.concatenate(parts).astype(np.float64), labels)
    return self._known[key]


def flax_trunk(options: argparse.Namespace, net: Any) -> Callable[[np.ndarray], np.ndarray]:
  import jax
  import jax.numpy as jnp

  from flaxnets.models.classifier import outputs
  from flaxnets.nn.stem import put_statistics

  plain = {'mean': np.zeros(3), 'std': np.ones(3), 'correlation': np.eye(3)}
  variables = jax.device_put(put_statistics(net.variables, plain))

  @jax.jit
  def run(variables, images):
    shape = (len(images), options.size, options.size, 3)
    return outputs(net.model, variables, jax.image.resize(images, shape, 'bilinear'), (0, 1, 2))[1]

  def trunk(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images, [(0, BATCH - len(images))] + [(0, 0)] * 3)
    return np.asarray(run(variables, jnp.asarray(padded)))[: len(images)]

  return trunk


def torch_trunk(options: argparse.Namespace, net: Any) -> Callable[[np.ndarray], np.ndarray]:
  import torch

  from benchmarks.torch_resnet import ResNet
  from flaxnets.inference.torch_names import to_torch

  model = ResNet('resnet18')
  state = {name: torch.tensor(value) for name, value in to_torch(net.variables).items()}
  model.load_state_dict(state, strict=False)
  model.fc = torch.nn.Identity()
  model.eval().to(memory_format=torch.channels_last)

  def trunk(images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      x = torch.tensor(images.transpose(0, 3, 1, 2))
      x = torch.nn.functional.interpolate(x, (options.size,) * 2, mode='bilinear', align_corners=False)
      return model(x.contiguous(memory_format=torch.channels_last)).numpy()

  return trunk


def cross_validated(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """(REPEATS, N) bool: which images a ridge regression that was fitted without them classifies correctly."""
  hits = np.zeros((REPEATS, len(labels)), bool)
  for repeat in range(REPEATS):
    fold = eurosat.folds(labels, repeat)
    for number in range(FOLDS):
      judged_here = fold == number
      hits[repeat, judged_here] = (
        ridge(features[~judged_here], labels[~judged_here], features[judged_here]) == labels[judged_here]
      )
  return hits


def ridge(features: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
  """The classes of `others` by ridge regression on -1 and 1, its strength by the leave-one-out error in closed form."""
  mean, std = features.mean(0), features.std(0) + 1e-6
  known, asked = (features - mean) / std, (others - mean) / std
  targets = np.where(np.arange(labels.max() + 1) == labels[:, None], 1.0, -1.0)
  centre = targets.mean(0)
  values, vectors = np.linalg.eigh(known @ known.T)
  rotated, best = vectors.T @ (targets - centre), (np.inf, np.zeros_like(targets))
  for strength in STRENGTHS:
    inverse = 1 / (np.maximum(values, 0) + strength)
    dual = vectors @ (inverse[:, None] * rotated)
    error = np.square(dual / (np.square(vectors) @ inverse)[:, None]).mean()
    best = min(best, (error, dual), key=lambda pair: pair[0])
  return (asked @ (known.T @ best[1]) + centre).argmax(1)


def judged(hits: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
  """Accuracy with its interval, and the paired difference from the reference; a mean over the repeats per image."""
  share, other = hits.mean(0), reference.mean(0)
  return {
    'accuracy': round(float(share.mean()), 4),
    'interval': [round(end, 4) for end in wilson(float(share.sum()), len(share))],
    'difference': round(float((share - other).mean()), 4),
    'difference_interval': [round(end, 4) for end in difference_interval(share - other)],
  }


if __name__ == '__main__':
  main()
