"""A network's Stem: its accessors find what it stores, and its two kinds are one in training on all channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxnets.nn import stem
from flaxnets.nn.norms import BatchNorm

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
    norm = functools.partial(BatchNorm, train=False)
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
    layer = stem.Stem(3, 8, functools.partial(BatchNorm, train=False), kind, completion, small_images=True)
    outputs.append(layer.apply(layer.init(jax.random.key(0), images), images))
  np.testing.assert_allclose(*outputs, rtol=1e-5)


@pytest.mark.parametrize('kind', stem.STEMS)
def test_a_mask_of_numbers_is_refused(kind):
  layer = stem.Stem(3, 8, functools.partial(BatchNorm, train=False), kind, 'linear' if kind == 'dynamic' else 'gray')
  with pytest.raises(ValueError, match='the mask of present channels must be a bool array, but it is float32'):
    layer.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), present=jnp.asarray([[0.5, 1.0, 0.0]]))


@pytest.mark.parametrize(
  ('kind', 'completion', 'said'),
  [
    ('plain', 'mean', "no stem 'plain'; there are dynamic, conv"),
    ('conv', 'linear', "no completion 'linear' for the stem 'conv'; there are mean, black, gray"),
    ('dynamic', 'mean', "no completion 'mean' for the stem 'dynamic'; there are none, scale, linear, unit"),
  ],
)
def test_an_unknown_stem_or_completion_is_refused_with_those_that_there_are(kind, completion, said):
  layer = stem.Stem(3, 8, functools.partial(BatchNorm, train=False), kind, completion)
  with pytest.raises(ValueError, match=said):
    jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize(
  ('name', 'value', 'said'),
  [
    ('mean', [120, np.nan, 100], "'mean' holds NaN or infinity"),
    ('std', [60, np.inf, 70], "'std' holds NaN or infinity"),
    ('correlation', np.full((3, 3), np.inf), "'correlation' holds NaN or infinity"),
    ('correlation', np.diag([3600.0, 2500.0, 4900.0]), r"'correlation' has the diagonal \[3600.0, 2500.0, 4900.0\]"),
  ],
)
def test_statistics_that_no_images_have_are_refused_by_name(name, value, said):
  variables = Network('dynamic').init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  with pytest.raises(ValueError, match=f"the statistics' {said}"):
    stem.put_statistics(variables, STATISTICS | {name: value})


def test_statistics_are_stored_inside_of_jit():
  variables = Network('dynamic').init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  stored = jax.jit(stem.put_statistics)(variables, STATISTICS)
  np.testing.assert_allclose(stem.pixel_statistics(stored)['mean'], STATISTICS['mean'])


def test_pixels_in_float64_are_standardised_in_float64():
  pixels = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3))
  with jax.enable_x64(True):
    layer = stem.Standardize(3)
    variables = stem.put_statistics(layer.init(jax.random.key(0), pixels), STATISTICS)
    standardised = layer.apply(variables, pixels)
    assert standardised.dtype == jnp.float64
    assert layer.apply(variables, pixels.astype(np.float32)).dtype == jnp.float32
  np.testing.assert_allclose(standardised, (pixels - STATISTICS['mean']) / STATISTICS['std'], rtol=1e-14, atol=1e-14)
