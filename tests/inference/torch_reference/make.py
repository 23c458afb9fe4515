"""Small networks from a seed, and what PyTorch says of them: logits.json, archive.pth and stream.pth beside this file.

python -m tests.inference.torch_reference.make        needs PyTorch; the tests only read what it wrote

The tensors come from NumPy's RandomState, whose stream of numbers is frozen, so that only logits are stored.
"""

from __future__ import annotations

import functools
import json
import pathlib

import numpy as np
from flax import traverse_util

from flaxnets import models
from flaxnets.inference import torch_names
from flaxnets.models import cost

FOLDER = pathlib.Path(__file__).parent
WIDTH, CLASSES = 8, 5
CASES = [('resnet18', 96), ('resnet18', 224), ('resnet18', 225), ('resnet34', 225), ('resnet50', 225)]


def tensors(
  model: str, width: int = WIDTH, classes: int = CLASSES, channels: int = 3, **options
) -> dict[str, np.ndarray]:
  """A state dict in torchvision's naming, float32, with activations of a sensible size."""
  by_name = _shapes(model, num_channels=channels, num_classes=classes, width=width, **options)
  random = np.random.RandomState(0)
  made = {}
  for name in sorted(by_name):
    shape, kind = by_name[name], name.rpartition('.')[2]
    if len(shape) == 4:
      value = random.standard_normal((shape[3], shape[2], *shape[:2])) * np.sqrt(2 / (shape[3] * shape[0] * shape[1]))
    elif len(shape) == 2:
      value = random.standard_normal(shape[::-1]) * np.sqrt(1 / shape[0])
    elif kind == 'running_var' or kind == 'weight':
      value = random.uniform(0.5, 1.5, shape)
    else:
      value = 0.1 * random.standard_normal(shape)
    made[name] = value.astype(np.float32)
  return made


@functools.cache
def _shapes(model: str, **options) -> dict[str, tuple[int, ...]]:
  """The shapes of a network's kernels and vectors in flaxnets, by their names in torchvision."""
  shapes = cost.initial_shapes(models.build(model, **options), 64)
  flat = traverse_util.flatten_dict({name: shapes[name] for name in ('params', 'batch_stats')})
  return {torch_names.torch_name(path): leaf.shape for path, leaf in flat.items()}


def images(size: int) -> np.ndarray:
  """(2, size, size, 3) uint8."""
  return np.random.RandomState(size).randint(0, 256, (2, size, size, 3)).astype(np.uint8)


def odd_tensors():
  """A state dict with what weight files hold besides plain tensors: other types, views and counters."""
  import torch

  base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
  return {
    'plain': base,
    'transposed': base.t(),
    'slice': base[1:, ::2],
    'half': base.half(),
    'bfloat': base.bfloat16(),
    'scalar': torch.tensor(7),
    'empty': torch.zeros(0, 3),
    'parameter': torch.nn.Parameter(base[0].clone()),
  }


def main() -> None:
  import torch

  from benchmarks.torch_resnet import ResNet, logits
  from flaxnets.data.photo_statistics import photo_statistics

  statistics, found = photo_statistics(), {}
  for model, size in CASES:
    network = ResNet(model, classes=CLASSES, width=WIDTH)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors(model).items()})
    found[f'{model}-{size}'] = logits(network, images(size), statistics['mean'], statistics['std']).tolist()
  (FOLDER / 'logits.json').write_text(json.dumps({'torch': torch.__version__, 'logits': found}, indent=1) + '\n')
  checkpoint = {'epoch': 3, 'arch': 'odd', 'state_dict': odd_tensors(), 'best': torch.tensor(0.5)}
  torch.save(checkpoint, FOLDER / 'archive.pth')
  torch.save(checkpoint, FOLDER / 'stream.pth', _use_new_zipfile_serialization=False)


if __name__ == '__main__':
  main()
