"""The paper's tables 1 to 3 in one study: this folder's four networks, and the first also trained as there.

    flaxnets study --config=imagenet_mini/tables --config.data.root=/data/imagenet-mini \
        --out=runs/tables

Rerun the command to continue an interrupted study. On a GPU, larger batches with a learning rate to match are likely
faster; no run was made on one: --config.train.batch_size=256 --config.train.learning_rate=0.2
--config.model.dtype=bfloat16.
"""

from ml_collections import config_dict

from flaxnets.config import named

PLAIN = {'model.stem': 'conv', 'model.completion': 'mean', 'presence.mode': 'none', 'evaluate.subsets': 'full'}


def get_config() -> config_dict.ConfigDict:
  return named('imagenet_mini/resnet18_dynamic')


def get_runs() -> dict[str, dict]:
  """Tables 1 and 2 compare the first two and the last, table 3 the others; see `flaxnets.study.runner` for the form."""
  return {
    'resnet18_dynamic': {},
    'resnet18': PLAIN,
    'resattention': {**PLAIN, 'image_size': 84, 'model.name': 'resattention'},
    'resnet34': {**PLAIN, 'image_size': 84, 'model.name': 'resnet34'},
    # The paper's SelectiveChannelDrop in place of hierarchical sampling.
    'resnet18_dynamic_drop': {'presence.mode': 'drop', 'presence.fill': 'either'},
  }
