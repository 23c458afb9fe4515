"""What `import flaxnets` offers, what it costs, and the layer in networks that are not ours."""

import doctest
import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import flaxnets

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = (
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
)
HEAVY = ('jax', 'flax', 'numpy', 'tensorflow_datasets', 'cv2', 'orbax', 'grain', 'ml_collections', 'absl')


def run_python(code):
  return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_flaxnets_imports_nothing_heavy():
  imported = json.loads(run_python('import json, sys, flaxnets; print(json.dumps(list(sys.modules)))'))
  assert 'flaxnets' in imported
  assert not {name.split('.')[0] for name in imported} & set(HEAVY)


def test_the_public_names_are_listed_before_anything_is_imported():
  listed, public = json.loads(
    run_python('import flaxnets, json; print(json.dumps([dir(flaxnets), list(flaxnets.__all__)]))')
  )
  assert set(PUBLIC) <= set(listed) and tuple(public) == PUBLIC
  assert {'nn', 'models'} <= set(listed)
  assert not {'importlib', 'Any', 'TYPE_CHECKING'} & set(listed)


@pytest.mark.parametrize('name', PUBLIC)
def test_every_public_name_is_there(name):
  value = getattr(flaxnets, name)
  assert value.__doc__
  if name != '__version__':
    assert value.__name__ == name


def test_subpackages_that_the_documentation_names_need_no_import():
  shown = run_python('import flaxnets; print(flaxnets.nn.mixing.__name__, "resnet18" in flaxnets.models.MODELS)')
  assert shown.split() == ['mixing', 'True']


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'DynamicConvolution'"):
    flaxnets.DynamicConvolution  # noqa: B018  the access is the test


@pytest.mark.parametrize(
  ('module', 'lines'),
  [
    ('flaxnets.nn.dynamic_conv', 8),
    ('flaxnets.nn.completion', 6),
    ('flaxnets.nn.stem', 4),
    ('flaxnets.training.resolution', 2),
    ('flaxnets.analysis.covariance', 6),
  ],
)
def test_examples_in_docstrings_run(module, lines):
  result = doctest.testmod(importlib.import_module(module))
  assert result.failed == 0 and result.attempted >= lines


class LinenNet(nn.Module):
  """A Linen network around the layer, of standardised images (b, h, w, 4)."""

  @nn.compact
  def __call__(self, images, **channels):
    x = flaxnets.DynamicConv(32, (3, 3), num_channels=4)(images, **channels)
    return nn.Dense(10)(nn.relu(x).mean(axis=(1, 2)))


class NnxNet(nnx.Module):
  """The same in NNX, with a BatchNorm."""

  def __init__(self, images, rngs):
    conv = flaxnets.DynamicConv(32, (3, 3), num_channels=4)
    self.conv = nnx.bridge.ToNNX(conv, rngs=rngs).lazy_init(images)
    self.conv.correlation[...] = flaxnets.channel_statistics(images)['correlation']
    self.norm, self.head = nnx.BatchNorm(32, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)

  def __call__(self, images, **channels):
    x = nnx.relu(self.norm(self.conv(images, **channels)))
    return self.head(x.mean(axis=(1, 2)))


@pytest.fixture(scope='module')
def images():
  """Standardised images (8, 12, 12, 4) with correlated channels."""
  shared = jax.random.normal(jax.random.key(0), (8, 12, 12, 1))
  return (shared + 0.5 * jax.random.normal(jax.random.key(1), (8, 12, 12, 4))) / 1.25**0.5


@pytest.fixture(scope='module')
def mask():
  return jax.random.bernoulli(jax.random.key(2), 0.6, (8, 4)).at[:, 0].set(True)


def correlation_of(images):
  return np.corrcoef(np.asarray(images).reshape(-1, 4).T)


def test_the_layer_takes_subsets_and_masks_in_a_linen_network(images, mask):
  net = LinenNet()
  variables = net.init(jax.random.key(0), images)
  variables = flaxnets.put_statistics(variables, flaxnets.channel_statistics(images))
  on_two = net.apply(variables, images[..., jnp.asarray([0, 2])], subset=(0, 2))
  for output in (net.apply(variables, images), on_two, net.apply(variables, images, present=mask)):
    assert output.shape == (8, 10) and jnp.isfinite(output).all()
  stored = variables['channel_stats']['DynamicConv_0']['correlation']
  np.testing.assert_allclose(stored, correlation_of(images), atol=1e-4)
  only_two = jnp.zeros((8, 4), bool).at[:, jnp.asarray([0, 2])].set(True)
  by_mask = net.apply(variables, images, present=only_two)
  np.testing.assert_allclose(by_mask, on_two, rtol=1e-4, atol=1e-4)


def test_the_layer_in_an_nnx_network_trains(images, mask):
  net, labels = NnxNet(images, nnx.Rngs(0)), jnp.arange(8)
  assert isinstance(net.norm.mean, nnx.BatchStat) and isinstance(net.conv.correlation, nnx.Variable)
  assert not isinstance(net.conv.correlation, nnx.Param)
  np.testing.assert_allclose(net.conv.correlation[...], correlation_of(images), atol=1e-4)
  optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)

  def loss(net):
    logits = net(images, present=mask)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  mean, correlation = net.norm.mean[...], net.conv.correlation[...]
  before, gradients = nnx.value_and_grad(loss)(net)
  optimizer.update(net, gradients)
  assert loss(net) < before
  assert jnp.abs(net.norm.mean[...] - mean).max() > 0
  np.testing.assert_array_equal(net.conv.correlation[...], correlation)


