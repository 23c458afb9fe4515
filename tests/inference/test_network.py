"""A trained network on its own, without a run: what it sends to the device, and what it sees of images."""

import dataclasses
import io

import jax
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

import flaxnets
from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.data.decode import squash
from flaxnets.errors import InputError
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.network import Network
from flaxnets.inference.predictor import Predictor
from flaxnets.nn.stem import put_statistics
from tests.networks import untrained
from tests.small import small_config

RGB = ChannelSet.of('RGB')
STATISTICS = {'mean': np.full(3, 120.0), 'std': np.full(3, 60.0), 'correlation': 0.5 + 0.5 * np.eye(3)}
METADATA = Metadata(RGB, ('cat', 'dog', 'owl'), 'uint8', (0.0,) * 3, (255.0,) * 3)


def network(metadata=METADATA, **changes):
  config = small_config(**changes)
  model = experiment.build_network(config, RGB, len(metadata.classes))
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
  return Network(config, metadata, jax.device_get(put_statistics(variables, STATISTICS)), step=1, ema=False)


def photos(count=2, height=20, width=24):
  return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.fixture(scope='module')
def net():
  return network()


def sent_bytes(monkeypatch, function):
  """What a function explicitly sends to devices; what it sends otherwise is an error."""
  sent, device_put = [], jax.device_put

  def counting(values, *args, **kwargs):
    sent.append(sum(value.nbytes for value in jax.tree.leaves(values) if isinstance(value, np.ndarray)))
    return device_put(values, *args, **kwargs)

  monkeypatch.setattr(jax, 'device_put', counting)
  with jax.transfer_guard('disallow'):
    function()
  return sum(sent)


def test_the_weights_are_sent_to_the_device_once(net, monkeypatch):
  images = photos()
  net.logits(images)
  assert sent_bytes(monkeypatch, lambda: net.logits(images)) < 2 * images.nbytes


def test_recalibrated_statistics_are_sent_once_and_used(monkeypatch):
  net, images = network(), photos()
  plain = net.logits(images[..., :2], 'RG')
  net.recalibrated[0, 1] = jax.tree.map(lambda value: 2 * value + 1, net.variables['batch_stats'])
  recalibrated = net.logits(images[..., :2], 'RG')
  assert np.abs(recalibrated - plain).max() > 1e-3
  assert sent_bytes(monkeypatch, lambda: net.logits(images[..., :2], 'RG')) < 2 * images.nbytes
  net.recalibrated.clear()
  np.testing.assert_array_equal(net.logits(images[..., :2], 'RG'), plain)


def test_variables_stay_numpy_and_a_replaced_collection_is_used(net):
  images, replaced = photos(), network()
  before = replaced.logits(images)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(replaced.variables))
  replaced.variables['params'] = jax.tree.map(np.zeros_like, replaced.variables['params'])
  assert np.abs(before).max() > 0 and not replaced.logits(images).any()


def test_no_images_have_no_logits_and_no_features_of_the_right_width(net):
  none, one = photos(0), photos(1)
  assert net.logits(none).shape == (0, 3) and net.predict(none).shape == (0,)
  assert net.features(none).shape == (0, net.features(one).shape[1])


