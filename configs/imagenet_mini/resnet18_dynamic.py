"""Table 1, and the left side of table 2: ResNet-18 with DynamicConv at 96 pixels.

    flaxnets train --config=imagenet_mini/resnet18_dynamic \
        --config.data.root=/data/imagenet-mini --workdir=runs/resnet18_dynamic
    flaxnets eval --workdir=runs/resnet18_dynamic
"""

from ml_collections import config_dict

from flaxnets.config import default


def get_config() -> config_dict.ConfigDict:
  config = default()
  config.image_size = 96
  config.model.name = 'resnet18'
  config.model.stem = 'dynamic'
  config.model.completion = 'linear'
  config.presence.mode = 'hierarchical'
  return config
