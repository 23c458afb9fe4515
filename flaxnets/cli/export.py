"""Exports a trained network to one file and, for StableHLO and ONNX, writes its description to FILE.json.

flaxnets export runs/mine --subset=RG --format=stablehlo --out=rg.stablehlo

stablehlo: for flaxnets.load_exported or jax.export, on CPU, CUDA and TPU. A deployment file, not an archive: later
versions of jaxlib load it for six months.
onnx: for onnxruntime and others. The converter has to be installed beside flaxnets by
  pip install --no-deps jax2onnx==0.17.1 onnx-ir==1.1.0 onnx==1.23.2 onnxruntime==1.32.0 sympy==1.14.0 mpmath==1.3.0
safetensors: all weights, of every channel, under dotted names; what they are is in the file's header.
torch: a ResNet as a state dict in torchvision's naming, in a safetensors file; with --subset its first layer is the one
for that subset. Standardise the input first with the mean and std in the file's header. With model.small_images the
first layer is 3 x 3 at stride 1 without max pooling, unlike torchvision's; 'stem' in the header says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.cli import flags as cli_flags

ARGUMENTS = 'DIR'


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.string('out', None, 'the file to write')
  add.enum('format', 'stablehlo', ['stablehlo', 'onnx', 'safetensors', 'torch'], 'what to write')
  add.string('subset', '', "channels of the input in their order, 'RG' or 'B08,B02'; all if left out")
  add.integer(
    'height',
    0,
    'height of the raw images, pixels. Left out: for a run on image files its canvas, to which photos must be cropped '
    'and resized first; else the input size of the network',
    lower_bound=0,
  )
  add.integer('width', 0, 'width of the raw images, see --height', lower_bound=0)
  add.string('step', 'best', 'checkpoint to export: best, latest or a step')
  add.boolean(
    'recalibrated', False, "use the subset's own BatchNorm statistics where flaxnets eval --recalibrate kept some"
  )


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  from flaxnets.runtime import devices  # JAX takes seconds to import

  devices.start([1])
  from flaxnets.inference.export import export
  from flaxnets.inference.restore import load

  net = load(arguments[0], flags.step, recalibrated=flags.recalibrated)
  description = export(net, flags.out, flags.subset, format=flags.format, height=flags.height, width=flags.width)
  label = net.channels.label(net.channels.order(description['channels']))
  print(f'{description["model"]}, step {description["step"]}, channels {label}, written to {flags.out}')
  if 'input' in description:
    shape = ' x '.join(map(str, description['input']['shape']))
    print(
      f'input {shape} {description["input"]["dtype"]}; {description["bytes"]:,} bytes, sha256 {description["sha256"]}'
    )
    print(f'differs from the network by at most {description["difference"]:.1e} of the largest logit')
  return 0
