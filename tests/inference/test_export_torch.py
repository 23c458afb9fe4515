"""Our ResNets as state dicts for PyTorch, and back."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from flaxnets import config as configs
from flaxnets.errors import InputError
from flaxnets.inference.convert import read_network
from flaxnets.nn.stem import put_statistics
from tests.inference.torch_reference import make
from tests.networks import CORRELATION, MEAN

FORMS = {
  'for small images': {'model.small_images': True},
  'as in PyTorch': {},
  'plain stem': {'model.stem': 'conv', 'model.completion': 'gray'},
}


def network(folder, **changes):
  """A network that is none of PyTorch's: other statistics, classes, sizes and step."""
  config = configs.named('pretrained')
  config.update_from_flattened_dict({'model.width': 8, 'image_size': 16, 'data.source': 'arrays', **changes})
  path = folder / 'made.safetensors'
  safetensors.numpy.save_file(make.tensors('resnet18', small_images=config.model.small_images), path)
  net, _ = read_network(path, 'resnet18', config, classes='abcde')
  statistics = {'mean': MEAN, 'std': MEAN / 2, 'correlation': CORRELATION}
  net.variables = jax.device_get(put_statistics(net.variables, statistics))
  net.metadata = dataclasses.replace(net.metadata, low=(1.0, 2.0, 3.0), dtype='uint16')
  net.step = 7
  return net


def header(path):
  with safetensors.safe_open(path, 'numpy') as file:
    return file.metadata()


def restored(path, **options):
  return read_network(path, 'resnet18', **options)[0]


def test_the_canvas_of_a_prepared_data_set_comes_back_too(tmp_path):
  net = network(tmp_path, **{'data.source': 'lists'})
  net.metadata = dataclasses.replace(net.metadata, canvas=(20, 20))
  net.export(tmp_path / 'x.safetensors', format='torch')
  assert restored(tmp_path / 'x.safetensors').canvas == (20, 20)
  larger = configs.named('pretrained')
  larger.image_size = 32
  assert restored(tmp_path / 'x.safetensors', config=larger).canvas == (48, 48)


@pytest.mark.parametrize('option', [{'channels': 'BGR'}, {'mean': [0.5] * 3}, {'std': [0.5] * 3}])
def test_what_the_file_holds_itself_cannot_be_given(option, tmp_path):
  network(tmp_path).export(tmp_path / 'x.safetensors', format='torch')
  with pytest.raises(InputError, match=f'x.safetensors holds its channels, .*; leave out {next(iter(option))}$'):
    restored(tmp_path / 'x.safetensors', **option)


@pytest.mark.parametrize('small', [False, True])
def test_the_header_says_how_the_first_layer_is_called(small, tmp_path):
  net = network(tmp_path, **{'model.small_images': small})
  net.export(tmp_path / 'x.safetensors', format='torch')
  stem = json.loads(header(tmp_path / 'x.safetensors')['stem'])
  images = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
  _, kept = net.model.apply(net.variables, images, mutable=['intermediates'], capture_intermediates=True)
  first = kept['intermediates']['stem']['conv']['__call__'][0]
  with safetensors.safe_open(tmp_path / 'x.safetensors', 'numpy') as file:
    convolved = jax.lax.conv_general_dilated(
      ((images - MEAN) / (MEAN / 2)).transpose(0, 3, 1, 2),
      file.get_tensor('conv1.weight'),
      (stem['stride'],) * 2,
      [(stem['padding'],) * 2] * 2,
    )
    assert file.get_tensor('conv1.weight').shape[2:] == (stem['kernel_size'],) * 2
  np.testing.assert_allclose(first, convolved.transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-3)
  after = kept['intermediates']['stem']['__call__'][0]
  assert (after.shape[1] < first.shape[1]) is stem['max_pool']


@pytest.mark.parametrize('changes', FORMS.values(), ids=FORMS)
def test_a_network_comes_back_to_the_bit(changes, tmp_path):
  net = network(tmp_path, **changes)
  description = net.export(tmp_path / 'x.safetensors', format='torch')
  assert description['channels'] == ['R', 'G', 'B'] and description['step'] == 7
  found = restored(tmp_path / 'x.safetensors')
  jax.tree.map(np.testing.assert_array_equal, found.variables, net.variables)
  assert found.metadata == net.metadata and found.config == net.config


def test_names_and_axes_are_those_of_torchvision(tmp_path):
  net = network(tmp_path)
  net.export(tmp_path / 'x.safetensors', format='torch')
  with safetensors.safe_open(tmp_path / 'x.safetensors', 'numpy') as file:
    params = net.variables['params']
    np.testing.assert_array_equal(
      file.get_tensor('layer2.0.downsample.0.weight').transpose(2, 3, 1, 0),
      params['stage2_block1']['shortcut_conv']['kernel'],
    )
    np.testing.assert_array_equal(file.get_tensor('fc.weight').T, params['head']['dense']['kernel'])
    assert len(list(file.keys())) == 102
  statistics = json.loads(header(tmp_path / 'x.safetensors')['statistics'])
  assert statistics['mean'] == [120.0, 110.0, 100.0] and statistics['correlation'][0][2] == 0.5


def test_a_subset_is_an_ordinary_network_of_its_channels(tmp_path):
  net, images = (
    network(tmp_path),
    np.random.default_rng(0).integers(0, 256, (2, 16, 16, 2), np.uint8),
  )
  net.recalibrated[0, 2] = jax.tree.map(lambda value: 1.5 * value, net.variables['batch_stats'])
  net.export(tmp_path / 'x.safetensors', 'BR', format='torch')
  two = restored(tmp_path / 'x.safetensors')
  assert two.channels.names == ('B', 'R')
  np.testing.assert_allclose(two.kernels()[:, :, ::-1], net.kernels('RB'), rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(two.logits(images), net.logits(images, 'BR'), rtol=1e-4, atol=1e-4)


def test_a_plain_stem_exports_a_subset_with_its_gray(tmp_path):
  net = network(tmp_path, **FORMS['plain stem'])
  images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 2), np.uint8)
  net.export(tmp_path / 'x.safetensors', 'BR', format='torch')
  two = restored(tmp_path / 'x.safetensors')
  np.testing.assert_allclose(two.logits(images), net.logits(images, 'BR'), rtol=1e-4, atol=1e-4)


def test_the_config_of_the_file_holds_but_for_what_is_changed(tmp_path):
  net = network(tmp_path)
  net.export(tmp_path / 'x.safetensors', format='torch')
  config = configs.named('pretrained')
  config.model.completion = 'none'
  config.train.epochs = 3.0
  found = restored(tmp_path / 'x.safetensors', config=config, num_classes=9)
  assert found.config.model.completion == 'none' and found.config.train.epochs == 3
  assert found.config.image_size == net.config.image_size and len(found.classes) == 9


@pytest.mark.parametrize(
  ('changes', 'subset', 'said'),
  [
    ({'model.name': 'resattention'}, '', 'this is resattention with model.norm=batch'),
    ({'model.norm': 'group'}, '', 'this is resnet18 with model.norm=group'),
    ({}, 'RX', "'X'"),
    ({'model.stem': 'conv', 'model.completion': 'black'}, 'RG', 'does what model.completion=black does; export all'),
  ],
)
def test_what_torchvision_has_no_names_for_is_refused(changes, subset, said, tmp_path):
  net = network(tmp_path)
  net.config.update_from_flattened_dict(changes)
  with pytest.raises(InputError, match=said):
    net.export(tmp_path / 'x.safetensors', subset, format='torch')
  assert not (tmp_path / 'x.safetensors').exists()
