"""How far a converted ResNet's logits are from PyTorch's, for three networks and three sizes of images.

python -m benchmarks.torch_parity [--out=docs/results/pretrained] [--weights=resnet18.safetensors]

Networks of full width with random weights and statistics, or ResNet-18 with the given weights besides; eight images of
noise with structure at all scales. 225 pixels is odd, so that padding on one side only would show.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import measure, photos
from benchmarks.torch_resnet import ResNet, logits
from flaxnets.data.photo_statistics import photo_statistics
from flaxnets.inference import tensor_files
from flaxnets.inference.convert import read_network
from flaxnets.inference.network import Network
from flaxnets.runtime import provenance

MODELS = ('resnet18', 'resnet34', 'resnet50')
SIZES = (96, 224, 225)
IMAGES = 8


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
  """Prints the table and writes OUT/parity.json."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', default='', help='folder for parity.json; written nowhere if left out')
  parser.add_argument('--weights', default='', help='ImageNet weights of a ResNet-18')
  args = parser.parse_args(argv)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for model in MODELS:
      network = random_network(model)
      rows += compare('random', model, network, converted(network, model, Path(folder, f'{model}.pth')))
    if args.weights:
      tensors = tensor_files.read(args.weights).tensors
      network = ResNet('resnet18')
      network.load_state_dict({name: torch.from_numpy(np.array(value)).float() for name, value in tensors.items()})
      rows += compare('ImageNet', 'resnet18', network, read_network(args.weights, 'resnet18')[0])
  if args.out:
    record = measure.record((*provenance.PACKAGES, 'torch'))
    measure.write(Path(args.out, 'parity.json'), {**record, 'images': IMAGES, 'rows': rows})
  return rows


def compare(weights: str, model: str, network: ResNet, net: Network) -> list[dict[str, Any]]:
  rows = []
  for size in SIZES:
    found = difference(network, net, size)
    rows.append({'weights': weights, 'model': model, 'size': size, 'difference': found})
    print(f'{weights:8} {model} {size} pixels: {found:.1e} of the largest logit', flush=True)
  return rows


def random_network(model: str) -> ResNet:
  """A PyTorch ResNet of 1,000 classes whose statistics are not those of a new one."""
  torch.manual_seed(0)
  network = ResNet(model)
  for layer in network.modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
      layer.running_mean.normal_(0, 0.1)
      layer.running_var.uniform_(0.5, 1.5)
      torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
      torch.nn.init.normal_(layer.bias, 0, 0.1)
  return network.eval()


def converted(network: ResNet, model: str, path: Path) -> Network:
  """The network, saved by PyTorch and read by flaxnets."""
  torch.save(network.state_dict(), path)
  return read_network(path, model)[0]


def difference(network: ResNet, net: Network, size: int) -> float:
  """The largest difference between the two networks' logits, as a share of PyTorch's largest logit."""
  images = np.stack([photos.photo(np.random.default_rng([size, number]), size, size) for number in range(IMAGES)])
  statistics = photo_statistics()
  expected = logits(network, images, statistics['mean'], statistics['std'])
  found = np.asarray(jax.jit(net.model.apply)(net.variables, images))
  return float(np.abs(found - expected).max() / np.abs(expected).max())


if __name__ == '__main__':
  main()
