"""Every field of a config about augmentation and presence changes what the network sees in training."""

import functools

import jax
import numpy as np
import pytest

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.channels import ChannelSet

RGB, CANVAS = ChannelSet.of('RGB'), (24, 24)
DROP, LISTED = {'presence.mode': 'drop'}, {'presence.mode': 'listed', 'presence.subsets': 'full'}
# Each field's extreme value, and the fields that it has an effect with.
EXTREMES = {
  'augment.crop_scale': ((1.0, 1.0), {}),
  'augment.crop_ratio': ((0.25, 4.0), {}),
  'augment.flip': (1.0, {}),
  'augment.rotation': (180.0, {}),
  'augment.perspective': (0.5, {}),
  'augment.perspective_probability': (1.0, {}),
  'augment.brightness': (1.0, {}),
  'augment.contrast': (1.0, {}),
  'augment.noise': (1.0, {}),
  'augment.mixup': (1.0, {}),
  'augment.cutmix': (1.0, {}),
  'presence.mode': ('none', {}),
  'presence.probability': (1.0, DROP),
  'presence.subsets': ('R', LISTED),
  'presence.fill': ('black', DROP),
}
NOT_OF_TRAINING = {'augment.evaluation_resize'}


@functools.cache
def seen(fields):
  """What a step makes of a batch: images, with NaN for nothing, and masks."""
  config = configs.default()
  config.image_size = 16
  config.update_from_flattened_dict(dict(fields))
  statistics = {'mean': np.full(3, 128, np.float32), 'std': np.full(3, 74, np.float32)}
  listed = experiment.listed_subsets(config, RGB)
  view = experiment.training_view_of(config, (0, 1, 2), CANVAS, statistics, listed)
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (8, *CANVAS, 3), np.uint8),
    'size': np.full((8, 2), 30, np.int32),
    'present': np.ones((8, 3), bool),
  }
  return jax.device_get(jax.jit(view)(0, batch))


def test_every_field_has_an_extreme():
  fields = configs.default()
  found = {f'{group}.{name}' for group in ('augment', 'presence') for name in fields[group]}
  assert found == EXTREMES.keys() | NOT_OF_TRAINING


@pytest.mark.parametrize('field', EXTREMES)
def test_an_extreme_value_changes_the_images_or_what_is_present(field):
  value, base = EXTREMES[field]
  before, after = (seen(tuple(fields.items())) for fields in (base, {**base, field: value}))
  same = [np.array_equal(one, other, equal_nan=True) for one, other in zip(before, after, strict=True)]
  assert not all(same)
  assert same[1] or field.startswith('presence.')  # what is present depends on nothing else
