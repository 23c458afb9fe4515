"""Image classifiers that keep working when input channels are missing.

    import flaxnets
    net = flaxnets.load('runs/demo')
    net.predict(images, channels='RG')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError

if TYPE_CHECKING:
  from flaxnets.inference.network import Network, load

__all__ = ['ChannelSet', 'InputError', 'Network', 'load']


def __getattr__(name: str) -> Any:
  # A network takes JAX and Orbax, seconds of import that `--help` and the channel grammar need not pay for.
  if name in ('Network', 'load'):
    return getattr(importlib.import_module('flaxnets.inference.network'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
