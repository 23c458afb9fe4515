"""A network written to a file computes what the network computes, on every subset, and says what it is."""

import copy
import dataclasses
import hashlib
import importlib.util
import json

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets.augment import pipeline
from flaxnets.errors import InputError
from flaxnets.inference import export as exporting
from flaxnets.inference.network import Network
from flaxnets.inference.subset_function import view_matrices
from tests.networks import untrained

# Every subset of the network that mixes its kernel; three of the one that fills in the absent channels.
CASES = [
  *(('resnet', subset) for subset in ('RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B')),
  *(('resattention', subset) for subset in ('RGB', 'RB', 'G')),
]
NO_ONNX = next((name for name in ('jax2onnx', 'onnxruntime') if importlib.util.find_spec(name) is None), '')

needs_onnx = pytest.mark.skipif(bool(NO_ONNX), reason=f'{NO_ONNX} is not installed; {exporting.INSTALL_ONNX}')


@pytest.fixture(scope='module')
def resnet():
  return untrained(small=True)


@pytest.fixture(scope='module')
def resattention():
  return untrained(**{'model.name': 'resattention', 'model.stem': 'conv', 'model.completion': 'mean'})


@pytest.fixture(scope='module')
def stored(resnet, tmp_path_factory):
  path = tmp_path_factory.mktemp('export') / 'rg.stablehlo'
  resnet.export(path, 'RG', height=20, width=26)
  return path


def images_of(count, height, width, planes):
  return np.random.default_rng(count).integers(0, 256, (count, height, width, planes), np.uint8)


def assert_close(found, expected, tolerance):
  assert np.ptp(expected) > 0.01, 'logits that hardly differ would be no test'
  np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(('network', 'subset'), CASES)
def test_stablehlo_is_the_network_on_every_subset_for_any_batch_size(network, subset, request, tmp_path):
  net = request.getfixturevalue(network)
  net.export(tmp_path / 'net', subset, height=20, width=26)
  loaded = flaxnets.load_exported(tmp_path / 'net')
  images = images_of(4, 20, 26, len(subset))
  expected = net.logits(images, subset)
  assert_close(loaded.logits(images), expected, 1e-5)
  if subset in ('RGB', 'G'):
    assert_close(loaded.logits(images[:1]), expected[:1], 1e-5)
    assert_close(np.asarray(loaded._exported.call(images[:3])), expected[:3], 1e-5)


@pytest.mark.parametrize(('size', 'resize'), [((16, 16), 1.0), ((20, 26), 1.0), ((61, 37), 1.3), ((9, 12), 1.5)])
def test_the_matrices_of_the_view_are_the_view(size, resize):
  net = untrained(small=True, **{'augment.evaluation_resize': resize})
  rows, columns = view_matrices(net, size)
  images = images_of(1, *size, 3)
  view = pipeline.evaluation_images(images, np.asarray([size]), image_size=16, resize=resize, fill=np.zeros(3))
  np.testing.assert_allclose(np.einsum('sh,bhwc,tw->bstc', rows, images, columns), view, rtol=1e-4, atol=1e-3)


def test_a_wide_panorama_takes_no_more_than_its_matrices():
  rows, columns = view_matrices(untrained(small=True), (16, 60_000))
  assert rows.shape == (16, 16) and columns.shape == (16, 60_000)
  np.testing.assert_array_equal(np.flatnonzero(columns.any(0)), np.arange(29_992, 30_008))


@needs_onnx
@pytest.mark.parametrize(('network', 'subset'), CASES)
def test_onnx_is_the_network_on_every_subset_for_any_batch_size(network, subset, request, tmp_path):
  import onnx
  import onnxruntime

  net = request.getfixturevalue(network)
  net.export(tmp_path / 'net.onnx', subset, format='onnx', height=20, width=26)
  session = onnxruntime.InferenceSession(tmp_path / 'net.onnx', providers=['CPUExecutionProvider'])
  images = images_of(4, 20, 26, len(subset))
  expected = net.logits(images, subset)
  for count in (1, 3, 4):
    assert_close(session.run(None, {'images': images[:count]})[0], expected[:count], 1e-4)
  properties = session.get_modelmeta().custom_metadata_map
  assert json.loads(properties['channels']) == list(subset) and json.loads(properties['classes']) == list('abcdef')
  said = json.loads((tmp_path / 'net.onnx.json').read_text())
  assert said['format'] == 'flaxnets-onnx' and said['input']['shape'] == ['b', 20, 26, len(subset)]
  operators = {node.op_type for node in onnx.load(tmp_path / 'net.onnx').graph.node}
  assert 'Conv' in operators and not {'Loop', 'Scan'} & operators


