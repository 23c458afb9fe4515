"""The smallest configuration of a whole run on the embedded data, and a run that is cut."""

import itertools
import os

import ml_collections
import pytest

from flaxnets import config as configs
from flaxnets.training import loop


class Cut(Exception):
  """What kills a run in the middle."""


def train_and_cut(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str], steps: int) -> None:
  """Trains for some steps, and stops without saving; what was saved before is on the disk."""
  run, calls = loop.Trainer(config, workdir), itertools.count()
  step = run.step

  def cut(state, batch):
    if next(calls) == steps:
      raise Cut
    return step(state, batch)

  run.step = cut
  with pytest.raises(Cut):
    run.train()
  run.checkpoints.close()


def small_config(**changes) -> ml_collections.ConfigDict:
  """Three steps of 32 examples, validated on two subsets; `changes` are dotted names and values."""
  config = configs.named('demo')
  config.image_size = 16
  config.model.width = 8
  config.data.train = 'train[:96]'
  config.data.validation = 'validation[:40]'
  config.data.test = 'test[:52]'
  config.train.batch_size = 32
  config.train.epochs = 1.0
  config.train.log_every = 1
  config.train.checkpoint_every = 2
  config.evaluate.every = 2
  config.evaluate.batch_size = 32
  config.evaluate.subsets = 'RGB;R'
  config.update_from_flattened_dict(changes)
  return config
