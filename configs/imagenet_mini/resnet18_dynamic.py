"""Table 1, and the left side of table 2: ResNet-18 with DynamicConv at 96 pixels.

    python train_main.py --config=configs/imagenet_mini/resnet18_dynamic.py \
        --config.data.root=/data/imagenet-mini --workdir=runs/resnet18_dynamic
    python eval_main.py --workdir=runs/resnet18_dynamic
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
  config = default.get_config()
  config.image_size = 96
  config.model.name = 'resnet18'
  config.model.stem = 'dynamic'
  config.model.completion = 'linear'
  config.presence.mode = 'hierarchical'
  return config
