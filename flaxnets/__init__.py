"""Image classifiers that keep working when input channels are missing.

The layer, in a Flax Linen network of your own:

    layer = flaxnets.DynamicConv(64, (7, 7), num_channels=13, strides=2)

A trained network:

    net = flaxnets.load('runs/demo')
    net.predict(images, channels='RG')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from flaxnets import models as models
  from flaxnets import nn as nn
  from flaxnets.analysis.covariance import channel_statistics
  from flaxnets.channels import ChannelSet
  from flaxnets.errors import InputError
  from flaxnets.evaluation.arrays import evaluate
  from flaxnets.inference.exported import load_exported
  from flaxnets.inference.network import Network
  from flaxnets.inference.restore import load
  from flaxnets.nn.dynamic_conv import DynamicConv
  from flaxnets.nn.stem import Standardize, put_statistics

__version__: str

# Each public name with the module that defines it, imported when the name is first used: JAX takes seconds to import,
# and `--help` or the grammar of channel subsets do not need it.
_NAMES = {
  'DynamicConv': 'flaxnets.nn.dynamic_conv',
  'Standardize': 'flaxnets.nn.stem',
  'channel_statistics': 'flaxnets.analysis.covariance',
  'put_statistics': 'flaxnets.nn.stem',
  'ChannelSet': 'flaxnets.channels',
  'InputError': 'flaxnets.errors',
  'load': 'flaxnets.inference.restore',
  'evaluate': 'flaxnets.evaluation.arrays',
  'load_exported': 'flaxnets.inference.exported',
  'Network': 'flaxnets.inference.network',
}

# Packages that are imported on first use, for flaxnets.nn.mixing(...) and flaxnets.models.build(...).
_PACKAGES = {'models': 'flaxnets.models', 'nn': 'flaxnets.nn'}

__all__ = [  # noqa: RUF022  in the order of the documentation
  'DynamicConv',
  'Standardize',
  'channel_statistics',
  'put_statistics',
  'ChannelSet',
  'InputError',
  'load',
  'evaluate',
  'load_exported',
  'Network',
  '__version__',
]


def __getattr__(name: str) -> Any:
  if name in _PACKAGES:
    return importlib.import_module(_PACKAGES[name])
  if name in _NAMES:
    return getattr(importlib.import_module(_NAMES[name]), name)
  if name == '__version__':
    from importlib.metadata import version

    return version('flaxnets')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *_PACKAGES, *__all__} - {'_NAMES', '_PACKAGES', 'Any', 'TYPE_CHECKING', 'importlib'})
