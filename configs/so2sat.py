"""So2Sat LCZ42, 8 channels of Sentinel-1 and 10 of Sentinel-2 at 32 pixels, 17 local climate zones.

    pip install '.[prepare]' h5py
    tfds build so2sat/all --data_dir=/data/tfds --file_format=array_record
    flaxnets train --config=so2sat --config.data.root=/data/tfds --workdir=runs/so2sat
    flaxnets eval --workdir=runs/so2sat --step=latest

TFDS downloads some 50 GB. Preparing needs TensorFlow, training does not. This is the city split (the first version of
the data set: 352,366 training images, and 24,119 of other cities as the test split, which TFDS calls 'validation').
The literature trains on 18 channels and reports top-1 accuracy on all of them and on Sentinel-1 alone. The published
rows train on every training image; this config keeps 5 % of them to watch the run, which come from the training
cities and say little about other cities. Hence --step=latest: no checkpoint is chosen by the test split.

Sentinel-1 alone: --config.data.features=sentinel1 --config.evaluate.subsets=full. The recipe has not been run on the
whole data set; it trains on a made one in the tests.
"""

from ml_collections import config_dict

from flaxnets.config import default
from flaxnets.data.bands import SO2SAT_SENTINEL1, SO2SAT_SENTINEL2


def get_config() -> config_dict.ConfigDict:
  config = default()
  config.image_size = 32
  config.model.small_images = True
  config.data.source = 'tfds'
  config.data.name = 'so2sat/all'
  config.data.train = 'train[5%:]'
  config.data.validation = 'train[:5%]'
  config.data.test = 'validation'
  config.augment.crop_scale = (0.5, 1.0)
  config.augment.rotation = 180.0  # a satellite image has no up
  config.augment.perspective = 0.0
  config.train.batch_size = 128
  config.train.epochs = 30.0
  config.train.learning_rate = 0.1
  config.train.schedule = 'onecycle'
  config.train.nesterov = True
  config.train.weight_decay = 5e-4
  config.evaluate.subsets = f'full;{",".join(SO2SAT_SENTINEL1)};{",".join(SO2SAT_SENTINEL2)}'
  return config
