"""PyTorch's weights in our networks: the logits are PyTorch's, and every tensor is accounted for."""

import json
import os

import jax
import numpy as np
import pytest
import safetensors.numpy

import flaxnets
from flaxnets import config as configs
from flaxnets.data.photo_statistics import photo_statistics
from flaxnets.errors import InputError
from flaxnets.inference import run_folder
from flaxnets.inference.convert import read_network
from flaxnets.inference.verify import verify
from flaxnets.runtime import records
from flaxnets.runtime.checkpoint import SaveFailed
from tests.inference.torch_reference import make

LOGITS = json.loads((make.FOLDER / 'logits.json').read_text())['logits']


def tiny_config(**changes):
  config = configs.named('pretrained')
  config.model.width = make.WIDTH
  config.image_size = 32
  config.data.source = 'arrays'  # images keep their size
  config.augment.evaluation_resize = 1.0
  config.update_from_flattened_dict(changes)
  return config


def write(path, tensors):
  safetensors.numpy.save_file(tensors, path)
  return path


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  return write(tmp_path_factory.mktemp('weights') / 'tiny.safetensors', make.tensors('resnet18'))


@pytest.fixture(scope='module')
def net(weights):
  return read_network(weights, 'resnet18', tiny_config())[0]


@pytest.mark.parametrize(
  ('model', 'size'),
  [pytest.param(*case, marks=[pytest.mark.slow] if case[0] != 'resnet18' else []) for case in make.CASES],
)
def test_logits_are_those_that_pytorch_gave(model, size, tmp_path):
  path = write(tmp_path / 'x.safetensors', make.tensors(model))
  net, _ = read_network(path, model, tiny_config(image_size=size))
  expected = np.asarray(LOGITS[f'{model}-{size}'])
  found = np.asarray(jax.jit(net.model.apply)(net.variables, make.images(size)))
  assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_converted_network_predicts_on_every_subset_at_once(net, tmp_path):
  run_folder.write(net, tmp_path / 'run', {})
  net, images = flaxnets.load(tmp_path / 'run'), make.images(32)
  assert net.classes == ('0', '1', '2', '3', '4') and net.step == 0 and net.config.model.completion == 'unit'
  assert net.predict(images[..., 1:2], channels='G').shape == (2,)
  # With one channel, `unit` gives the absent ones the standardised values of the one that is there.
  statistics = photo_statistics()
  standardised = (images[..., 1:2] - statistics['mean'][1]) / statistics['std'][1]
  copied = standardised * statistics['std'] + statistics['mean']
  np.testing.assert_allclose(
    net.logits(images[..., 1:2], 'G'), net.logits(copied.astype(np.float32)), rtol=1e-3, atol=1e-3
  )


def test_another_completion_can_be_chosen_when_a_run_is_loaded(net, tmp_path):
  run_folder.write(net, tmp_path / 'run', {})
  own, none = (flaxnets.load(tmp_path / 'run', completion=name) for name in ('', 'none'))
  kernel = net.variables['params']['stem']['conv']['kernel']
  np.testing.assert_array_equal(none.kernels('R')[:, :, 0], kernel[:, :, 0])
  np.testing.assert_allclose(own.kernels('R')[:, :, 0], kernel.sum(axis=2), rtol=1e-4, atol=1e-5)
  assert (own.switched, none.switched) == ('', 'none')
  with pytest.raises(InputError, match="no completion 'cubic'"):
    flaxnets.load(tmp_path / 'run', completion='cubic')
  with pytest.raises(InputError, match="recalibrated statistics are for the completion of the run, 'unit'"):
    flaxnets.load(tmp_path / 'run', completion='none', recalibrated=True)


def safetensors_of(tensors, code):
  """The bytes of a safetensors file: the header's length, the header, the data. NumPy's writer has no bfloat16."""
  header, data = {}, b''
  for name, value in tensors.items():
    end = len(data) + value.nbytes
    header[name] = {'dtype': code, 'shape': value.shape, 'data_offsets': [len(data), end]}
    data += value.tobytes()
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, 'little') + text + data


