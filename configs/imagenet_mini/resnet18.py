"""The right side of table 2: an ordinary ResNet-18 at 96 pixels, trained on RGB; judged on every subset all the same.

    python train_main.py --config=configs/imagenet_mini/resnet18.py \
        --config.data.root=/data/imagenet-mini --workdir=runs/resnet18
    python eval_main.py --workdir=runs/resnet18
"""

from ml_collections import config_dict

from configs.imagenet_mini import resnet18_dynamic


def get_config() -> config_dict.ConfigDict:
  config = resnet18_dynamic.get_config()
  config.model.stem = 'conv'
  config.model.completion = 'mean'  # what an absent channel is filled in with
  config.presence.mode = 'none'
  config.evaluate.subsets = 'full'  # in training, to choose the best checkpoint; eval_main.py --subsets=all
  return config
