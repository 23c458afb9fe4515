"""The fields of a config, their defaults and ranges, and how config files are found by name.

Batch size, epochs and the drops of the learning rate are those of the paper that flaxnets implements (docs/paper.md);
the other defaults are ours (docs/design.md). presence.mode=drop is closest to the paper's sampling of channels.
"""

from __future__ import annotations

import json
import math
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from flaxnets.errors import InputError

MAX_SIDE = 4096  # of the network's input, pixels: a batch of one is then 192 MiB
PAIRS = ('crop_scale', 'crop_ratio')
READING = ('root', 'threads', 'workers', 'on_bad_image')  # fields of data that may change when a run is resumed
AMOUNTS = ('rotation', 'perspective', 'brightness', 'contrast', 'noise', 'mixup', 'cutmix', 'evaluation_resize')


def default() -> config_dict.ConfigDict:
  """A config with every field at its default, locked: assigning an unknown field is an error."""
  config = config_dict.ConfigDict()
  config.seed = 0  # seed of all random numbers: weights, order, augmentation, channel sampling, channel statistics
  config.image_size = 96  # side of the network's input, pixels

  config.model = model = config_dict.ConfigDict()
  model.name = 'resnet18'  # architecture: resnet18 | resnet34 | resnet50 | resattention
  model.stem = 'dynamic'  # first layer: dynamic (DynamicConv) | conv (ordinary convolution, absent channels filled in)
  model.completion = (
    'linear'  # how absent channels are treated; dynamic: none | scale | linear | unit; conv: mean | black | gray
  )
  model.width = 64  # features of the first convolution, a multiple of 8; all other widths are multiples of it
  model.small_images = False  # whether the stem is 3 x 3, stride 1, without pooling; for inputs below about 48 pixels
  model.zero_init = False  # whether the last BatchNorm scale of every residual branch starts at zero
  model.mask = 'spatial'  # mask branch of resattention: spatial | self_attention | squeeze_excite
  model.norm = 'batch'  # normalisation: batch | group
  model.dtype = 'float32'  # dtype of activations: float32 | bfloat16; parameters and statistics stay float32

  config.data = data = config_dict.ConfigDict()
  data.source = 'lists'  # kind of source: lists | folders | arrays | tfds | synthetic
  data.root = ''  # folder of the splits; arrays: an .npz file, or a folder of .npy or .npz files; tfds: its data_dir
  data.name = 'imagenet_mini'  # tfds: data set as name[/config][:version]
  data.features = ''  # tfds: features that hold the pixels, such as 'sentinel1,sentinel2'; '' for the data set's own
  # A split is, for lists: a file of `path label` lines; folders: a folder with one folder per class; arrays: the text
  # that replaces {split} in the keys below, or an .npz file in root; tfds and synthetic: text such as train[:90%].
  # Only lists have '.txt'; for other sources it is ignored, so that the defaults mean train, val and test.
  data.train = 'train.txt'  # split to train on
  data.validation = 'val.txt'  # split to validate on during training
  data.test = 'test.txt'  # split that `flaxnets eval` uses by default
  data.channels = ''  # channels to use, such as 'B02,B03,B08'; '' for all that the files name, and RGB of photos
  data.bands = ''  # image files, tfds tensors: names of all bands in order; '' for those of the file or data set
  data.nodata = ''  # TIFFs, .npy: the value that means no data, such as '0'; '' for what the files declare
  data.missing_pixels = 'error'  # TIFFs, .npy: action on single pixels without data: error | mean (of the image's band)
  data.wavelengths = ()  # centre wavelengths in nanometres, one per channel, stored with the weights; () if unknown
  data.classes = ''  # file of class names, one per line, in the order of labels; '' for the names that the source has
  data.image_key = 'X_{split}'  # arrays: name of the images in the .npz file
  data.label_key = 'y_{split}'  # arrays: name of the labels; '' for images without labels (flaxnets adapt)
  data.channels_key = 'bands'  # arrays: name of the channel names
  data.classes_key = 'classes'  # arrays: name of the class names
  data.present_key = 'present_{split}'  # arrays: name of the mask of the channels that each image has
  data.canvas = 0  # side of the decoded images before augmentation, pixels; 0 for 1.5 x image_size
  data.on_bad_image = 'error'  # action on an unreadable image: error | skip
  data.threads = 0  # decoding threads per host; 0 for one per core
  data.workers = 0  # decoding processes per host in training; 0 for threads only
  data.statistics_examples = 2000  # training images that the mean, deviation and correlation of channels come from

  config.augment = augment = config_dict.ConfigDict()
  augment.crop_scale = (0.25, 1.0)  # random resized crop: range of its share of the image's area
  augment.crop_ratio = (3 / 4, 4 / 3)  # random resized crop: range of width / height
  augment.flip = 0.5  # probability of a left-right flip
  augment.rotation = 10.0  # largest rotation in either direction, degrees
  augment.perspective = 0.2  # largest inward shift of each corner, as a share of half the side
  augment.perspective_probability = 0.5  # probability of a perspective change
  augment.brightness = 0.0  # largest shift of each channel, in its standard deviations; 0 for none
  augment.contrast = 0.0  # largest relative change of each channel's contrast, up to 1; 0 for none
  augment.noise = 0.0  # largest standard deviation of each channel's noise, in its standard deviations; 0 for none
  augment.mixup = 0.0  # mixup: a of Beta(a, a), which the weight of the other example is drawn from; 0 for none
  augment.cutmix = 0.0  # cutmix: a of Beta(a, a), which the area of the other example's box is drawn from; 0 for none
  augment.evaluation_resize = 1.0  # evaluation: shorter side / image_size before the central crop, 1 or more

  config.presence = presence = config_dict.ConfigDict()
  # Sampling of channels in training: none | drop | hierarchical | listed | full_and_random, and with several passes per
  # step pair (2) | sandwich (3).
  presence.mode = 'hierarchical'
  presence.probability = 0.5  # drop, full_and_random: probability that an example loses channels
  presence.subsets = ''  # listed: subsets to draw each example's channels from, such as 'full;B02,B03,B04;B08'
  presence.fill = 'absent'  # drop: dropped channels are absent | black (zeros that count as present) | either (50:50)

  config.train = train = config_dict.ConfigDict()
  train.batch_size = 64  # examples per step over all devices and hosts
  train.epochs = 30.0  # passes through the training split
  # Sides of the training images in pixels, each for an equal share of the steps, such as (32, 40, 48); () for
  # image_size throughout. Smaller images cost less. Evaluation sees image_size. Not together with train.patience.
  train.image_sizes = ()
  train.subset = ''  # subset that an expert network is trained and evaluated on, such as 'R'; '' for all channels
  train.init_from = ''  # folder of a run with the same network whose weights this one starts from; '' for random ones
  train.frozen = ''  # layers to freeze: trunk (all but the head) | body (all but stem and head) | '' (nothing)
  train.freeze_statistics = False  # whether BatchNorm uses, and keeps, the statistics that the run begins with
  train.layer_decay = 1.0  # factor of the learning rate for every block further from the head; 1 for one rate
  train.learning_rate = 0.05  # highest learning rate of the schedule
  train.schedule = 'piecewise'  # learning-rate schedule: piecewise | cosine | onecycle | constant
  train.drops = (0.5, 0.75, 0.85)  # piecewise: shares of all steps after which the rate drops
  train.drop_factor = 0.1  # piecewise: factor of each drop
  train.warmup_epochs = 0.0  # epochs over which the rate rises linearly from zero
  train.momentum = 0.9  # momentum of SGD, from 0 to below 1
  train.nesterov = False  # whether to use Nesterov momentum
  train.weight_decay = 1e-4  # weight decay of kernels; biases and scales have none
  train.label_smoothing = 0.0  # share of each label that is spread over all classes
  train.class_weights = ''  # weights of classes in the loss: balanced (n / (K n_k) for K classes) | '' (all 1)
  train.clip_norm = 0.0  # maximum norm of the gradient of all parameters; 0 for no clipping
  train.accumulate = 1  # microbatches per batch, to save memory; BatchNorm normalises each microbatch separately
  train.ema = 0.0  # decay of the running average of weights and statistics, which is then evaluated; 0 for none
  train.recalibrate = False  # whether to re-estimate BatchNorm statistics per subset at the end, where that helps
  train.patience = 0  # validations without improvement after which training stops early; 0 for never
  train.max_loss = 1e4  # a step with a loss above this, or with one that is not finite, is skipped
  train.max_skipped = 50  # skipped steps in a row after which the run ends with exit code 1
  train.log_every = 20  # steps per line of metrics.jsonl
  train.checkpoint_every = 0  # steps between checkpoints; 0 for once an epoch

  config.evaluate = evaluate = config_dict.ConfigDict()
  evaluate.every = 0  # steps between validations; 0 for once an epoch
  # Subsets to validate on, separated by ';': 'all', 'full', 'singles', 'pairs', 'RG', 'size>=2', 'sample:64'.
  evaluate.subsets = 'all'
  evaluate.batch_size = 256  # examples per step of validation and evaluation
  return config.lock()  # so that a misspelt field is an error, in other config files too