@needs_onnx
def test_onnx_that_differs_from_the_network_is_not_written(resnet, tmp_path, monkeypatch):
  monkeypatch.setattr(exporting, '_run_onnx', lambda data, images: np.ones((len(images), 6), np.float32))
  with pytest.raises(InputError, match='differs from the trained one by .* nothing was written'):
    resnet.export(tmp_path / 'net.onnx', 'R', format='onnx', height=20, width=26)
  assert not list(tmp_path.iterdir())


def test_without_the_converter_one_line_says_what_to_install(resnet, tmp_path, monkeypatch):
  found = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'jax2onnx' else found(name))
  with pytest.raises(InputError, match=r'needs jax2onnx.*; install with: pip install --no-deps jax2onnx') as raised:
    resnet.export(tmp_path / 'net.onnx', format='onnx')
  assert '\n' not in str(raised.value)


def test_an_export_that_differs_from_the_network_is_not_written(resnet, tmp_path, monkeypatch):
  other = copy.copy(resnet)
  other.variables = jax.tree.map(lambda x: 1.01 * x, resnet.variables)
  function = exporting.subset_function
  monkeypatch.setattr(exporting, 'subset_function', lambda net, *rest: function(other, *rest))
  with pytest.raises(InputError, match='differs from the trained one by .* nothing was written'):
    resnet.export(tmp_path / 'net')
  assert not list(tmp_path.iterdir())


def test_the_order_of_the_channels_is_the_one_asked_for(resnet, tmp_path):
  resnet.export(tmp_path / 'net', 'BR', height=16, width=16)
  loaded = flaxnets.load_exported(tmp_path / 'net')
  images = images_of(4, 16, 16, 2)
  assert loaded.channels.names == ('B', 'R')
  assert_close(loaded.logits(images), resnet.logits(images, 'BR'), 1e-5)
  np.testing.assert_allclose(loaded.logits(images[..., ::-1], 'RB'), loaded.logits(images), rtol=1e-6)


def test_a_subset_with_statistics_of_its_own_is_exported_with_those(resnet, tmp_path):
  net = copy.copy(resnet)
  net.recalibrated = {(0,): jax.tree.map(lambda x: x * 1.5, resnet.variables['batch_stats'])}
  net.export(tmp_path / 'net', 'R', height=16, width=16)
  images = images_of(4, 16, 16, 1)
  loaded = flaxnets.load_exported(tmp_path / 'net')
  assert loaded.metadata['recalibrated'] == ['R'] and loaded.metadata['completion'] == 'linear'
  found = loaded.logits(images)
  assert_close(found, net.logits(images, 'R'), 1e-5)
  assert np.abs(found - resnet.logits(images, 'R')).max() > 1e-3


def test_bfloat16_is_exported_within_its_precision(tmp_path):
  net = untrained(**{'model.dtype': 'bfloat16', 'model.name': 'resattention'})
  net.export(tmp_path / 'net', 'G', height=16, width=16)
  images = images_of(4, 16, 16, 1)
  assert_close(flaxnets.load_exported(tmp_path / 'net').logits(images), net.logits(images, 'G'), 5e-2)


@pytest.mark.parametrize('format', ['stablehlo', pytest.param('onnx', marks=needs_onnx)])
@pytest.mark.parametrize('completion', ['gray', 'black'])
def test_what_a_conv_stem_fills_in_is_exported_too(completion, format, tmp_path):
  net = untrained(**{'model.name': 'resattention', 'model.stem': 'conv', 'model.completion': completion})
  images = images_of(4, 20, 26, 2)
  net.export(tmp_path / 'net', 'RB', format=format, height=20, width=26)
  if format == 'stablehlo':
    assert_close(flaxnets.load_exported(tmp_path / 'net').logits(images), net.logits(images, 'RB'), 1e-5)
  else:
    assert_close(exporting._run_onnx((tmp_path / 'net').read_bytes(), images), net.logits(images, 'RB'), 1e-4)


def test_a_large_and_a_small_raw_image_go_through_the_evaluation_view(resnet, tmp_path):
  config = resnet.config.copy_and_resolve_references()
  config.augment.evaluation_resize = 1.25
  net = Network(config, resnet.metadata, resnet.variables, 0, False)
  net.model = resnet.model
  for height, width in ((64, 50), (9, 12)):
    net.export(tmp_path / 'net', height=height, width=width)
    images = images_of(2, height, width, 3)
    assert_close(flaxnets.load_exported(tmp_path / 'net').logits(images), net.logits(images), 1e-5)