@pytest.mark.parametrize(('dtype', 'code'), [('float16', 'F16'), ('bfloat16', 'BF16')])
def test_files_of_sixteen_bits_are_read(dtype, code, tmp_path):
  import ml_dtypes

  kind = np.dtype(ml_dtypes.bfloat16 if dtype == 'bfloat16' else np.float16)
  tensors = {name: value.astype(kind) for name, value in make.tensors('resnet18').items()}
  path = tmp_path / 'half.safetensors'
  path.write_bytes(safetensors_of(tensors, code))
  net, origin = read_network(path, 'resnet18', tiny_config())
  assert origin['dtype'] == dtype
  kernel = net.variables['params']['stage4_block2']['conv2']['kernel']
  expected = tensors['layer4.1.conv2.weight'].astype(np.float32).transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(kernel, expected)
  assert kernel.dtype == np.float32


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda t: t.pop('layer2.0.downsample.0.weight'), r'1 tensor missing \(layer2\.0\.downsample\.0\.weight\)'),
    (lambda t: t.update({'conv1.0.weight': np.zeros((8, 3, 3, 3))}), r'1 tensor surplus \(conv1\.0\.weight \(8, 3'),
    (lambda t: t.update({'bn1.bias': np.zeros(16)}), r'1 tensor misshapen \(bn1\.bias is \(16,\), \(8,\) was expected'),
    (lambda t: t.update({'bn1.bias': np.full(8, np.nan)}), r'bn1\.bias has values that are not finite'),
    (lambda t: t.update({'bn1.bias': np.zeros(8, np.int8)}), r'bn1\.bias is int8; floats'),
    (lambda t: t.pop('fc.bias'), r'has no head \(fc\.weight and fc\.bias\) among .*; num_classes=N .* makes a new one'),
  ],
)
def test_a_file_that_does_not_fit_is_refused_and_the_tensor_named(change, said, tmp_path):
  tensors = make.tensors('resnet18')
  change(tensors)
  with pytest.raises(InputError, match=said) as error:
    read_network(write(tmp_path / 'x.safetensors', tensors), 'resnet18', tiny_config())
  assert '\n' not in str(error.value)


def test_the_weights_of_another_network_are_recognised(tmp_path):
  path = write(tmp_path / 'x.safetensors', make.tensors('resnet18', width=64))
  with pytest.raises(InputError, match=r'does not fit: 80 tensors missing .*; its tensors are those of resnet18$'):
    read_network(path, 'resnet34', tiny_config(**{'model.width': 64}))


def test_counters_of_batches_and_a_prefix_of_all_names_do_no_harm(net, tmp_path):
  tensors = {f'module.{name}': value for name, value in make.tensors('resnet18').items()}
  tensors['module.bn1.num_batches_tracked'] = np.asarray(100)
  found, _ = read_network(write(tmp_path / 'x.safetensors', tensors), 'resnet18', tiny_config())
  jax.tree.map(np.testing.assert_array_equal, found.variables, net.variables)


def test_classes_can_be_named_chosen_and_replaced(weights, net):
  def head(**options):
    found, origin = read_network(weights, 'resnet18', tiny_config(), **options)
    return found.classes, found.variables['params']['head']['dense'], origin['head']

  own = net.variables['params']['head']['dense']
  classes, dense, kind = head(classes='abcde')
  assert classes == tuple('abcde') and kind == 'kept'
  classes, dense, kind = head(keep=[4, 1], classes='xy')
  assert classes == ('x', 'y') and kind == '2 of 5 classes kept'
  np.testing.assert_array_equal(dense['kernel'], own['kernel'][:, [4, 1]])
  np.testing.assert_array_equal(dense['bias'], own['bias'][[4, 1]])
  assert head(keep=[4, 1], classes='abcde')[0] == ('e', 'b') and head(keep=[4, 1])[0] == ('4', '1')
  classes, dense, kind = head(num_classes=7)
  assert len(classes) == 7 and dense['kernel'].shape == (64, 7) and kind == 'new, 7 classes'
  assert 0 < np.abs(dense['kernel']).max() <= 64**-0.5 and np.abs(dense['bias']).max() > 0


