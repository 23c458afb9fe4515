"""Every field of a config with its default, the range of its values, and the way from a name to a config file.

The paper gives batch size, epochs and the drops of the learning rate; the other defaults are ours (docs/design.md).
The nearest to the paper's sampling of channels is presence.mode=drop.
"""

from __future__ import annotations

import json
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from flaxnets.errors import InputError


def default() -> config_dict.ConfigDict:
  """A config with every field at its default, locked: assigning an unknown field is an error."""
  config = config_dict.ConfigDict()
  config.seed = 0  # of everything random: weights, order, augmentation, subsets
  config.image_size = 96  # side of the network's input, pixels

  config.model = model = config_dict.ConfigDict()
  model.name = 'resnet18'  # resnet18 | resnet34 | resnet50 | resattention
  model.stem = 'dynamic'  # dynamic (DynamicConv) | conv (an ordinary convolution, absent channels filled in)
  model.completion = 'linear'  # dynamic: none | scale | linear; conv: mean | black | gray
  model.width = 64  # features of the first convolution; all others follow
  model.small_images = False  # 3 x 3 stem of stride 1 and no max pooling, for inputs under about 48 pixels
  model.zero_init = False  # zero-initialise the last BatchNorm scale of every residual branch
  model.mask = 'spatial'  # resattention's mask branch: spatial | self_attention | squeeze_excite
  model.norm = 'batch'  # batch | group
  model.dtype = 'float32'  # of activations: float32 | bfloat16; parameters and statistics stay float32

  config.data = data = config_dict.ConfigDict()
  data.source = 'lists'  # lists | folders | arrays | tfds | synthetic
  data.root = ''  # folder that the splits below lie in (tfds: its data_dir)
  data.name = 'imagenet_mini'  # tfds: name[/config][:version]
  data.train = 'train.txt'  # lists: a file of `path label`; folders: a folder with one folder a class; arrays: what
  data.validation = 'val.txt'  # {split} below becomes; tfds: a split such as train[:90%]; synthetic: train[:4000]
  data.test = 'test.txt'
  data.channels = 'RGB'  # names, 'RGB' or 'B02,B03,B08'; '' takes those that an .npz holds
  data.wavelengths = ()  # centre wavelengths in nanometres, one a channel, kept with the weights; or nothing
  data.classes = ''  # a file of class names, one a line, in the order of labels; '' takes what the source has
  data.image_key = 'X_{split}'  # arrays: names in the .npz; {split} becomes train, val or test
  data.label_key = 'y_{split}'
  data.channels_key = 'bands'
  data.classes_key = 'classes'
  data.present_key = 'present_{split}'
  data.canvas = 0  # side of the decoded image that the host hands over, pixels; 0 for 1.5 x image_size
  data.on_bad_image = 'error'  # error | skip: what an unreadable file does
  data.threads = 0  # that decode, per host; 0 for one a core
  data.workers = 0  # processes that decode in place of threads, per host
  data.statistics_examples = 2000  # training images that channel mean, deviation and correlation come from

  config.augment = augment = config_dict.ConfigDict()
  augment.crop_scale = (0.25, 1.0)  # random resized crop: smallest and largest share of the image's area
  augment.crop_ratio = (3 / 4, 4 / 3)  # random resized crop: smallest and largest width over height
  augment.flip = 0.5  # probability of a left-right flip
  augment.rotation = 10.0  # largest rotation in either direction, degrees
  augment.perspective = 0.2  # largest shift of each corner inwards, as a share of half the side
  augment.perspective_probability = 0.5  # probability that corners are shifted
  augment.brightness = 0.0  # largest shift of each channel, in its standard deviations; 0: off
  augment.contrast = 0.0  # largest relative change of each channel's contrast, up to 1; 0: off
  augment.noise = 0.0  # largest standard deviation of noise in each channel, in its standard deviations; 0: off
  augment.mixup = 0.0  # mixup: weight of another example from Beta(mixup, mixup); 0: off
  augment.cutmix = 0.0  # cutmix: area of a box from another example from Beta(cutmix, cutmix); 0: off
  augment.evaluation_resize = 1.0  # evaluation: shorter side to image_size x this, then the centre

  config.presence = presence = config_dict.ConfigDict()
  presence.mode = 'hierarchical'  # none | drop | hierarchical | full_and_random | pair, sandwich (2, 3 passes a step)
  presence.probability = 0.5  # drop, full_and_random: the share of examples that lose channels
  presence.fill = 'absent'  # drop: absent (left out) | black (raw zeros that count as present) | either (even odds)

  config.train = train = config_dict.ConfigDict()
  train.batch_size = 64  # examples per step, over all devices and hosts
  train.epochs = 30.0  # passes through the training split
  train.subset = ''  # the one subset that an expert trains and evaluates on, such as 'R'; '' for all channels
  train.init_from = ''  # folder of a run with the same network whose weights this one starts from; '' for random ones
  train.learning_rate = 0.05  # the highest rate of the schedule
  train.schedule = 'piecewise'  # piecewise | cosine | onecycle | constant
  train.drops = (0.5, 0.75, 0.85)  # piecewise: shares of all steps after which the rate drops
  train.drop_factor = 0.1  # piecewise: factor of each drop
  train.warmup_epochs = 0.0  # epochs over which the rate rises linearly from zero
  train.momentum = 0.9  # of SGD, from 0 to below 1
  train.nesterov = False  # whether the momentum is Nesterov's
  train.weight_decay = 1e-4  # applies to kernels only, not to biases and scales
  train.label_smoothing = 0.0  # share of each label that is spread over all classes
  train.class_weights = ''  # balanced: an example of class k counts n / (K n_k) in the loss; '': all count 1
  train.clip_norm = 0.0  # maximum norm of the gradient of all parameters; 0 for no clipping
  train.accumulate = 1  # microbatches that a batch is split into, to save memory; BatchNorm sees one microbatch
  train.ema = 0.0  # decay of a running average of weights and statistics, which is then evaluated; 0 for none
  train.recalibrate = False  # at the end: BatchNorm statistics for each of evaluate.subsets, where they help
  train.patience = 0  # validations in a row without a better accuracy after which the run stops; 0 for never
  train.log_every = 20  # steps per line of metrics.jsonl
  train.checkpoint_every = 0  # steps between checkpoints; 0 for once an epoch

  config.evaluate = evaluate = config_dict.ConfigDict()
  evaluate.every = 0  # steps between validations; 0 for once an epoch
  evaluate.subsets = (
    'all'  # subsets to validate on: 'all', 'RG', 'singles', 'size>=2', 'sample:64'; several with ';' between
  )
  evaluate.batch_size = 256  # examples per step of validation and evaluation
  return config.lock()  # a field that is not above is a slip, in other config files too


