"""A trained ResNet as a state dict for PyTorch, in torchvision's naming.

The state dict is the network from standardised channels on. On a subset its first layer has the kernels that the
completion gives for that subset, so that PyTorch runs it as an ordinary ResNet of so many channels. With
model.small_images it is not torchvision's: the first layer is 3 x 3 at stride 1, and no max pooling follows. The
description says which form it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flaxnets import config as configs
from flaxnets.channels import ChannelSet, Subset
from flaxnets.errors import InputError
from flaxnets.inference import torch_names
from flaxnets.nn import stem as stems

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

FORMAT = 'flaxnets-torch'


def state_dict(net: Network, subset: str = '') -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The tensors by their names in torchvision, float32, and what belongs to them.

  Args:
    net: the network, a ResNet with BatchNorm.
    subset: the channels of the input in their order; '' for all of them.

  Returns:
    The tensors, and a description: 'format', 'channels', 'classes', 'metadata', 'config', 'stem' ('kernel_size',
    'stride' and 'padding' of the first layer, and whether 'max_pool' follows), and 'statistics' ('mean' and 'std' of
    raw pixels, 'correlation' if the network has one). `flaxnets convert` restores the network from them, on all
    channels to the bit.

  Raises:
    InputError: for another network, channels that there are not, or some of the channels of one whose absent ones are
      black, which no kernel of the others can do.
  """
  model = net.config.model
  if model.name not in torch_names.RESNETS or model.norm != 'batch':
    raise InputError(
      f"format='torch' (--format=torch) is for {', '.join(torch_names.RESNETS)} with model.norm=batch, as torchvision "
      f'has them; this is {model.name} with model.norm={model.norm}'
    )
  order = net.channels.full if subset in ('', 'full') else net.channels.order(subset)
  members = tuple(sorted(order))
  if len(members) < len(net.channels) and model.stem == 'conv' and model.completion == 'black':
    names = [net.channels.names[index] for index in members]
    raise InputError(
      f"format='torch' (--format=torch) holds one kernel, and none of {', '.join(names)} alone does what "
      'model.completion=black does; export all channels, or as stablehlo'
    )
  tensors = torch_names.to_torch(net.variables_of(members))
  if order != net.channels.full:
    kernel = net.model.first_kernel(net.variables, members)[:, :, np.argsort(np.argsort(order))]
    tensors[torch_names.FIRST] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
  metadata = net.metadata.to_json()
  metadata['channels'] = _chosen(net.channels, order)
  metadata |= {name: [float(metadata[name][index]) for index in order] for name in ('low', 'high')}
  return tensors, {
    'format': FORMAT,
    'format_version': 1,
    'channels': [net.channels.names[index] for index in order],
    'classes': list(net.classes),
    'stem': _stem(net),
    'statistics': _statistics(net, order),
    'metadata': metadata,
    'config': configs.to_json(net.config),
  }


def _stem(net: Network) -> dict[str, Any]:
  size, small = len(stems.bank(net.variables)), net.config.model.small_images
  return {'kernel_size': size, 'stride': 1 if small else 2, 'padding': (size - 1) // 2, 'max_pool': not small}


def _chosen(channels: ChannelSet, order: Subset) -> dict[str, Any]:
  chosen = {'names': [channels.names[index] for index in order]}
  return chosen | {'wavelengths': [channels.wavelengths[index] for index in order] if channels.wavelengths else []}


def _statistics(net: Network, order: Subset) -> dict[str, Any]:
  places, pixels = list(order), stems.pixel_statistics(net.variables)
  statistics = {name: np.asarray(pixels[name], np.float64)[places].tolist() for name in ('mean', 'std')}
  if net.config.model.stem == 'dynamic':
    correlation = np.asarray(stems.correlation(net.variables), np.float64)
    statistics['correlation'] = correlation[np.ix_(places, places)].tolist()
  return statistics
