"""Images as users hand them over by mistake, or from other libraries: they are used rightly, or the remedy is said."""

import copy
import dataclasses
import pickle

import jax
import numpy as np
import pytest
from PIL import Image

import flaxnets
from flaxnets.channels import ChannelSet
from flaxnets.errors import InputError
from flaxnets.inference import predictor
from flaxnets.nn.stem import put_statistics
from tests.networks import untrained

PHOTOS = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), np.uint8)


class Tensor:
  """A tensor of another library that NumPy cannot take, such as PyTorch's on a GPU."""

  ndim, shape = 4, PHOTOS.shape

  def __array__(self, dtype=None, copy=None):
    raise TypeError("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu()")


@pytest.fixture(scope='module')
def net():
  return untrained(small=True)


@pytest.mark.parametrize(
  ('images', 'said'),
  [
    (PHOTOS[0], r'for one image give images\[np.newaxis\]$'),
    (np.moveaxis(PHOTOS[0], -1, 0), r'for one image give np.moveaxis\(images, 0, -1\)\[np.newaxis\]$'),
    (np.moveaxis(PHOTOS, -1, 1), r'channels come last, so give np.moveaxis\(images, 1, -1\)$'),
    (PHOTOS[..., :2], 'name the channels of these with channels=$'),
    (np.array(['a.png', 'b.png']), r'give files as a list: list\(images\)$'),
    (PHOTOS[:, :0], r'images are \(2, 0, 24, 3\), and so have no pixels'),
    ([PHOTOS[0, :0]], r'images are \(1, 0, 24, 3\), and so have no pixels'),
    (Tensor(), r"images are a Tensor, which NumPy does not take \(can't convert cuda:0 device type tensor to numpy"),
    (
      None,
      r'images are a NoneType \(cv2.imread returns None for a file that it cannot read\); an array .* expected',
    ),
    (5, 'images are a int; an array .* or a list of images was expected'),
    ({'images': PHOTOS}, 'images are a dict; an array'),
    (b'PNG', 'images are a bytes; an array'),
  ],
)
def test_what_is_not_images_is_an_error_of_one_line_that_says_what_to_do(net, images, said):
  with pytest.raises(InputError, match=said) as raised:
    net.predict(images)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('shape', 'remedy'),
  [
    ((20, 24), 'images[np.newaxis, ..., np.newaxis]'),
    ((5, 20, 24), 'images[..., np.newaxis]'),
    ((20, 24, 1), 'images[np.newaxis]'),
  ],
)
def test_the_remedy_for_images_of_one_channel_works(net, shape, remedy):
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  with pytest.raises(InputError) as raised:
    net.predict(images, 'R')
  assert str(raised.value).endswith(f' give {remedy}')
  assert net.predict(eval(remedy), 'R').ndim == 1


@pytest.mark.parametrize('given', [lambda images: images, list], ids=['array', 'list'])
def test_a_masked_plane_is_an_absent_channel_and_a_masked_pixel_an_error(net, given):
  images = np.ma.masked_array(PHOTOS, np.zeros(PHOTOS.shape, bool))
  np.testing.assert_array_equal(net.logits(given(images)), net.logits(PHOTOS.copy()))
  images.mask[..., 1] = True
  expected = net.logits(PHOTOS, present=[True, False, True])
  np.testing.assert_allclose(net.logits(given(images)), expected, rtol=1e-5, atol=1e-5)
  images.mask[1, 3, 4, 0] = True
  with pytest.raises(InputError, match='image 1 has NaN or infinite pixels in channel R'):
    net.predict(given(images))


def test_eight_bits_of_an_image_of_twelve_are_another_scale_than_twelve():
  net = untrained(small=True)
  statistics = {'mean': np.full(3, 1800.0), 'std': np.full(3, 900.0), 'correlation': np.eye(3)}
  net.variables = jax.tree.map(np.asarray, dict(put_statistics(net.variables, statistics)))
  net.metadata = dataclasses.replace(net.metadata, dtype='uint16', low=(0.0,) * 3, high=(4095.0,) * 3)
  images = np.random.default_rng(0).integers(0, 4096, (2, 20, 24, 3)).astype(np.uint16)
  assert net.predict(images).shape == net.predict(images // 16).shape == (2,)  # 16 bits may show a dark scene
  with pytest.raises(InputError, match='these images are uint8 and reach 255, but the network was trained on uint16'):
    net.predict((images // 16).astype(np.uint8))


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
@pytest.mark.parametrize('dtype', [np.int32, np.float32])
def test_a_pillow_image_of_32_bits_keeps_its_values_for_a_network_of_more_than_8_bits(dtype):
  pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')
  net, ramp = untrained(small=True), np.arange(400, dtype=dtype).reshape(20, 20) * 10
  net.channels = ChannelSet(('L', 'G', 'B'))
  net.metadata = dataclasses.replace(net.metadata, dtype='uint16')
  pixels, size, _ = predictor.Predictor(net, 'L').from_pillow(Image.fromarray(ramp))
  np.testing.assert_array_equal(pixels[..., 0], ramp)
  assert size == (20, 20)


def test_a_network_that_has_predicted_can_be_pickled_and_copied(net):
  expected = net.logits(PHOTOS)
  for other in (pickle.loads(pickle.dumps(net)), copy.copy(net), copy.deepcopy(net)):
    np.testing.assert_array_equal(other.logits(PHOTOS), expected)


def test_labels_of_an_evaluation_may_be_class_names(net):
  numbers = net.predict(PHOTOS)
  names = [net.classes[number] for number in numbers]
  assert flaxnets.evaluate(net, PHOTOS, names, 'RGB') == flaxnets.evaluate(net, PHOTOS, numbers, 'RGB')
  with pytest.raises(InputError, match="the label of example 1 is 'dog', which is not one of the 6 classes"):
    flaxnets.evaluate(net, PHOTOS, [names[0], 'dog'], 'RGB')