def named(name: str) -> config_dict.ConfigDict:
  """The config in a file of configs/, to start another one from: `config = named('imagenet_mini/resnet18')`.

  Raises:
    InputError: if there is no such file.
  """
  return runpy.run_path(str(path_of(name)))['get_config']()


def path_of(name: str) -> pathlib.Path:
  """The config file of a name: a path to a file, or a name in configs/ with or without '.py', such as 'demo'.

  Raises:
    InputError: if there is no such file.
  """
  candidates = [pathlib.Path(name), folder() / name, folder() / f'{name}.py']
  for candidate in candidates:
    if candidate.is_file():
      return candidate
  there = sorted(str(path.relative_to(folder()).with_suffix('')) for path in folder().rglob('*.py'))
  raise InputError(f'no config {name!r}; give the path of a file, or one of {", ".join(there)}')


def folder() -> pathlib.Path:
  """Where the project's config files are: flaxnets/configs if installed from a wheel, configs/ in a checkout."""
  package = pathlib.Path(__file__).parent
  installed = package / 'configs'
  return installed if installed.is_dir() else package.parent / 'configs'


def check(config: config_dict.ConfigDict) -> None:
  """Checks the values that would otherwise fail late, or never.

  Raises:
    InputError: naming the field, its value and the range.
  """
  train = config.train
  for name, value, fits, allowed in (
    ('seed', config.seed, config.seed >= 0, '0 or more'),
    ('image_size', config.image_size, config.image_size > 0, 'above 0'),
    ('train.epochs', train.epochs, train.epochs > 0, 'above 0'),
    ('train.accumulate', train.accumulate, train.accumulate > 0, '1 or more'),
    ('train.patience', train.patience, train.patience >= 0, '0 or more'),
    ('train.class_weights', repr(train.class_weights), train.class_weights in ('', 'balanced'), "'' or 'balanced'"),
    ('train.log_every', train.log_every, train.log_every > 0, '1 or more'),
    ('train.checkpoint_every', train.checkpoint_every, train.checkpoint_every >= 0, '0 or more'),
    ('train.warmup_epochs', train.warmup_epochs, train.warmup_epochs >= 0, '0 or more'),
    ('train.label_smoothing', train.label_smoothing, 0 <= train.label_smoothing < 1, 'from 0 to below 1'),
    ('train.ema', train.ema, 0 <= train.ema < 1, 'from 0 to below 1'),
    ('augment.evaluation_resize', config.augment.evaluation_resize, config.augment.evaluation_resize >= 1, '1 or more'),
    ('presence.probability', config.presence.probability, 0 <= config.presence.probability <= 1, 'from 0 to 1'),
    ('evaluate.every', config.evaluate.every, config.evaluate.every >= 0, '0 or more'),
  ):
    if not fits:
      raise InputError(f'{name} is {value}; it is {allowed}')


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """The config as plain JSON values, as config.json and checkpoints hold it."""
  return json.loads(config.to_json())


def from_json(fields: Mapping[str, Any]) -> config_dict.ConfigDict:
  """A stored config, with today's default for every field that it lacks because it is older than the field.

  Raises:
    InputError: naming the fields that this version does not know.
  """
  config = default()
  unknown = sorted(_unknown(fields, config))
  if unknown:
    raise InputError(
      f'the stored config has fields that this version of flaxnets does not know: {", ".join(unknown)}; '
      'use the version that stored it'
    )
  _assign(config, fields)
  return config


def _unknown(fields: Mapping[str, Any], config: config_dict.ConfigDict, prefix: str = '') -> list[str]:
  found = []
  for key, value in fields.items():
    if key not in config or isinstance(config[key], config_dict.ConfigDict) != isinstance(value, Mapping):
      found.append(f'{prefix}{key}')
    elif isinstance(value, Mapping):
      found += _unknown(value, config[key], f'{prefix}{key}.')
  return found


def _assign(config: config_dict.ConfigDict, fields: Mapping[str, Any]) -> None:
  for key, value in fields.items():
    if isinstance(value, Mapping):
      _assign(config[key], value)
    else:
      config[key] = tuple(value) if isinstance(value, list) else value