def test_the_sidecar_says_what_the_file_is(stored, resnet):
  said = json.loads((stored.parent / 'rg.stablehlo.json').read_text())
  assert said['sha256'] == hashlib.sha256(stored.read_bytes()).hexdigest()
  assert said['channels'] == ['R', 'G'] and said['classes'] == list('abcdef')
  assert said['input'] == {
    'name': 'images', 'shape': ['b', 20, 26, 2], 'dtype': 'uint8', 'low': [0.0, 0.0], 'high': [255.0, 255.0],
  }  # fmt: skip
  assert said['preprocessing']['mean'] == [120.0, 110.0] and said['preprocessing']['std'] == [60.0, 55.0]
  assert said['platforms'] == ['cpu', 'cuda', 'tpu']
  assert said['versions']['jax'] == jax.__version__ and said['date'] and said['commit'] and said['step'] == 7
  assert 'six months' in said['compatibility'] and 'three weeks' in said['compatibility']
  assert 0 <= said['difference'] < 1e-5


def test_a_file_runs_on_all_platforms_and_solves_nothing(stored):
  from jax import export

  exported = export.deserialize(bytearray(stored.read_bytes()))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  assert 'cholesky' not in exported.mlir_module() and 'triangular' not in exported.mlir_module()


def test_a_loaded_file_predicts_with_names_and_probabilities(stored, resnet):
  loaded, images = flaxnets.load_exported(stored), images_of(5, 20, 26, 2)
  np.testing.assert_array_equal(loaded.predict(images), resnet.predict(images, 'RG'))
  np.testing.assert_allclose(loaded.probabilities(images), resnet.probabilities(images, 'RG'), atol=1e-5)
  np.testing.assert_allclose(loaded.probabilities(images).sum(axis=1), 1, rtol=1e-5)
  assert loaded.classes == tuple('abcdef') and loaded.channels.names == ('R', 'G')
  assert loaded.logits(images[:0]).shape == (0, 6)


@pytest.mark.parametrize(
  ('call', 'said'),
  [
    (
      lambda net, x: net.predict(x[..., :1]),
      r'images are \(n, 20, 26, 2\) for the channels RG, but .*\(5, 20, 26, 1\)',
    ),
    (lambda net, x: net.predict(x[:, :10]), r'images are \(n, 20, 26, 2\)'),
    (lambda net, x: net.predict(x[0]), r'images are \(n, 20, 26, 2\)'),
    (lambda net, x: net.predict(x, 'R'), 'exported for the channels RG, not R'),
    (lambda net, x: net.predict(x, 'RB'), "no channel 'B'; the channels are R, G"),
    (lambda net, x: net.predict(x / 255), 'these images reach 1, but the network was trained on 0 to 255; give raw'),
    (
      lambda net, x: net.predict(x + 0.5),
      'takes uint8, which cannot hold all of these float64 pixels; give images.rou',
    ),
    (lambda net, x: net.predict(x.astype(int) + 9), r"these int64 pixels; give .*clip\(0, 255\).astype\('uint8'\)"),
    (lambda net, x: net.predict(np.where(x, x, np.nan)), 'images have NaN or infinite pixels'),
    (lambda net, x: net.predict(x.astype('U3')), 'images are <U3; numbers such as uint8'),
  ],
)
def test_input_that_does_not_fit_a_loaded_file_is_one_line(stored, call, said):
  with pytest.raises(InputError, match=said) as raised:
    call(flaxnets.load_exported(stored), images_of(5, 20, 26, 2))
  assert '\n' not in str(raised.value)


