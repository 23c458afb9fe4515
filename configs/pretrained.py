"""An ImageNet ResNet at 224 pixels, as torchvision and timm evaluate it: the config of a converted network.

flaxnets convert resnet18.safetensors --model=resnet18 --out=runs/resnet18

The training fields are for fine-tuning on photos of your own, from a network with as many classes:

flaxnets convert resnet18.safetensors --model=resnet18 --num_classes=10 --out=runs/start
flaxnets train --config=pretrained --config.train.init_from=runs/start --config.data.root=R --workdir=runs/tuned
"""

from ml_collections import config_dict

from flaxnets.config import default


def get_config() -> config_dict.ConfigDict:
  config = default()
  config.image_size = 224
  config.augment.evaluation_resize = 256 / 224  # the shorter side is 256 pixels before the central crop
  config.model.completion = 'unit'  # for networks that were trained on all channels; see docs/bands.md
  config.evaluate.batch_size = 64
  config.train.learning_rate = 0.01
  config.train.schedule = 'cosine'
  config.train.epochs = 10.0
  return config
