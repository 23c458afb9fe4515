"""The right side of table 3: ResNet-34 at 84 pixels, trained as ResAttentionNet is.

    python train_main.py --config=configs/imagenet_mini/resnet34.py \
        --config.data.root=/data/imagenet-mini --workdir=runs/resnet34
    python eval_main.py --workdir=runs/resnet34
"""

from ml_collections import config_dict

from configs.imagenet_mini import resattention


def get_config() -> config_dict.ConfigDict:
  config = resattention.get_config()
  config.model.name = 'resnet34'
  return config