def test_an_image_that_lacks_a_channel_is_seen_as_the_subset_of_the_others(net):
  images = photos().astype(np.float32)
  lacking = images.copy()
  lacking[..., 1] = np.nan
  np.testing.assert_allclose(net.logits(lacking), net.logits(images[..., [0, 2]], 'RB'), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('dtype', ['>u2', '>f4', '>f8'])
def test_numbers_of_either_byte_order_are_the_same_images(net, dtype):
  images = photos()
  expected = net.logits(images.astype(np.dtype(dtype).newbyteorder('=')))
  np.testing.assert_array_equal(net.logits(images.astype(dtype)), expected)


def test_images_in_bfloat16_may_lack_a_channel_too(net):
  images = photos().astype(ml_dtypes.bfloat16)
  images[..., 1] = np.nan
  np.testing.assert_array_equal(net.logits(images), net.logits(images.astype(np.float32)))


@pytest.mark.parametrize('dtype', ['complex64', 'O', 'U3', 'M8[s]'])
def test_images_of_no_real_numbers_are_refused(net, dtype):
  with pytest.raises(InputError, match='images are .*; numbers such as uint8, uint16 or float32 were expected'):
    net.logits(np.zeros((1, 20, 24, 3), dtype))


def test_a_pillow_image_from_a_lossy_file_is_seen_as_pillow_decoded_it():
  file = io.BytesIO()
  Image.fromarray(photos()[0]).save(file, format='TIFF', compression='jpeg')
  image = Image.open(file)
  pixels, _, _ = Predictor(network(**{'data.source': 'synthetic'})).from_pillow(image)
  np.testing.assert_array_equal(pixels, image)


def squashed_to(canvas, images):
  squashed = np.empty((len(images), *canvas, 3), np.uint8)
  for image, out in zip(images, squashed, strict=True):
    squash(image, out)
  return squashed


def test_images_are_squashed_to_the_canvas_in_the_metadata():
  images = photos(height=60, width=60)
  plain = network(**{'data.source': 'synthetic'})
  prepared = network(dataclasses.replace(METADATA, canvas=(40, 30)), **{'data.source': 'tfds'})
  by_config = network(**{'data.source': 'tfds'})  # a checkpoint from before the canvas was stored: 1.5 x 16 pixels
  assert prepared._canvases(images).shape == (2, 40, 30, 3)
  assert by_config._canvases(images).shape == (2, 24, 24, 3)
  assert plain._canvases(images) is images
  np.testing.assert_array_equal(prepared._canvases(images), squashed_to((40, 30), images))


@pytest.mark.parametrize('highest', [65_535, 200])
def test_a_dark_scene_in_the_training_images_integers_is_predicted_and_evaluated(highest):
  metadata = dataclasses.replace(METADATA, dtype='uint16', high=(65_535.0,) * 3, canvas=(20, 30))
  net = network(metadata, **{'augment.evaluation_resize': 1.5})
  images = np.random.default_rng(0).integers(0, highest, (6, 40, 44, 3), np.uint16)
  logits = net.logits(images)
  labels = logits.argmax(axis=1)
  assert net._canvases(images).dtype == np.uint16
  (row,) = flaxnets.evaluate(net, images, labels, 'RGB')
  loss = float(-jax.nn.log_softmax(logits)[np.arange(6), labels].mean())
  assert row['accuracy'] == 1 and row['loss'] == pytest.approx(loss, rel=1e-4)  # the same part of each image
  with pytest.raises(InputError, match='give raw pixels on that scale'):
    flaxnets.evaluate(net, images / np.float32(65_535), labels, 'RGB')


def test_a_network_is_printed_as_one_line(net):
  count = sum(leaf.size for leaf in jax.tree.leaves(net.variables['params']))
  assert repr(net) == f'<Network resattention: channels RGB, 3 classes, step 1, {count:,} parameters>'
  many = network()
  many.channels = ChannelSet(tuple(f'b{number}' for number in range(200)))
  assert 'channels 200 from b0 to b199, 3 classes' in repr(many)


def test_metadata_survive_json_with_and_without_a_canvas():
  for canvas in (None, (128, 96)):
    metadata = Metadata(RGB, ('cat',), 'uint8', (0.0,) * 3, (1.0,) * 3, canvas=canvas)
    assert Metadata.from_json(metadata.to_json()) == metadata
  fields = METADATA.to_json()
  del fields['canvas']
  assert Metadata.from_saved({'knowledge': fields}) == METADATA


class Prepared:
  canvas = (128, 100)


@pytest.mark.parametrize(
  ('source', 'opened', 'canvas'),
  [
    ('tfds', Prepared(), (128, 100)),
    ('tfds', None, (24, 24)),
    ('lists', None, (24, 24)),
    ('arrays', Prepared(), None),
    ('synthetic', None, None),
  ],
)
def test_the_canvas_is_that_of_the_training_source(source, opened, canvas):
  assert experiment.canvas_of(small_config(**{'data.source': source}), opened) == canvas


def test_only_a_network_with_attention_shows_some():
  images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)
  with pytest.raises(InputError, match='resnet18 has no attention over positions'):
    untrained(**{'model.name': 'resnet18'}).attention(images)
  attentive = untrained(**{'model.name': 'resattention', 'model.stem': 'conv', 'model.completion': 'mean'})
  mask = attentive.attention(images, 'RGB')
  assert mask.shape == (3, 4, 4) and mask.dtype == np.float32
  assert (mask > 0).all() and (mask < 1).all() and np.ptp(mask) > 0
  np.testing.assert_allclose(attentive.attention(list(images)), mask, atol=1e-6)
  weights = untrained(**{'model.name': 'resattention', 'model.mask': 'squeeze_excite'})
  with pytest.raises(InputError, match='has no attention over positions'):
    weights.attention(images)
