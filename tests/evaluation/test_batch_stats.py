"""BatchNorm statistics that are estimated anew, for each subset, on images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.evaluation import batch_stats, evaluator
from flaxnets.nn.dynamic_conv import DynamicConv
from tests.networks import tiny

SUBSETS = ((0, 1, 2), (0, 2), (1,))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=50)
def test_pooled_parts_are_the_statistics_of_the_whole(sizes, seed):
  parts = [np.random.default_rng(seed + part).normal(part, 1 + part, (size, 3)) for part, size in enumerate(sizes)]
  pooled, count = {'layer': {'norm': {'mean': np.zeros(3), 'var': np.zeros(3)}}}, 0
  for part in parts:
    count += len(part)
    measured = {'layer': {'norm': {'mean': part.mean(0), 'var': part.var(0)}}}
    pooled = batch_stats.pool(pooled, measured, len(part) / count)
  whole = np.concatenate(parts)
  np.testing.assert_allclose(pooled['layer']['norm']['mean'], whole.mean(0), atol=1e-9)
  np.testing.assert_allclose(pooled['layer']['norm']['var'], whole.var(0), atol=1e-9)


def images_of(count, channels=3):
  # The mean drifts from image to image, so that batches differ and the variance between them counts.
  rng = np.random.default_rng(0)
  drift = np.linspace(0, 150, count)[:, None, None, None]
  return (rng.integers(0, 100, (count, 12, 12, channels)) + drift).astype(np.uint8)


def estimate(images, batch_size, mesh, subsets=SUBSETS, present=None, network=None):
  model, variables = network or tiny()
  present = np.ones((len(images), 3), bool) if present is None else present

  def read():
    for start in range(0, len(images), batch_size):
      rows = slice(start, start + batch_size)
      yield {'image': images[rows], 'present': present[rows], 'size': np.full((batch_size, 2), 12, np.int32)}

  estimator = batch_stats.Estimator(model, subsets, as_read, has_missing_channels=not present.all(), mesh=mesh)
  return estimator(variables, read(), subsets)


def as_read(_, batch):
  """A view of batches that are as the network takes them."""
  return batch['image'].astype(jnp.float32), batch['present']


def first_layer(images, subset):
  """The features that the first BatchNorm sees, straight from the network."""
  model, variables = tiny()

  def apply(x):
    return model.apply(
      variables,
      x,
      subset=subset,
      mutable=['intermediates'],
      capture_intermediates=lambda module, _: isinstance(module, DynamicConv),
    )

  features = jax.jit(apply)(images[..., list(subset)].astype(np.float32))[1]
  return np.asarray(features['intermediates']['stem']['conv']['__call__'][0], np.float64)


def test_the_first_layers_statistics_are_exact_however_the_images_are_batched(mesh1, mesh8):
  images = images_of(48)
  for batch_size, mesh in ((8, mesh1), (16, mesh8), (48, mesh1)):
    found = estimate(images, batch_size, mesh)
    for subset in SUBSETS:
      features = first_layer(images, subset)
      stats = found[subset]['stem']['norm']
      np.testing.assert_allclose(stats['mean'], features.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
      np.testing.assert_allclose(stats['var'], features.var((0, 1, 2)), rtol=1e-3)


def test_one_and_eight_devices_agree_in_every_layer(mesh1, mesh8):
  one, eight = (estimate(images_of(32), 16, mesh) for mesh in (mesh1, mesh8))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), one, eight)
  model, variables = tiny()
  assert jax.tree.structure(one[(1,)]) == jax.tree.structure(variables['batch_stats'])


def test_an_example_counts_with_what_it_has_of_a_subset(mesh8):
  images, present = images_of(16), np.ones((16, 3), bool)
  present[::2] = [False, True, True]
  found = estimate(images, 16, mesh8, [(0, 1)], present)[(0, 1)]
  features = np.concatenate([first_layer(images[::2], (1,)), first_layer(images[1::2], (0, 1))])
  np.testing.assert_allclose(found['stem']['norm']['mean'], features.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('stem', [('dynamic', 'linear'), ('conv', 'gray')])
def test_one_function_for_many_subsets_estimates_the_statistics_of_one_for_each(mesh8, monkeypatch, stem):
  model, variables = tiny()
  if stem[0] == 'conv':
    statistics = {'stem': {'standardize': variables['channel_stats']['stem']['standardize']}}
    variables = {**variables, 'channel_stats': statistics}
  network = model.clone(stem=stem[0], completion=stem[1]), variables
  each = estimate(images_of(32), 16, mesh8, network=network)
  monkeypatch.setattr(evaluator, 'MAX_COMPILED', 2)
  together = estimate(images_of(32), 16, mesh8, network=network)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), together, each)


def test_beyond_32_subsets_one_function_estimates_the_statistics(mesh1):
  model, subsets = tiny()[0].clone(num_channels=6), ChannelSet(tuple('ABCDEF')).subsets('all')

  def compiled(count, missing):
    made = batch_stats.Estimator(model, subsets[:count], as_read, has_missing_channels=missing, mesh=mesh1)
    return made.compilations(subsets[:count])

  assert [compiled(*case) for case in ((32, False), (33, False), (63, False), (32, True))] == [32, 1, 1, 1]


def test_only_on_cpus_the_program_of_a_subset_waits_for_that_of_another(mesh1, monkeypatch):
  waits, wait = [], jax.block_until_ready
  monkeypatch.setattr(jax, 'block_until_ready', lambda tree: (waits.append(tree), wait(tree))[1])
  expected = estimate(images_of(32), 16, mesh1)
  assert batch_stats.sums_share_threads(mesh1) and len(waits) == 2 + 2 * len(SUBSETS)
  monkeypatch.setattr(batch_stats, 'sums_share_threads', lambda mesh: False)
  waits.clear()
  jax.tree.map(np.testing.assert_array_equal, estimate(images_of(32), 16, mesh1), expected)
  assert len(waits) == 2  # once per batch


def test_another_of_the_batch_stands_in_for_an_unreadable_image():
  batch = {
    'image': np.arange(6),
    'size': np.arange(6),
    'present': np.arange(6),
    'label': np.arange(6),
    'mask': np.array([True, False, True, True, False, True]),
  }
  given_on = list(batch_stats.replace_unreadable([batch], 'data'))[0]
  assert set(given_on) == {'image', 'size', 'present'}
  assert given_on['image'][[0, 2, 3, 5]].tolist() == [0, 2, 3, 5]
  assert set(given_on['image'][[1, 4]].tolist()) <= {0, 2, 3, 5}
  with pytest.raises(InputError, match='data: none of 6 examples in a row can be read'):
    list(batch_stats.replace_unreadable([{**batch, 'mask': np.zeros(6, bool)}], 'data'))