def test_a_loaded_file_takes_its_pixels_in_any_number_type(stored):
  loaded, images = flaxnets.load_exported(stored), images_of(5, 20, 26, 2)
  expected = loaded.logits(images)
  for dtype in ('float64', 'float32', '>f4', 'int64', 'uint16'):
    np.testing.assert_array_equal(loaded.logits(images.astype(dtype)), expected)
  assert loaded.logits(images // 30).shape == (5, 6)  # dark, in the training images' integers


def test_a_file_for_floats_takes_float64_and_integers_on_the_scale_of_the_training_data(resnet, tmp_path):
  net = copy.copy(resnet)
  net.metadata = dataclasses.replace(resnet.metadata, dtype='float32')
  net.export(tmp_path / 'net', 'RG', height=20, width=26)
  loaded, images = flaxnets.load_exported(tmp_path / 'net'), images_of(5, 20, 26, 2) * 0.7
  expected = net.logits(images, 'RG')
  assert_close(loaded.logits(images), expected, 1e-5)
  assert_close(loaded.logits(images[..., ::-1], 'GR'), expected, 1e-5)
  assert_close(loaded.logits(images.astype(int)), net.logits(images.astype(int), 'RG'), 1e-5)
  for scaled in (images / 255, images * 100):
    errors = []
    for predict in (loaded.predict, lambda x: net.predict(x, 'RG')):
      with pytest.raises(InputError) as raised:
        predict(scaled)
      errors.append(str(raised.value))
    assert errors[0] == errors[1] and 'give raw pixels on that scale' in errors[0]


def test_a_corrupt_or_foreign_file_is_refused(stored, tmp_path, resnet):
  def copies(data, said):
    (tmp_path / 'net').write_bytes(data)
    (tmp_path / 'net.json').write_text(said)
    return tmp_path / 'net'

  data, said = stored.read_bytes(), (stored.parent / 'rg.stablehlo.json').read_text()
  assert flaxnets.load_exported(copies(data, said)).classes
  # Without the digest of the description, which would find each change before what is tested here.
  unsigned = {key: value for key, value in json.loads(said).items() if key != 'digest'}
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 1
  with pytest.raises(InputError, match='net is corrupt, or net.json belongs to another file'):
    flaxnets.load_exported(copies(flipped, said))
  with pytest.raises(InputError, match='not a JSON object'):
    flaxnets.load_exported(copies(data, said[:100]))
  with pytest.raises(InputError, match='is flaxnets-onnx; load_exported reads flaxnets-stablehlo'):
    flaxnets.load_exported(copies(data, json.dumps({**unsigned, 'format': 'flaxnets-onnx'})))
  with pytest.raises(InputError, match='net.json is corrupt'):
    flaxnets.load_exported(copies(data, said.replace('flaxnets-stablehlo', 'flaxnets-onnx')))
  with pytest.raises(InputError, match='not a JSON object'):
    flaxnets.load_exported(copies(data, '[]'))
  garbage = {**unsigned, 'sha256': hashlib.sha256(b'garbage').hexdigest()}
  with pytest.raises(InputError, match='cannot be loaded: .*; export again') as raised:
    flaxnets.load_exported(copies(b'garbage', json.dumps(garbage)))
  assert '\n' not in str(raised.value)
  with pytest.raises(InputError, match='none cannot be read: No such file'):
    flaxnets.load_exported(tmp_path / 'none')


def test_safetensors_holds_every_variable_and_what_it_is(resnet, tmp_path):
  from safetensors import safe_open

  net = copy.copy(resnet)
  net.recalibrated = {(0, 1): resnet.variables['batch_stats']}
  net.export(tmp_path / 'net.safetensors', format='safetensors')
  with safe_open(tmp_path / 'net.safetensors', framework='numpy') as file:
    said = file.metadata()
    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
  np.testing.assert_array_equal(arrays['params.stem.conv.kernel'], net.variables['params']['stem']['conv']['kernel'])
  expected = len(jax.tree.leaves(net.variables)) + len(jax.tree.leaves(net.variables['batch_stats']))
  assert len(arrays) == expected and 'recalibrated.RG.stem.norm.mean' in arrays
  assert json.loads(said['recalibrated']) == ['RG']
  assert json.loads(said['channels']) == ['R', 'G', 'B'] and json.loads(said['classes']) == list('abcdef')
  assert json.loads(said['config'])['model']['width'] == 8
  assert json.loads(said['versions'])['flaxnets'] == flaxnets.__version__


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ({'subset': 'RN'}, "no channel 'N'; the channels are R, G, B"),
    ({'format': 'tflite'}, "no format 'tflite'; there are stablehlo, onnx, safetensors, torch"),
    ({'format': 'safetensors', 'subset': 'R'}, "leave out the subset 'R'"),
    ({'height': 4000, 'width': 4000}, 'the most is 16'),
  ],
)
def test_an_impossible_export_is_a_one_line_error(resnet, tmp_path, arguments, said):
  with pytest.raises(InputError, match=said):
    resnet.export(tmp_path / 'net', **arguments)
  assert not list(tmp_path.iterdir())


def test_a_file_is_not_written_under_the_suffix_of_another_format(resnet, tmp_path):
  with pytest.raises(
    InputError, match=r"net.onnx has the suffix of onnx, but the format is 'stablehlo'; give format='onnx"
  ):
    resnet.export(tmp_path / 'net.onnx')
  with pytest.raises(InputError, match=r'net.safetensors has the suffix of safetensors and torch'):
    resnet.export(tmp_path / 'net.safetensors', 'RG')
  assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_error_that_names_it(resnet, tmp_path):
  with pytest.raises(InputError, match=r'none/net cannot be written: No such file'):
    resnet.export(tmp_path / 'none' / 'net', format='safetensors')
