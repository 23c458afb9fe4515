"""Full ResNets from PyTorch's own files: the same logits at the sizes where padding could differ. Needs PyTorch."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='PyTorch is not installed; the stored logits are compared in test_convert')

from benchmarks.torch_parity import SIZES, converted, difference, random_network  # noqa: E402
from benchmarks.torch_resnet import ResNet, logits  # noqa: E402
from flaxnets.inference import tensor_files  # noqa: E402
from tests.inference.torch_reference import make  # noqa: E402
from tests.networks import untrained  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize('model', ['resnet18', 'resnet34', 'resnet50'])
def test_logits_equal_pytorchs_at_full_width(model, tmp_path):
  network = random_network(model)
  for size in SIZES:
    assert difference(network, converted(network, model, tmp_path / f'{size}.pth'), size) < 1e-4


@pytest.mark.parametrize('zipped', [True, False])
def test_what_pytorch_saves_now_is_read_as_pytorch_reads_it(zipped, tmp_path):
  torch.save({'model': make.odd_tensors()}, tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
  found = tensor_files.read(tmp_path / 'x.pth').tensors
  expected = torch.load(tmp_path / 'x.pth', weights_only=True)['model']
  assert list(found) == list(expected)
  for name, tensor in expected.items():
    assert str(tensor.dtype) == f'torch.{found[name].dtype}'
    np.testing.assert_array_equal(found[name].astype(np.float64), tensor.detach().double().numpy())


def test_pytorch_loads_our_export_strictly_and_gives_our_logits(tmp_path):
  from safetensors.torch import load_file

  net = untrained(**{'model.name': 'resnet18', 'model.small_images': False})
  images = np.random.default_rng(0).integers(0, 256, (2, 33, 33, 3), np.uint8)
  for subset, channels in (('', [0, 1, 2]), ('BR', [2, 0])):
    net.export(tmp_path / 'x.safetensors', subset, format='torch')
    network = ResNet('resnet18', channels=len(channels), classes=6, width=net.config.model.width)
    network.load_state_dict(load_file(tmp_path / 'x.safetensors'), strict=True)
    mean, std = (
      np.asarray(net.variables['channel_stats']['stem']['standardize'][name])[channels] for name in ('mean', 'std')
    )
    found = logits(network, images[..., channels], mean, std)
    places = tuple(sorted(channels))
    expected = jax.jit(net.model.apply, static_argnames='subset')(
      net.variables, images[..., list(places)], subset=places
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
