"""EuroSAT, 13 bands of Sentinel-2 at 64 pixels, ten classes: one network, evaluated on all bands and on RGB.

    pip install '.[prepare]' tifffile
    tfds build eurosat/all --data_dir=/data/tfds --file_format=array_record
    flaxnets train --config=eurosat --config.data.root=/data/tfds --workdir=runs/eurosat
    flaxnets eval --workdir=runs/eurosat

TFDS downloads 2 GB. Preparing needs TensorFlow, training does not. The splits have the sizes of VTAB's, 16,200, 5,400
and 5,400 random images: EuroSAT has none of its own. Scores on GEO-Bench's m-eurosat (2,000 training images, another
test split) and on EuroSAT-Spatial (regions held out) are not comparable with these.

An expert for RGB: --config.train.subset=B02,B03,B04 --config.presence.mode=none. The recipe has not been run on the
whole data set; it trains on a made one in the tests.
"""

from ml_collections import config_dict

from flaxnets.config import default


def get_config() -> config_dict.ConfigDict:
  config = default()
  config.image_size = 64
  config.data.source = 'tfds'
  config.data.name = 'eurosat/all'
  config.data.train = 'train[:60%]'
  config.data.validation = 'train[60%:80%]'
  config.data.test = 'train[80%:]'
  config.augment.crop_scale = (0.5, 1.0)
  config.augment.rotation = 180.0  # a satellite image has no up
  config.augment.perspective = 0.0
  config.train.epochs = 50.0
  config.train.learning_rate = 0.1
  config.train.schedule = 'onecycle'
  config.train.nesterov = True
  config.train.weight_decay = 5e-4
  config.evaluate.subsets = 'full;B02,B03,B04'
  return config