def named(name: str) -> config_dict.ConfigDict:
  """The config of a config file, as a base for another: `config = named('imagenet_mini/resnet18')`.

  Raises:
    InputError: if there is no such file.
  """
  return runpy.run_path(str(path_of(name)))['get_config']()


def path_of(name: str) -> pathlib.Path:
  """The config file with a name: the path of a file, or a name in configs/, with or without '.py', such as 'demo'.

  A name without a folder and without '.py' is one of configs/ first, whatever the current folder holds.

  Raises:
    InputError: if there is no such file.
  """
  path, ours = pathlib.Path(name), [folder() / name, folder() / f'{name}.py']
  bare = path.name == name and path.suffix != '.py'
  for candidate in [*ours, path] if bare else [path, *ours]:
    if candidate.is_file():
      return candidate
  known = sorted(str(path.relative_to(folder()).with_suffix('')) for path in folder().rglob('*.py'))
  raise InputError(f'no config {name!r}; give the path of a file or one of {", ".join(known)}')


def folder() -> pathlib.Path:
  """The folder of the project's config files: flaxnets/configs if installed from a wheel, configs/ in a checkout."""
  package = pathlib.Path(__file__).parent
  installed = package / 'configs'
  return installed if installed.is_dir() else package.parent / 'configs'


