"""Planes of one value among planes that vary are counted and told; data that are constant by nature are not."""

import numpy as np
import pytest

from flaxnets.channels import ChannelSet
from flaxnets.data.batches import evaluation_batches
from flaxnets.data.constant_planes import ConstantPlanes
from flaxnets.data.source import ArraySource
from flaxnets.data.statistics import measure


@pytest.fixture
def images():
  """Forty images in which every plane varies."""
  return np.random.default_rng(0).integers(0, 256, (40, 8, 9, 3)).astype(np.uint8)


def told(caplog, images, channels=None, present=None, batch_size=16):
  source = ArraySource('X', images, np.zeros(len(images), int), ChannelSet.of('RGB'), ('one',), present)
  planes = ConstantPlanes(source, channels)
  with caplog.at_level('WARNING', 'absl'):
    assert sum(batch['mask'].sum() for batch in planes.counted(evaluation_batches(source, batch_size=batch_size))) == 40
    planes.warn()
  return [record.getMessage() for record in caplog.records]


REMEDY = (
  ': if these are failed channels, mark them absent (arrays: data.present_key, or planes of NaN; TIFFs: bands without '
  'data)'
)


def test_channels_that_failed_in_some_images_are_told_with_their_count(caplog, images):
  images[3:10, ..., 2] = 0
  images[8:10, ..., 0] = 255
  assert told(caplog, images) == [
    f'X: R is constant in 2, B is constant in 7 of the 40 images that were looked at{REMEDY}'
  ]


def test_channels_that_the_network_does_not_take_are_not_told(caplog, images):
  images[3:10, ..., 2] = 0
  assert told(caplog, images, channels=('G', 'R', 'N')) == []


def test_a_plane_with_a_single_other_pixel_is_not_constant(caplog, images):
  images[3:10, ..., 2] = 7
  images[3:10, 4, 5, 2] = 8
  assert told(caplog, images) == []


def test_a_channel_that_is_constant_in_every_image_is_what_it_is(caplog, images):
  images[..., 1] = np.arange(40)[:, np.newaxis, np.newaxis]  # such as the hour of the day
  assert told(caplog, images) == []


def test_blank_images_are_no_failed_channels(caplog, images):
  images[5] = 0
  images[6] = (1, 2, 3)
  assert told(caplog, images) == []


def test_channels_that_are_marked_absent_are_not_told_again(caplog, images):
  present = np.ones((40, 3), bool)
  present[3:10, 2] = False
  images[3:10, ..., 2] = 0
  assert told(caplog, images, present=present) == []


def test_measuring_the_training_split_tells_of_failed_channels(caplog, images):
  images[3:10, ..., 2] = 0
  source = ArraySource('X_train', images, np.zeros(40, int), ChannelSet.of('RGB'), ('one',))
  with caplog.at_level('WARNING', 'absl'):
    measure(source)
  (record,) = caplog.records
  assert record.getMessage() == f'X_train: B is constant in 7 of the 40 images that were looked at{REMEDY}'