def test_a_new_head_needs_none_in_the_file(tmp_path):
  tensors = {name: value for name, value in make.tensors('resnet18').items() if not name.startswith('fc.')}
  path = write(tmp_path / 'x.safetensors', tensors)
  assert len(read_network(path, 'resnet18', tiny_config(), num_classes=3)[0].classes) == 3


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    ({'classes': 'abc'}, '3 class names for a head of 5 classes'),
    ({'num_classes': 4, 'classes': 'abc'}, '^num_classes=4 does not fit 3 class names'),
    ({'keep': [1, 5]}, r'^keep has the class 5, but .* has 0 to 4'),
    ({'keep': [1, 1]}, '^keep names a class twice'),
    ({'keep': [1], 'num_classes': 2}, 'give one of them'),
    ({'channels': 'RGN'}, 'the channels are R, G, N; R, G and B in some order'),
    ({'mean': [0.5]}, '^mean is 0.5; give 3 values'),
    ({'std': [0.5, 0, 0.5]}, '^std is 0.5, 0, 0.5; give 3 values'),
    ({'mean': [0.5, np.nan, 0.5]}, '^mean is 0.5, nan, 0.5; give 3 values'),
  ],
)
def test_arguments_that_do_not_fit_are_refused(weights, options, said):
  with pytest.raises(InputError, match=said):
    read_network(weights, 'resnet18', tiny_config(), **options)


def test_a_file_that_takes_blue_first_has_the_same_kernels_by_name(weights, net, tmp_path):
  tensors = make.tensors('resnet18')
  tensors['conv1.weight'] = np.ascontiguousarray(tensors['conv1.weight'][:, ::-1])
  path = write(tmp_path / 'bgr.safetensors', tensors)
  bgr, _ = read_network(path, 'resnet18', tiny_config(), channels='BGR')
  np.testing.assert_allclose(bgr.fill, net.fill[::-1])
  np.testing.assert_array_equal(bgr.kernels()[:, :, ::-1], net.kernels())
  np.testing.assert_allclose(bgr.kernels('R'), net.kernels('R'), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(bgr.kernels('BR')[:, :, ::-1], net.kernels('RB'), rtol=1e-4, atol=1e-5)


def test_another_mean_and_deviation_are_stored_in_pixels(weights):
  net, _ = read_network(weights, 'resnet18', tiny_config(), mean=[0.5] * 3, std=[0.25, 0.5, 1])
  stored = net.variables['channel_stats']['stem']['standardize']
  np.testing.assert_allclose(stored['mean'], 127.5)
  np.testing.assert_allclose(stored['std'], [63.75, 127.5, 255])


def test_arguments_may_be_arrays_of_numpy(weights):
  mean, std, keep, classes = np.full(3, 0.5), np.full(3, 0.25), np.arange(2), np.asarray(['x', 'y'])
  net, _ = read_network(weights, 'resnet18', tiny_config(), mean=mean, std=std, keep=keep, classes=classes)
  assert net.classes == ('x', 'y')
  np.testing.assert_allclose(net.fill, 127.5)


def test_a_folder_that_holds_a_network_is_left_alone(net, tmp_path):
  run_folder.write(net, tmp_path / 'run', {})
  with pytest.raises(InputError, match=r'holds a network already; choose another folder \(--out\)'):
    run_folder.write(net, tmp_path / 'run', {})


def test_a_folder_of_a_network_that_was_not_trained_is_intact(net, tmp_path):
  run_folder.write(net, tmp_path / 'run', {})
  outcome = verify(tmp_path / 'run')
  assert outcome.problems == [] and outcome.undigested == []
  assert outcome.summary() == '1 checkpoint, 1 record'


@pytest.mark.parametrize(
  ('writer', 'error'),
  [(run_folder.Checkpoints, SaveFailed('No space left on device')), (records, OSError(28, os.strerror(28)))],
)
def test_a_full_disk_is_named_and_the_folder_can_be_written_again(net, tmp_path, monkeypatch, writer, error):
  def full(*_, **__):
    raise error

  with monkeypatch.context() as patch:
    patch.setattr(writer, 'save' if writer is run_folder.Checkpoints else 'write', full)
    with pytest.raises(InputError, match='run cannot be written: No space left on device'):
      run_folder.write(net, tmp_path / 'run', {})
  run_folder.write(net, tmp_path / 'run', {})
  assert flaxnets.load(tmp_path / 'run').step == 0


def test_photos_have_a_correlation_that_is_one_on_its_diagonal():
  statistics = photo_statistics(('B', 'R', 'G'))
  correlation = statistics['correlation']
  np.testing.assert_array_equal(np.diag(correlation), 1)
  np.testing.assert_array_equal(correlation, correlation.T)
  assert correlation[0, 1] == np.float32(0.7348) and np.linalg.eigvalsh(correlation).min() > 0
  np.testing.assert_allclose(statistics['mean'], [103.53, 123.675, 116.28], rtol=1e-5)
