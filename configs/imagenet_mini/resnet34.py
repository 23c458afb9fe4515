"""The right side of table 3: ResNet-34 at 84 pixels, trained as ResAttentionNet is.

    flaxnets train --config=imagenet_mini/resnet34 \
        --config.data.root=/data/imagenet-mini --workdir=runs/resnet34
    flaxnets eval --workdir=runs/resnet34
"""

from ml_collections import config_dict

from flaxnets.config import named


def get_config() -> config_dict.ConfigDict:
  config = named('imagenet_mini/resattention')
  config.model.name = 'resnet34'
  return config
