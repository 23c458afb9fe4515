"""The right side of table 2: an ordinary ResNet-18 at 96 pixels, trained on RGB, and evaluated on every subset.

    flaxnets train --config=imagenet_mini/resnet18 \
        --config.data.root=/data/imagenet-mini --workdir=runs/resnet18
    flaxnets eval --workdir=runs/resnet18
"""

from ml_collections import config_dict

from flaxnets.config import named


def get_config() -> config_dict.ConfigDict:
  config = named('imagenet_mini/resnet18_dynamic')
  config.model.stem = 'conv'
  config.model.completion = 'mean'  # what an absent channel is filled in with
  config.presence.mode = 'none'
  config.evaluate.subsets = 'full'  # to choose the best checkpoint in training; flaxnets eval takes all subsets anyway
  return config
