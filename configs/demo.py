"""Trains and evaluates a network on images that the program draws, in about a minute on two CPU cores.

make demo        or        flaxnets train --config=demo --workdir=runs/demo
"""

from ml_collections import config_dict

from flaxnets.config import default


def get_config() -> config_dict.ConfigDict:
  config = default()
  config.image_size = 32
  config.model.width = 16
  config.data.source = 'synthetic'
  config.data.train = 'train[:6000]'
  config.data.validation = 'validation[:600]'
  config.data.test = 'test[:1200]'
  config.augment.crop_scale = (0.6, 1.0)  # a smaller part may not show the shape
  config.train.epochs = 10.0
  config.train.learning_rate = 0.1
  config.train.schedule = 'onecycle'
  config.train.nesterov = True
  return config
