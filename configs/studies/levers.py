"""What makes protocol S (configs/studies/rgb.py) learn faster: one change at a time, ten epochs, judged on held-out images.

    flaxnets split /data/miniimagenet50_84px runs/splits
    flaxnets study --config=studies/levers --config.data.root=/data/miniimagenet50_84px \
        --config.data.train=$PWD/runs/splits/train_tune.txt --split=$PWD/runs/splits/tune.txt --out=runs/levers
"""

from ml_collections import config_dict

from flaxnets.config import named


def get_config() -> config_dict.ConfigDict:
  config = named('studies/rgb')
  config.train.epochs = 10.0
  return config


def get_runs() -> dict[str, dict]:
  """See `flaxnets.study.runner` for the form."""
  return {
    'base': {'seed': (0, 1)},
    'crop-50': {'augment.crop_scale': (0.5, 1.0)},
    'batch-64': {'train.batch_size': 64, 'train.learning_rate': 0.1},
    'crop-35': {'augment.crop_scale': (0.35, 1.0)},
    'crop-70': {'augment.crop_scale': (0.7, 1.0)},
    'batch-32': {'train.batch_size': 32, 'train.learning_rate': 0.05},
    'smoothing-0': {'train.label_smoothing': 0.0},
    'zero-init': {'model.zero_init': True},
    'ema': {'train.ema': 0.99},
    'decay-1e-3': {'train.weight_decay': 1e-3},
    'rate-0.1': {'train.learning_rate': 0.1},
  }