def check(config: config_dict.ConfigDict) -> None:
  """Checks values that would otherwise cause an error late in a run or never.

  Raises:
    InputError: naming the field, its value and the range.
  """
  for name, value in flattened(config).items():
    if value is None:
      raise InputError(f'{name} is None; every field needs a value, see flaxnets/config.py')
  train, data, augment = config.train, config.data, config.augment
  for name, value, fits, allowed in (
    ('seed', config.seed, 0 <= config.seed < 2**32, '0 to 2^32 - 1'),
    ('data.canvas', data.canvas, data.canvas >= 0, '0 or more'),
    ('image_size', config.image_size, 0 < config.image_size <= MAX_SIDE, f'above 0 and at most {MAX_SIDE:,}'),
    ('train.batch_size', train.batch_size, train.batch_size > 0, '1 or more'),
    ('evaluate.batch_size', config.evaluate.batch_size, config.evaluate.batch_size > 0, '1 or more'),
    ('train.epochs', train.epochs, 0 < train.epochs < math.inf, 'above 0 and finite'),
    ('train.learning_rate', train.learning_rate, 0 < train.learning_rate < math.inf, 'above 0 and finite'),
    ('train.weight_decay', train.weight_decay, 0 <= train.weight_decay < math.inf, '0 or more and finite'),
    ('train.drop_factor', train.drop_factor, 0 < train.drop_factor <= 1, 'above 0 and at most 1'),
    ('train.momentum', train.momentum, train.momentum > 0 or not train.nesterov, 'above 0 with train.nesterov'),
    ('train.clip_norm', train.clip_norm, train.clip_norm >= 0, '0 or more'),
    (
      'train.drops',
      train.drops,
      all(isinstance(share, int | float) for share in train.drops),
      'numbers, as (0.5, 0.75)',
    ),
    ('train.accumulate', train.accumulate, train.accumulate > 0, '1 or more'),
    ('train.patience', train.patience, train.patience >= 0, '0 or more'),
    ('train.class_weights', repr(train.class_weights), train.class_weights in ('', 'balanced'), "'' or 'balanced'"),
    ('train.max_loss', train.max_loss, train.max_loss > 0, 'above 0'),
    ('train.max_skipped', train.max_skipped, train.max_skipped > 0, '1 or more'),
    ('train.log_every', train.log_every, train.log_every > 0, '1 or more'),
    ('train.checkpoint_every', train.checkpoint_every, train.checkpoint_every >= 0, '0 or more'),
    ('train.warmup_epochs', train.warmup_epochs, 0 <= train.warmup_epochs < math.inf, '0 or more and finite'),
    ('train.label_smoothing', train.label_smoothing, 0 <= train.label_smoothing < 1, 'from 0 to below 1'),
    ('train.ema', train.ema, 0 <= train.ema < 1, 'from 0 to below 1'),
    *((f'augment.{name}', augment[name], _is_pair(augment[name]), 'two numbers, as (0.5, 1.0)') for name in PAIRS),
    *((f'augment.{name}', augment[name], math.isfinite(augment[name]), 'a number') for name in AMOUNTS),
    (
      'data.wavelengths',
      data.wavelengths,
      all(value is None or (isinstance(value, int | float) and 0 < value < math.inf) for value in data.wavelengths),
      'numbers above 0, in nanometres, or None where unknown',
    ),
    ('data.statistics_examples', data.statistics_examples, data.statistics_examples > 0, '1 or more'),
    ('data.threads', data.threads, data.threads >= 0, '0 or more'),
    ('data.workers', data.workers, data.workers >= 0, '0 or more'),
    ('data.on_bad_image', repr(data.on_bad_image), data.on_bad_image in ('error', 'skip'), "'error' or 'skip'"),
    ('augment.evaluation_resize', config.augment.evaluation_resize, config.augment.evaluation_resize >= 1, '1 or more'),
    ('presence.probability', config.presence.probability, 0 <= config.presence.probability <= 1, 'from 0 to 1'),
    ('evaluate.every', config.evaluate.every, config.evaluate.every >= 0, '0 or more'),
  ):
    if not fits:
      raise InputError(f'{name} is {value}; it must be {allowed}')


