"""What a run refuses to be resumed with."""

import dataclasses
import pathlib

import numpy as np
import pytest

from flaxnets.channels import ChannelSet
from flaxnets.data.source import ArraySource
from flaxnets.errors import InputError
from flaxnets.inference.metadata import Metadata
from flaxnets.training.initial import InitialState, example_digests
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
