"""The smallest network with every part of a real one, which compiles in a second or two, and untrained networks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.network import Network
from flaxnets.models.resnet import ResNet
from flaxnets.nn.blocks import BasicBlock
from flaxnets.nn.norms import NORMS
from flaxnets.nn.stem import put_statistics
from tests.small import small_config

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


def untrained(small=False, **changes):
  """A network of `small_config` whose logits differ between images and subsets; with `small` the model is `tiny`'s."""
  channels, classes = ChannelSet.of('RGB'), tuple('abcdef')
  model, variables = _untrained(small, tuple(sorted(changes.items())))
  metadata = Metadata(channels, classes, 'uint8', (0.0,) * 3, (255.0,) * 3)
  net = Network(small_config(**changes), metadata, variables, 7, False)
  net.model = model
  return net


def untrained_near_zero():
  """A network whose training images had means near 0 and both signs, as images of differences have."""
  net = untrained(small=True)
  statistics = {'mean': np.full(3, 1e-3, np.float32), 'std': np.ones(3, np.float32), 'correlation': np.eye(3)}
  net.variables = jax.tree.map(lambda x: np.asarray(x, np.float32), dict(put_statistics(net.variables, statistics)))
  net.metadata = dataclasses.replace(net.metadata, dtype='float32', low=(-4.0,) * 3, high=(4.0,) * 3)
  return net


@functools.cache
def _untrained(small, changes):
  """The model and the variables of `untrained`."""
  model = tiny()[0] if small else experiment.build_network(small_config(**dict(changes)), ChannelSet.of('RGB'), 6)
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
  variables = dict(put_statistics(variables, {'mean': MEAN, 'std': MEAN / 2, 'correlation': CORRELATION}))
  rng = np.random.default_rng(0)
  variables['batch_stats'] = jax.tree.map(lambda x: x + rng.uniform(0, 0.3, x.shape), variables['batch_stats'])
  return model, jax.tree.map(lambda x: np.asarray(x, np.float32), variables)
