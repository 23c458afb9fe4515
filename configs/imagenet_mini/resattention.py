"""The left side of table 3: ResAttentionNet at 84 pixels, trained on RGB.

    flaxnets train --config=imagenet_mini/resattention \
        --config.data.root=/data/imagenet-mini --workdir=runs/resattention
    flaxnets eval --workdir=runs/resattention
"""

from ml_collections import config_dict

from flaxnets.config import named


def get_config() -> config_dict.ConfigDict:
  config = named('imagenet_mini/resnet18')
  config.image_size = 84
  config.model.name = 'resattention'
  return config
