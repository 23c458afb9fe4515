"""Protocol S: one network for the seven subsets of RGB, seven experts, and naive ways to fill in channels. For CPUs.

    flaxnets study --config=studies/rgb --config.data.root=/data/miniimagenet50_84px \
        --root=/data/miniimagenet50_84px_test5k --split=test5k.txt --out=runs/rgb

Each run is twenty epochs of ResNet-18, width 32, at 56 pixels, unless it says otherwise. Choose settings on 2,000
images held out of `train`, 40 per class, and evaluate on the test split only what was chosen. The first command below
writes train_tune.txt and tune.txt, and the second tunes with them:

    flaxnets split /data/miniimagenet50_84px runs/splits
    flaxnets study --config=studies/rgb --config.data.root=/data/miniimagenet50_84px \
        --config.data.train=$PWD/runs/splits/train_tune.txt --split=$PWD/runs/splits/tune.txt --out=runs/rgb_tune
"""

from ml_collections import config_dict

from flaxnets.config import default

RGB_ONLY = {'presence.mode': 'none'}
CONV = {'model.stem': 'conv', 'model.completion': 'mean'}
SEEDS = (0, 1)


def get_config() -> config_dict.ConfigDict:
  """The shared part; with nothing changed it is hierarchical-linear."""
  config = default()
  config.image_size = 56
  config.model.name = 'resnet18'
  config.model.width = 32
  config.model.stem = 'dynamic'
  config.model.completion = 'linear'
  config.presence.mode = 'hierarchical'
  config.augment.rotation = 0.0
  config.augment.perspective = 0.0
  config.augment.perspective_probability = 0.0
  config.train.batch_size = 128
  config.train.epochs = 20.0
  config.train.learning_rate = 0.2
  config.train.schedule = 'onecycle'
  config.train.momentum = 0.9
  config.train.nesterov = True
  config.train.weight_decay = 5e-4
  config.train.label_smoothing = 0.1
  config.evaluate.every = 10**9  # only at the end: the last weights are evaluated, none are chosen by 450 images
  return config


def get_runs() -> dict[str, dict]:
  """The runs, the most informative first; see `flaxnets.study.runner` for the form."""
  runs = {
    'hierarchical-linear': {'seed': SEEDS},
    'hierarchical-linear-x2': {'train.epochs': 40.0},  # twice the budget of an expert, two sevenths of seven
    'hierarchical-linear-x4': {'train.epochs': 80.0},
    # With all channels present, every stem and completion is the same function: the networks below share one training.
    'rgb-linear': {**RGB_ONLY, 'seed': SEEDS},
    'rgb-scale': {**RGB_ONLY, 'model.completion': 'scale', 'weights': 'rgb-linear'},
    'rgb-none': {**RGB_ONLY, 'model.completion': 'none', 'weights': 'rgb-linear'},
  }
  for fill in ('mean', 'black', 'gray'):
    runs[f'conv-{fill}'] = {**RGB_ONLY, **CONV, 'model.completion': fill, 'weights': 'rgb-linear'}
  runs['expert-RGB'] = {**RGB_ONLY, **CONV, 'train.subset': 'RGB', 'seed': SEEDS, 'weights': 'rgb-linear'}
  for subset in ('RG', 'R', 'RB', 'GB', 'G', 'B'):
    seeds = {'seed': SEEDS} if subset in ('RG', 'R') else {}
    runs[f'expert-{subset}'] = {**RGB_ONLY, **CONV, 'train.subset': subset, **seeds}
  # Several passes a step: a half or a third of the epochs for the same budget; then all of them (-x2, -x3).
  for mode, passes in (('pair', 2), ('sandwich', 3)):
    runs[mode] = {'presence.mode': mode, 'train.epochs': 20.0 / passes}
    runs[f'{mode}-x{passes}'] = {'presence.mode': mode}
  runs['hierarchical-none'] = {'model.completion': 'none'}
  runs['full-and-random-linear'] = {'presence.mode': 'full_and_random'}
  runs['channel-dropout'] = {**CONV, 'presence.mode': 'drop', 'presence.fill': 'absent'}
  # SelectiveChannelDrop in black; evaluated with absent channels left out, and with them black as in training.
  black = {'presence.mode': 'drop', 'presence.fill': 'black'}
  runs['black-drop'] = {**black, 'model.completion': 'none'}
  runs['black-drop-filled'] = {**black, **CONV, 'model.completion': 'black', 'weights': 'black-drop'}
  for name in ('resnet34', 'resattention'):
    runs[f'{name}-rgb'] = {**RGB_ONLY, **CONV, 'model.name': name}
  return runs