def _is_pair(value: Any) -> bool:
  return len(value) == 2 and all(isinstance(number, int | float) for number in value)


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """The config as JSON values, as stored in config.json and checkpoints."""
  return json.loads(config.to_json())


def flattened(config: Mapping[str, Any] | config_dict.ConfigDict, prefix: str = '') -> dict[str, Any]:
  """The fields of nested groups by their dotted names, such as 'data.root'."""
  found: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping | config_dict.ConfigDict):
      found |= flattened(value, f'{prefix}{name}.')
    else:
      found[prefix + name] = value
  return found


def batch_sizes(config: Mapping[str, Any] | config_dict.ConfigDict) -> list[int]:
  """How many examples devices share at a time: of a microbatch in training, and of a batch in evaluation."""
  train = config['train']
  return [train['batch_size'] // max(train['accumulate'], 1), config['evaluate']['batch_size']]


def canvas_side(config: Mapping[str, Any] | config_dict.ConfigDict) -> int:
  """Side of the canvas that encoded images are decoded to, in pixels; also of a stored config without data.canvas."""
  return config['data'].get('canvas') or round(1.5 * config['image_size'])


def split_of(data: Mapping[str, Any] | config_dict.ConfigDict, name: str) -> str:
  """The split that the `data` fields give for 'train', 'validation' (or 'val') and 'test'; any other name stays."""
  field = {'val': 'validation'}.get(name, name)
  return data[field] if field in ('train', 'validation', 'test') else name


def from_json(fields: Mapping[str, Any]) -> config_dict.ConfigDict:
  """A stored config. Fields that were added after it was stored have their current defaults.

  Raises:
    InputError: naming the fields that this version does not know, or one whose value has another type.
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


def _assign(config: config_dict.ConfigDict, fields: Mapping[str, Any], prefix: str = '') -> None:
  for key, value in fields.items():
    if isinstance(value, Mapping):
      _assign(config[key], value, f'{prefix}{key}.')
      continue
    try:
      config[key] = tuple(value) if isinstance(value, list) else value
    except TypeError:
      kind = type(config[key]).__name__
      raise InputError(f'the stored config has {prefix}{key}={value!r}; it must be of type {kind}') from None
