"""What a run begins with, and what it refuses to be resumed with."""

import dataclasses
import pathlib

import numpy as np
import pytest

from flaxnets.channels import ChannelSet
from flaxnets.data.examples import example_digests
from flaxnets.data.source import ArraySource
from flaxnets.errors import InputError
from flaxnets.inference.metadata import Metadata
from flaxnets.nn.stem import pixel_statistics
from flaxnets.runtime import devices
from flaxnets.training import optim
from flaxnets.training.initial import InitialState
from tests.networks import tiny
from tests.small import small_config

CHANNELS, CLASSES = ChannelSet.of('RGB'), ('a', 'b')
BEGAN = Metadata(CHANNELS, CLASSES, 'uint8', (0.0,) * 3, (255.0,) * 3, (24, 24))


@pytest.mark.parametrize(
  ('now', 'said'),
  [
    ({'dtype': np.uint16}, 'the pixels are uint16 now, but were uint8 when the run began'),
    ({'side': 32}, 'the images are prepared at 32 x 32 pixels now, but were at 24 x 24 when the run began'),
  ],
)
def test_data_with_other_pixels_than_the_run_began_with_are_refused(now, said):
  side, dtype = now.get('side', 24), now.get('dtype', np.uint8)
  source = ArraySource('images', np.zeros((4, side, side, 3), dtype), np.arange(4) % 2, CHANNELS, CLASSES)
  initial = InitialState(small_config(**{'data.source': 'tfds'}), None, None, source, CHANNELS, None)
  digests = example_digests(source)
  with pytest.raises(InputError, match=f'^run: {said}; restore the data or choose another --workdir$'):
    initial.resume({}, {'metadata': BEGAN.to_json(), **digests}, pathlib.Path('run'), digests)
  without = dataclasses.replace(BEGAN, dtype=str(np.dtype(dtype)), canvas=None)  # as version 0.1.0 saved it
  with pytest.raises(InputError, match='has other examples now'):  # what is compared next
    initial.resume({}, {'metadata': without.to_json(), 'labels': 'x'}, pathlib.Path('run'), digests)


def test_every_process_begins_with_the_statistics_that_process_0_measured(monkeypatch, mesh1):
  vectors = {'mean': 100, 'std': 10, 'low': 1, 'high': 250}
  measured = {name: np.full(3, value, np.float32) for name, value in vectors.items()} | {'correlation': np.eye(3)}
  monkeypatch.setattr(devices, 'from_process_0', lambda make: measured)
  source = ArraySource('images', np.zeros((4, 24, 24, 3), np.uint8), np.arange(4) % 2, CHANNELS, CLASSES)
  optimizer = optim.optimizer(optim.schedule('constant', learning_rate=0.1, steps=1))
  state, metadata = InitialState(small_config(), tiny()[0], optimizer, source, CHANNELS, mesh1).begin()
  assert (metadata.low, metadata.high) == ((1.0,) * 3, (250.0,) * 3)
  np.testing.assert_array_equal(pixel_statistics(state.variables())['mean'], measured['mean'])