class Normalized(nn.Module):
  """A Linen network with statistics of both kinds."""

  @nn.compact
  def __call__(self, images, train=False, **channels):
    x = flaxnets.DynamicConv(8, 3, 4, name='conv')(flaxnets.Standardize(4, name='standardize')(images), **channels)
    return nn.Dense(10)(nn.relu(nn.BatchNorm(not train, name='norm')(x)).mean(axis=(1, 2)))


def test_a_linen_network_through_the_nnx_bridge_trains(images, mask):
  images, labels = 100 + 20 * images, jnp.arange(8)
  net = nnx.bridge.ToNNX(Normalized(), rngs=nnx.Rngs(0)).lazy_init(images)
  assert isinstance(net.norm['mean'], nnx.BatchStat)
  with pytest.raises(ValueError, match=r'flaxnets\.put_statistics'):
    net(images, present=mask)
  statistics = flaxnets.channel_statistics(images)
  for name in ('mean', 'std'):
    net.standardize[name][...] = statistics[name]
  net.conv['correlation'][...] = statistics['correlation']
  optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)

  def loss(net):
    logits = net(images, present=mask, train=True, mutable=['batch_stats'])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  before, gradients = nnx.value_and_grad(loss)(net)
  optimizer.update(net, gradients)
  assert loss(net) < before
  assert jnp.abs(net.norm['mean'][...]).max() > 0
  np.testing.assert_array_equal(net.conv['correlation'][...], statistics['correlation'])


def test_the_matrix_alone_gives_the_kernel_for_another_library(images):
  bank = jax.random.normal(jax.random.key(3), (3, 3, 4, 8))
  correlation = jnp.asarray(flaxnets.channel_statistics(images)['correlation'])
  kernel = jnp.einsum('hwcf,cs->hwsf', bank, flaxnets.nn.mixing('linear', (0, 2), correlation))
  two = images[..., jnp.asarray([0, 2])]
  variables = {'params': {'kernel': bank}, 'channel_stats': {'correlation': correlation}}
  ours = flaxnets.DynamicConv(8, 3, 4).apply(variables, two, subset=(0, 2))
  theirs = jax.lax.conv_general_dilated(two, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def test_standardising_is_a_layer_that_is_called_alone(images):
  images = 100 + 20 * images
  layer = flaxnets.Standardize(num_channels=4)
  variables = layer.init(jax.random.key(0), images)
  np.testing.assert_array_equal(layer.apply(variables, images), images)
  variables = flaxnets.put_statistics(variables, flaxnets.channel_statistics(images))
  standardised = np.asarray(layer.apply(variables, images))
  np.testing.assert_allclose(standardised.mean((0, 1, 2)), 0, atol=1e-3)
  np.testing.assert_allclose(standardised.std((0, 1, 2)), 1, rtol=1e-3)
  two = layer.apply(variables, images[..., jnp.asarray([0, 2])], subset=(0, 2))
  np.testing.assert_array_equal(two, standardised[..., [0, 2]])
  with pytest.raises(ValueError, match='the input has 2 channels'):
    layer.apply(variables, images[..., :2])


def test_statistics_for_a_network_without_such_layers_are_refused():
  variables = nn.Dense(3).init(jax.random.key(0), jnp.zeros((1, 2)))
  with pytest.raises(ValueError, match='neither a Standardize nor a DynamicConv'):
    flaxnets.put_statistics(variables, {'mean': np.zeros(2)})


def test_statistics_that_lack_a_key_are_refused():
  variables = flaxnets.DynamicConv(2, 1, 3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  with pytest.raises(ValueError, match="no 'correlation'; they have mean, std"):
    flaxnets.put_statistics(variables, {'mean': np.zeros(3), 'std': np.ones(3)})


def editable_install(clone, environment):
  """Installs a clone as `make setup` does, into an environment that sees this one's packages but not its flaxnets."""
  options = re.search(r'pip install (.* -e \.)$', (ROOT / 'Makefile').read_text(), re.MULTILINE).group(1).split()
  subprocess.run([sys.executable, '-m', 'venv', '--without-pip', environment], check=True)
  python = environment / 'bin' / 'python'
  (site,) = environment.glob('lib/python*/site-packages')
  setuptools = pathlib.Path(importlib.import_module('setuptools').__file__).parents[1]
  (site / 'packages.pth').write_text(f'{setuptools}\n')
  subprocess.run([sys.executable, '-m', 'pip', '--python', python, 'install', *options], cwd=clone, check=True)
  return python


def test_the_folder_above_a_clone_offers_no_empty_flaxnets(tmp_path):
  clone = tmp_path / 'above' / 'flaxnets'
  for name in ('flaxnets', 'configs'):
    shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, clone)
  python = editable_install(clone, tmp_path / 'environment')
  code = 'import flaxnets; print(flaxnets.__file__); flaxnets.ChannelSet'
  found = subprocess.run([python, '-c', code], cwd=clone.parent, capture_output=True, text=True, check=True)
  assert pathlib.Path(found.stdout.strip()) == clone / 'flaxnets' / '__init__.py'
