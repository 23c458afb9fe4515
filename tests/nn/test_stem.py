"""A network's Stem: its accessors find what it stores, and its two kinds are one in training on all channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxnets.nn import stem
from flaxnets.nn.norms import batch_norm

STATISTICS = {
  'mean': np.asarray([120.0, 110.0, 100.0]),
  'std': np.asarray([60.0, 50.0, 70.0]),
  'correlation': np.asarray([[1, 0.9, 0.5], [0.9, 1, 0.7], [0.5, 0.7, 1]]),
}


class Network(nn.Module):
  kind: str

  @nn.compact
  def __call__(self, images):
    completion = 'linear' if self.kind == 'dynamic' else 'mean'
    norm = functools.partial(batch_norm, train=False)
    return stem.Stem(3, 8, norm, self.kind, completion, name=stem.STEM)(images)


@pytest.mark.parametrize('kind', stem.STEMS)
def test_the_statistics_and_the_bank_of_a_stem_are_found(kind):
  variables = Network(kind).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  variables = stem.put_statistics(variables, STATISTICS)
  np.testing.assert_allclose(stem.pixel_statistics(variables)['mean'], STATISTICS['mean'])
  np.testing.assert_allclose(stem.pixel_statistics(variables)['std'], STATISTICS['std'])
  assert stem.bank(variables).shape == (7, 7, 3, 8)
  if kind == 'dynamic':
    np.testing.assert_allclose(stem.correlation(variables), STATISTICS['correlation'])


def test_a_plain_stem_is_in_training_on_all_channels_what_a_dynamic_one_is():
  images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3)) * 255
  outputs = []
  for kind, completion in (('conv', 'mean'), ('dynamic', 'linear')):
    layer = stem.Stem(3, 8, functools.partial(batch_norm, train=False), kind, completion, small_images=True)
    outputs.append(layer.apply(layer.init(jax.random.key(0), images), images))
  np.testing.assert_allclose(*outputs, rtol=1e-5)
