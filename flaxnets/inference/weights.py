"""A network's weights: the digest that identifies them, and those of a new head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flaxnets.nn.blocks import Head
from flaxnets.runtime.checkpoint import digests
from flaxnets.runtime.digests import text_digest

if TYPE_CHECKING:
  from flaxnets.inference.network import Network


def weights_digest(net: Network) -> str:
  """A digest that identifies a network's weights."""
  return text_digest(digests(net.variables['params']))


def new_head(features: int, classes: int, seed: int) -> dict[str, Any]:
  """The parameters of a head as a new network has them, arrays (features, classes) and (classes,) under 'dense'."""
  pooled = np.zeros((1, 1, 1, features), np.float32)
  return jax.device_get(Head(classes).init(jax.random.key(seed), pooled)['params'])
