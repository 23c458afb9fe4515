"""The smallest network with every part of a real one: it compiles in a second or two."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets.models.resnet import ResNet
from flaxnets.nn.blocks import BasicBlock
from flaxnets.nn.norms import NORMS
from flaxnets.nn.stem import put_statistics

MEAN = np.asarray([120.0, 110.0, 100.0], np.float32)
CORRELATION = np.asarray([[1, 0.9, 0.5], [0.9, 1, 0.7], [0.5, 0.7, 1]], np.float32)


@functools.cache
def tiny(num_classes=6, norm='batch'):
  """The network and its first variables, with the statistics above."""
  model = ResNet(
    stage_sizes=(1, 1),
    block=BasicBlock,
    expansion=1,
    num_channels=3,
    num_classes=num_classes,
    width=8,
    small_images=True,
    norm=NORMS[norm],
  )
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 12, 12, 3)))
  return model, put_statistics(variables, {'mean': MEAN, 'std': MEAN / 2, 'correlation': CORRELATION})
