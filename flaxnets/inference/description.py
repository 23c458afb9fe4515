"""What an exported file is, in JSON: input, output, preprocessing in words and numbers, and where it comes from."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flaxnets.inference.weights import weights_digest
from flaxnets.runtime import provenance

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

PLATFORMS = ('cpu', 'cuda', 'tpu')
ONNX_OPSET = 21  # read by onnxruntime 1.20 and later

_COMPATIBILITY = (
  'A deployment file, not an archive: jax.export promises that it loads with jaxlib up to six months newer, and up to '
  'three weeks older, than the one that wrote it. Keep the run, or a safetensors export of it.'
)


def describe(net: Network, order: tuple[int, ...], size: tuple[int, int], format: str) -> dict[str, Any]:
  """What FILE.json says, but for the digest of the file."""
  names = [net.channels.names[index] for index in order]
  statistics = net.variables['channel_stats']['stem']['standardize']
  mean, std, low, high = (
    [float(values[index]) for index in order]
    for values in (statistics['mean'], statistics['std'], net.metadata.low, net.metadata.high)
  )
  side, resize = net.config.image_size, net.config.augment.evaluation_resize
  part = 'square' if size[0] == size[1] else f'part of {size[0]} : {size[1]}'
  before = f'before: a photo is cut to its central {part} and resized to {size[0]} x {size[1]} pixels'
  description = {
    'format': f'flaxnets-{format}',
    'format_version': 1,
    **origin(net, [order]),
    'channels': names,
    'classes': list(net.classes),
    'input': {
      'name': 'images',
      'shape': ['b', *size, len(order)],
      'dtype': net.metadata.dtype,
      'low': low,
      'high': high,
    },
    'output': {'name': 'logits', 'shape': ['b', len(net.classes)], 'dtype': 'float32'},
    'preprocessing': {
      'in_graph': True,
      'steps': [
        *([before] if size == net.canvas else []),
        f'give raw pixels, height x width x channels ({", ".join(names)}), as decoded: not scaled, not standardised',
        f'the shorter side is resized to {round(side * resize)} pixels, antialiased, and the central {side} x {side} '
        'pixels are taken',
        '(pixel - mean) / std for each channel',
      ],
      'image_size': side,
      'resize': resize,
      'mean': mean,
      'std': std,
    },
  }
  if net.canvas and size != net.canvas:
    description['preprocessing']['note'] = (
      f'the run sees image files through an eight-bit canvas of {net.canvas[0]} x {net.canvas[1]} pixels; this '
      'file resizes once, so that logits differ a little'
    )
  if format == 'stablehlo':
    description |= {'platforms': list(PLATFORMS), 'compatibility': _COMPATIBILITY}
  return description | ({'opset': ONNX_OPSET} if format == 'onnx' else {})


def origin(net: Network, subsets: Sequence[Sequence[int]]) -> dict[str, Any]:
  """Where a file's numbers come from; 'recalibrated' lists those of its subsets that have their own statistics.

  Args:
    net: the network.
    subsets: indices of the channels that the file is for.
  """
  members = [tuple(sorted(subset)) for subset in subsets]
  recalibrated = [net.channels.label(subset) for subset in members if subset in net.recalibrated]
  return {
    'model': net.config.model.name,
    'step': net.step,
    'ema': net.ema,
    'completion': net.config.model.completion,
    'recalibrated': recalibrated,
    'weights': weights_digest(net),
    'versions': provenance.versions(),
    'commit': provenance.commit(),
    'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
  }
