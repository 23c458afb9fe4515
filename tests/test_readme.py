"""The README's Python examples, executed as they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flaxnets
from flaxnets.training import loop
from tests.markdown import ROOT, blocks
from tests.small import small_config

BLOCKS = [
  block.code for block in blocks((ROOT / 'README.md').read_text()) if block.language == 'python' and not block.not_run
]


@pytest.fixture(scope='module')
def names():
  """What the examples of the layer begin with; each example adds to it, as a reader's session would."""
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.standard_normal((4, 16, 16, 13)) + rng.standard_normal((4, 16, 16, 1)), jnp.float32)
  correlation = flaxnets.channel_statistics(images)['correlation']
  bank = jnp.asarray(rng.standard_normal((7, 7, 13, 64)), jnp.float32)
  mask = jnp.asarray(rng.random((4, 13)) < 0.7).at[:, 0].set(True)
  return {
    'jax': jax, 'jnp': jnp, 'np': np, 'key': jax.random.key(0), 'images': images, 'mask': mask, 'bank': bank,
    'correlation': correlation,
  }  # fmt: skip


def test_every_example_is_short_and_there_are_four():
  assert len(BLOCKS) == 4
  assert all(len(block.splitlines()) <= 10 for block in BLOCKS)


def test_the_layer_is_an_ordinary_convolution_that_takes_any_subset(names):
  exec(BLOCKS[0], names)
  assert names['every_band'].shape == names['three'].shape == names['masked'].shape == (4, 8, 8, 64)
  subset = jnp.zeros((4, 13), bool).at[:, jnp.array([1, 2, 7])].set(True)
  by_mask = names['layer'].apply(names['variables'], names['images'], present=subset)
  np.testing.assert_allclose(names['three'], by_mask, rtol=1e-3, atol=1e-4)


def test_nnx_gives_the_same_through_its_bridge(names):
  exec(BLOCKS[1], names)
  assert names['three'].shape == (4, 8, 8, 64)
  parameters = {'params': {'kernel': names['nnx_layer'].kernel[...]}}
  variables = flaxnets.put_statistics(names['variables'] | parameters, flaxnets.channel_statistics(names['images']))
  expected = names['layer'].apply(variables, names['images'][..., [1, 2, 7]], subset=(1, 2, 7))
  np.testing.assert_allclose(names['three'], expected, rtol=1e-5, atol=1e-5)


def test_the_matrix_alone_gives_the_kernel_that_the_layer_uses(names):
  exec(BLOCKS[2], names)
  layer = flaxnets.DynamicConv(64, (7, 7), num_channels=13, strides=2)
  variables = {'params': {'kernel': names['bank']}, 'channel_stats': {'correlation': names['correlation']}}
  three = names['images'][..., [1, 2, 7]]
  expected = layer.apply(variables, three, subset=(1, 2, 7))
  found = jax.lax.conv_general_dilated(
    three, names['kernel'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_trained_network_is_used_as_the_readme_says(tmp_path, monkeypatch):
  loop.run(small_config(), tmp_path / 'runs' / 'mine')
  monkeypatch.chdir(tmp_path)
  images = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 2), np.uint8)
  Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save('photo.jpg')
  exec(BLOCKS[3], {'flaxnets': flaxnets, 'images': images, 'labels': np.array([0, 1])})
