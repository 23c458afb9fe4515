"""The left side of table 3: ResAttentionNet at 84 pixels, trained on RGB.

    python train_main.py --config=configs/imagenet_mini/resattention.py \
        --config.data.root=/data/imagenet-mini --workdir=runs/resattention
    python eval_main.py --workdir=runs/resattention
"""

from ml_collections import config_dict

from configs.imagenet_mini import resnet18


def get_config() -> config_dict.ConfigDict:
  config = resnet18.get_config()
  config.image_size = 84
  config.model.name = 'resattention'
  return config
