"""How batches reach the device: compiled once, one ahead of the results, and only what is asked for comes back."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from flaxnets.augment import pipeline
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.inference import network, predictor
from flaxnets.inference.files import FilePredictions
from tests.networks import untrained


def photos(count):
  return np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), np.uint8)


def written(folder, images):
  for number, image in enumerate(images):
    Image.fromarray(image).save(folder / f'{number}.png')
  return [str(folder / f'{number}.png') for number in range(len(images))]


@pytest.mark.parametrize('canvas', [False, True])
def test_an_array_and_files_of_one_size_are_one_program_and_have_the_same_logits(canvas, tmp_path, monkeypatch):
  net, traced, view = untrained(small=True, **{'data.source': 'tfds'} if canvas else {}), [], pipeline.evaluation_images
  assert (net.canvas is not None) == canvas
  monkeypatch.setattr(
    pipeline, 'evaluation_images', lambda images, *args, **named: (traced.append(1), view(images, *args, **named))[1]
  )
  images = photos(3)
  logits = net.logits(images)
  np.testing.assert_array_equal(net.logits(written(tmp_path, images)), logits)
  assert len(traced) == 1


class Watched:
  """An output on the device; it writes down when it is fetched."""

  def __init__(self, name, values, events):
    self._name, self._values, self._events = name, values, events

  def __array__(self, *args, **named):
    if self._name not in self._events:
      self._events.append(self._name)
    return self._values


def watched(monkeypatch, batch):
  """A network whose compiled function only writes down its calls, and these events. Arrays go in batches of `batch`."""
  net, events = untrained(small=True), []
  monkeypatch.setattr(network, 'BATCH', batch)
  monkeypatch.setattr(predictor, 'BATCH', batch)

  def compiled(variables, images, sizes, present, subset):
    number = sum(event.startswith('sent') for event in events)
    events.append(f'sent {number}')
    values = {'logits': np.zeros((len(images), 6), np.float32), 'features': np.zeros((len(images), 8), np.float32)}
    return (*(Watched(f'{name} {number}', value, events) for name, value in values.items()), np.zeros((0, 0, 0)))

  net.__dict__['compiled'] = compiled
  return net, events


@pytest.mark.parametrize('kind', ['array', 'list of files', 'files', 'file of an array'])
def test_the_next_batch_is_on_the_device_when_the_results_of_the_last_are_fetched(kind, tmp_path, monkeypatch):
  (net, events), images = watched(monkeypatch, 2), photos(6)
  if kind == 'array':
    assert net.logits(images).shape == (6, 6)
  elif kind == 'list of files':
    assert net.logits(written(tmp_path, images)).shape == (6, 6)
  else:
    np.save(tmp_path / 'x.npy', images)
    paths = written(tmp_path, images) if kind == 'files' else [str(tmp_path / 'x.npy')]
    rows = list(FilePredictions(net, batch_size=2)(paths))
    expected = [(path, 0) for path in paths] if kind == 'files' else [(paths[0], number) for number in range(6)]
    assert [(path, number) for path, number, _ in rows] == expected
  assert events == ['sent 0', 'sent 1', 'logits 0', 'sent 2', 'logits 1', 'logits 2']


def test_features_come_from_the_device_only_if_they_are_asked_for(monkeypatch):
  net, events = watched(monkeypatch, 4)
  net.probabilities(photos(2))
  assert events == ['sent 0', 'logits 0']
  assert net.features(photos(2)).shape == (2, 8)
  assert events[2:] == ['sent 1', 'logits 1', 'features 1']  # logits tell whether the network's outputs are finite


def test_what_the_network_makes_of_padding_need_not_be_finite(monkeypatch):
  net, _ = watched(monkeypatch, 4)
  logits = np.zeros((4, 6), np.float32)
  logits[3] = np.nan
  net.__dict__['compiled'] = lambda *arguments: (logits, None, None)
  assert net.logits(photos(3)).shape == (3, 6)
  with pytest.raises(InputError, match='the outputs of the network are not finite'):
    net.logits(photos(4))


def test_weights_that_are_not_finite_are_refused_although_relu_may_hide_them():
  net = untrained(small=True)
  net.variables = jax.tree.map(np.copy, net.variables)
  net.variables['params']['stem']['conv']['kernel'][:] = np.nan
  for count in (2, 32):
    with pytest.raises(InputError, match='the outputs of the network are not finite; its weights'):
      net.predict(photos(count))


def test_photos_are_sent_to_the_device_explicitly():
  net, image = untrained(small=True), Image.fromarray(photos(1)[0])
  expected = net.logits([image])
  with jax.transfer_guard('disallow'):
    np.testing.assert_array_equal(net.logits([image]), expected)


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
@pytest.mark.parametrize(('bands', 'planes'), [('B,G,R', 3), ('R,G,B,T', 4)])
def test_a_pillow_image_is_read_by_the_names_of_its_bands_as_its_file_is(bands, planes, tmp_path):
  pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')
  net = untrained(small=True, **{'data.source': 'folders', 'data.bands': bands})
  pixels = np.random.default_rng(0).integers(0, 256, (20, 24, planes), np.uint8)  # a fourth plane is no transparency
  Image.fromarray(pixels).save(tmp_path / '0.png')
  expected = net.logits(pixels[np.newaxis, ..., ['RGBT'.index(name) for name in bands.split(',')]][..., :3])
  np.testing.assert_array_equal(net.logits(tmp_path / '0.png'), expected)
  np.testing.assert_array_equal(net.logits(Image.fromarray(pixels)), expected)
  with pytest.raises(InputError, match="a Pillow image of mode 'L': .* names .* for 1 bands"):
    net.logits(Image.fromarray(pixels[..., 0]))


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_a_file_or_pillow_image_with_fewer_bands_than_the_training_files_holds_the_channels_that_are_named(tmp_path):
  pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')
  net = untrained(small=True, **{'data.source': 'folders', 'data.bands': 'R,G,B'})
  pixels = np.random.default_rng(0).integers(0, 256, (20, 24), np.uint8)
  Image.fromarray(pixels).save(tmp_path / '0.png')
  expected = net.logits(pixels[np.newaxis, ..., np.newaxis], 'G')
  np.testing.assert_array_equal(net.logits(tmp_path / '0.png', 'G'), expected)
  np.testing.assert_array_equal(net.logits(Image.fromarray(pixels), 'G'), expected)
  for channels in (None, 'RG'):
    with pytest.raises(InputError, match=r'3 names \(R, G, B\) for 1 bands'):
      net.logits(tmp_path / '0.png', channels)


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_a_pillow_image_keeps_sixteen_bits_for_a_network_that_was_trained_on_them():
  pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')
  net, ramp = untrained(small=True), np.arange(400, dtype=np.uint16).reshape(20, 20) * 160
  net.channels = ChannelSet(('L', 'G', 'B'))
  assert predictor.Predictor(net, 'L').from_pillow(Image.fromarray(ramp))[0].max() == 248  # among photos
  net.metadata = dataclasses.replace(net.metadata, dtype='uint16')
  pixels, size, present = predictor.Predictor(net, 'L').from_pillow(Image.fromarray(ramp))
  np.testing.assert_array_equal(pixels[..., 0], ramp)
  assert size == (20, 20) and present is None


def test_a_bad_image_does_not_lose_the_batch_before_it(tmp_path):
  images, said = photos(6).astype(np.float32), []
  images[3, 5, 5, 1] = np.nan
  np.save(tmp_path / 'x.npy', images)
  rows = list(FilePredictions(untrained(small=True), batch_size=2, on_bad=said.append)([str(tmp_path / 'x.npy')]))
  assert [number for _, number, _ in rows] == [0, 1]
  assert len(said) == 1 and 'image 3 has NaN or infinite pixels in channel G' in said[0]


def test_what_was_begun_is_finished_before_an_error_is_raised():
  def begun():
    yield lambda: 1
    yield lambda: 2
    raise InputError('the third')

  found = []
  with pytest.raises(InputError, match='the third'):
    for value in predictor.one_behind(begun()):
      found.append(value)
  assert found == [1, 2]
  assert list(predictor.one_behind([])) == []
