"""Our ResNets as state dicts for PyTorch, and back."""

import json

import jax
import numpy as np
import pytest
import safetensors

from flaxnets import config as configs
from flaxnets.errors import InputError
from flaxnets.inference.convert import read_network
from tests.inference.test_export import untrained

FORMS = {
  'ours': {},
  'as in PyTorch': {'model.small_images': False, 'model.width': 16},
  'plain stem': {'model.stem': 'conv', 'model.completion': 'gray'},
}


def header(path):
  with safetensors.safe_open(path, 'numpy') as file:
    return file.metadata()


def restored(path, **options):
  return read_network(path, 'resnet18', **options)[0]


@pytest.mark.parametrize('changes', FORMS.values(), ids=FORMS)
def test_a_network_comes_back_to_the_bit(changes, tmp_path):
  net = untrained(**{'model.small_images': True, **changes})
  description = net.export(tmp_path / 'x.safetensors', format='torch')
  assert description['channels'] == ['R', 'G', 'B'] and description['step'] == 7
  found = restored(tmp_path / 'x.safetensors')
  jax.tree.map(np.testing.assert_array_equal, found.variables, net.variables)
  assert found.metadata == net.metadata and found.config == net.config


def test_names_and_axes_are_those_of_torchvision(tmp_path):
  net = untrained(**{'model.small_images': True})
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
    untrained(**{'model.small_images': True}),
    np.random.default_rng(0).integers(0, 256, (2, 16, 16, 2), np.uint8),
  )
  net.recalibrated[0, 2] = jax.tree.map(lambda value: 1.5 * value, net.variables['batch_stats'])
  net.export(tmp_path / 'x.safetensors', 'BR', format='torch')
  two = restored(tmp_path / 'x.safetensors')
  assert two.channels.names == ('B', 'R')
  np.testing.assert_allclose(two.kernels()[:, :, ::-1], net.kernels('RB'), rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(two.logits(images), net.logits(images, 'BR'), rtol=1e-4, atol=1e-4)


def test_the_config_of_the_file_holds_but_for_what_is_changed(tmp_path):
  net = untrained(**{'model.small_images': True})
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
  ],
)
def test_what_torchvision_has_no_names_for_is_refused(changes, subset, said, tmp_path):
  net = untrained(small=True)
  net.config.update_from_flattened_dict(changes)
  with pytest.raises(InputError, match=said):
    net.export(tmp_path / 'x.safetensors', subset, format='torch')
  assert not (tmp_path / 'x.safetensors').exists()
