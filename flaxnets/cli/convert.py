"""Makes a run's folder from a pretrained PyTorch ResNet, for all subsets of R, G and B. PyTorch is not needed.

flaxnets convert resnet18.safetensors --model=resnet18 --out=runs/resnet18 [--classes=classes.txt]

WEIGHTS is a .safetensors or .pth file in torchvision's or timm's naming, of float16, bfloat16 or float32. Nothing in it
is executed, and every tensor is accounted for. --config=pretrained is 224 pixels and ImageNet's preprocessing;
--config.FIELD changes what is stored, such as --config.data.root for flaxnets eval.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.analysis.text import counted
from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError

ARGUMENTS = 'WEIGHTS'


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  cli_flags.define_config(flags, 'pretrained')
  add.enum('model', None, ['resnet18', 'resnet34', 'resnet50'], 'architecture of the file')
  add.string('out', None, 'the run folder to write')
  add.string('classes', '', 'file of class names, one per line, in the order of the logits')
  add.integer('num_classes', 0, 'replace the head with a new one for this many classes; 0 to keep it', lower_bound=0)
  add.list('keep', [], 'numbers of the classes to keep, in their new order; all if left out')
  add.string('channels', 'RGB', "R, G and B in the order of the file's first layer")
  add.list('mean', [], "mean of each channel, for pixels in 0..1; ImageNet's if left out: 0.485,0.456,0.406 for RGB")
  add.list('std', [], "deviation of each channel; ImageNet's if left out: 0.229,0.224,0.225 for RGB")


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  from flaxnets.data.classes import class_file
  from flaxnets.inference import run_folder  # JAX takes seconds to import
  from flaxnets.inference.convert import read_network
  from flaxnets.runtime import devices, provenance

  run_folder.check_free(flags.out)
  devices.start([1])
  net, origin = read_network(
    arguments[0],
    flags.model,
    flags.config,
    channels=flags.channels,
    mean=_numbers('mean', flags.mean, float),
    std=_numbers('std', flags.std, float),
    classes=class_file(pathlib.Path(flags.classes)) if flags.classes else (),
    num_classes=flags.num_classes,
    keep=_numbers('keep', flags.keep, int),
  )
  run_folder.write(net, flags.out, {**origin, 'commit': provenance.commit(), 'versions': provenance.versions()})
  tensors = f'{counted(origin["tensors"], "tensor")} of {origin["dtype"]}'
  print(f'{origin["model"]} from {origin["file"]}: {tensors}, each accounted for; head {origin["head"]}')
  print(
    f'{counted(len(net.channels), "channel")} {net.channels.label(net.channels.full)}, '
    f'completion {net.config.model.completion}, {net.config.image_size} pixels, {len(net.classes):,} classes'
  )
  print(f'written to {flags.out}')
  print(f'next: flaxnets predict {flags.out} photo.jpg, or train with --config.train.init_from={flags.out}')
  return 0


def _numbers(flag: str, texts: Sequence[str], kind: type) -> list:
  try:
    return [kind(text) for text in texts]
  except ValueError:
    raise InputError(f'--{flag}={",".join(texts)} must be numbers with commas between them') from None
