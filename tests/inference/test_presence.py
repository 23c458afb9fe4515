"""Images that lack channels: said with present=, and found where a failed channel arrives as a plane of one value."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from flaxnets.data.constant_planes import constant_planes
from flaxnets.errors import InputError
from flaxnets.inference.files import FilePredictions
from tests.networks import untrained

ADVICE = 'if the channel failed, leave it out: '


@pytest.fixture(scope='module')
def net():
  return untrained(small=True)


def photos(count=4, height=20, width=24):
  return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def warnings(caplog):
  return [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']


def test_a_channel_that_is_said_to_be_absent_is_left_out_whatever_its_plane_holds(net):
  images, present = photos(), np.ones((4, 3), bool)
  present[1, 2] = present[3, :2] = False
  dead, lacking = images.copy(), images.astype(np.float32)
  dead[~present[:, np.newaxis, np.newaxis].repeat(20, 1).repeat(24, 2)] = 255
  lacking.transpose(0, 3, 1, 2)[~present] = np.nan
  expected = net.logits(lacking)
  assert np.abs(net.logits(dead) - expected).max() > 0.01
  for given in (images, dead):
    np.testing.assert_allclose(net.logits(given, present=present), expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(net.predict(dead, present=present), expected.argmax(1))
  np.testing.assert_allclose(net.probabilities(dead, present=present), net.probabilities(lacking), atol=1e-5)
  np.testing.assert_allclose(net.features(dead, present=present), net.features(lacking), rtol=1e-4, atol=1e-5)
  # Planes of NaN are absent too.
  lacking.transpose(0, 3, 1, 2)[present] = images.transpose(0, 3, 1, 2)[present]
  np.testing.assert_allclose(net.logits(lacking, present=np.ones((4, 3), bool)), expected, rtol=1e-4, atol=1e-5)


def test_attention_knows_what_is_absent():
  attentive = untrained(**{'model.name': 'resattention', 'model.stem': 'conv', 'model.completion': 'mean'})
  images, lacking = photos(), photos().astype(np.float32)
  lacking[..., 1] = np.nan
  found = attentive.attention(images, present=[True, False, True])
  np.testing.assert_allclose(found, attentive.attention(lacking), rtol=1e-4, atol=1e-6)
  assert np.abs(found - attentive.attention(images)).max() > 1e-4


def test_present_is_in_the_order_of_the_images_and_one_row_holds_for_all(net):
  images = photos()
  expected = net.logits(images[..., [0, 2]], 'RB')
  for present in ([True, False, True], np.tile([True, False, True], (4, 1))):
    np.testing.assert_allclose(net.logits(images, present=present), expected, rtol=1e-3, atol=1e-4)
  turned = net.logits(images[..., [1, 2, 0]], 'GBR', present=[False, True, True])
  np.testing.assert_allclose(turned, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  ('present', 'said'),
  [
    (np.ones((3, 3), bool), r'present is bool \(3, 3\); it must be bool \(4, 3\), .*, or \(3,\) for all images'),
    (np.ones(4, bool), r'present is bool \(4,\); it must be bool \(4, 3\)'),
    (np.ones((4, 3)), r'present is float64 \(4, 3\); it must be bool'),
    ([[True], [True, False]], r'present has rows of several lengths; it must be bool \(4, 3\)'),
    ([False] * 3, 'image 0 has none of the channels RGB'),
    (np.arange(12).reshape(4, 3) < 9, 'image 3 has none of the channels RGB'),
  ],
)
def test_present_that_does_not_fit_is_an_error_of_one_line(net, present, said):
  with pytest.raises(InputError, match=said) as raised:
    net.predict(photos(), present=present)
  assert '\n' not in str(raised.value)


def test_present_is_refused_for_a_list(net):
  with pytest.raises(InputError, match='present= is for images in one array; in a list, leave channels out with'):
    net.predict(list(photos()), present=[True, True, False])


@pytest.mark.parametrize('value', [0, 255])
def test_a_channel_of_one_value_throughout_is_warned_of_once(net, caplog, value):
  images = photos(600)  # three batches
  images[[4, 7, 599], ..., 2] = value
  net.predict(images)
  assert warnings(caplog) == [
    f'3 of 600 images have a constant plane, the first is image 4: channel B is {value} throughout; {ADVICE}'
    'present=, channels= or a plane of NaN'
  ]


def test_a_bad_image_in_a_list_is_named_by_its_number_there(net):
  items = [photos(1)[0], Image.fromarray(photos(1)[0]), photos(1, 30, 30)[0].astype(np.float32)]
  items[2][4, 5, 0] = np.inf
  with pytest.raises(InputError, match='image 2 has NaN or infinite pixels in channel R'):
    net.predict(items)
  items[2] = np.full_like(items[2], np.nan)
  with pytest.raises(InputError, match='image 2 has none of the channels RGB'):
    net.predict(items)


def test_images_in_a_list_are_counted_together(net, caplog):
  items = [photos(1)[0], Image.fromarray(photos(1)[0]), photos(1)[0], photos(1, 30, 30)[0].astype(np.float32)]
  items[2][..., 0] = 9
  items[3][..., 1:] = 0
  net.predict(items)
  assert warnings(caplog) == [
    f'2 of 4 images have a constant plane, the first is image 2: channel R is 9 throughout; {ADVICE}'
    'channels=, or planes of NaN in its arrays'
  ]


def test_no_warning_where_a_plane_is_absent_varies_or_was_constant_in_training(net, caplog):
  images = photos()
  images[..., 2] = 0
  net.predict(images[..., :2], 'RG')
  net.predict(images, present=[True, True, False])
  single = images.copy()
  single[:, 11, 13, 2] = 1  # none of the sampled pixels
  net.predict(single)
  net.predict(photos(2, 1, 1) * 0)
  known = untrained(small=True)
  known.metadata = dataclasses.replace(net.metadata, low=(0.0, 0.0, 7.0), high=(255.0, 255.0, 7.0))
  known.predict(images)
  assert not warnings(caplog)


def test_an_image_without_any_varying_channel_is_said_to_be_a_guess(net, caplog):
  images = photos(2)
  images[1] = 0
  net.predict(images)
  assert warnings(caplog) == [
    '1 of 2 images has a constant plane, the first is image 1: each of its channels has one value throughout, '
    'so that its class is a guess'
  ]


def test_complete_planes_are_read_only_where_a_sample_is_constant():
  compared, images = [], photos(50, 144, 144)
  images[3, ..., 1] = 5

  class Counted(np.ndarray):
    def __eq__(self, other):
      compared.append(self.size)
      return super().__eq__(other)

  found = constant_planes(images.view(Counted), np.ones((50, 3), bool))
  np.testing.assert_array_equal(np.argwhere(found), [[3, 1]])
  assert sum(compared) <= images.size / 100 + 144 * 144


def test_files_are_named_and_the_advice_is_a_flag(net, tmp_path, caplog):
  images = photos(5)
  images[[1, 3], ..., 2] = 0
  for number, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / f'{number}.png')
  paths = [str(tmp_path / f'{number}.png') for number in range(5)]
  assert len(list(FilePredictions(net, batch_size=2)(paths))) == 5
  assert warnings(caplog) == [
    f'2 of 5 images have a constant plane, the first is {paths[1]}: channel B is 0 throughout; {ADVICE}--subset=RG'
  ]
  caplog.clear()
  assert len(list(FilePredictions(net, subset='RG', batch_size=2)(paths))) == 5
  assert not warnings(caplog)


def test_an_image_of_an_array_file_is_named_by_its_number_there(net, tmp_path, caplog):
  images = photos(5)
  images[3, ..., 0] = 0
  np.save(tmp_path / 'x.npy', images)
  list(FilePredictions(net, batch_size=2)([str(tmp_path / 'x.npy')]))
  (said,) = warnings(caplog)
  assert f'the first is {tmp_path / "x.npy"}, image 3: channel R is 0 throughout; {ADVICE}--subset=GB' in said
