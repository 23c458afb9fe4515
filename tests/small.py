"""The smallest configuration of a whole run on the embedded data, and a run that is cut."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable

import ml_collections
import numpy as np
import pytest
from PIL import Image

from flaxnets import config as configs
from flaxnets.training import loop, setup


class Cut(Exception):
  """What kills a run in the middle."""


def with_step_preceded_by(ready: setup.Setup, before: Callable[[], None]) -> setup.Setup:
  """The same run, which calls `before` ahead of each step. It still compiles the steps themselves."""

  def preceded(original):
    def step(state, batch):
      before()
      return original(state, batch)

    step.lower = original.lower
    return step

  return dataclasses.replace(ready, steps={side: preceded(step) for side, step in ready.steps.items()})


def train_and_cut(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str], steps: int) -> None:
  """Trains for some steps, and stops without saving; what was saved before is on the disk."""
  calls = itertools.count()

  def cut():
    if next(calls) == steps:
      raise Cut

  with contextlib.closing(setup.prepare(config, workdir)) as ready, pytest.raises(Cut):
    loop.train(with_step_preceded_by(ready, cut))


def save_untrained(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> None:
  """Leaves a run's folder as it is after its first checkpoint, without a step of training."""
  with contextlib.closing(setup.prepare(config, workdir)) as ready:
    meta = {'config': configs.to_json(config), 'metadata': ready.metadata.to_json(), **ready.data.digests}
    ready.checkpoints.save(1, ready.state, meta)


# What makes the config 'demo' small: three steps of 32 examples, validated on two subsets.
FIELDS = {
  'image_size': 16,
  'model.name': 'resattention',
  'model.width': 8,
  'data.train': 'train[:96]',
  'data.validation': 'validation[:40]',
  'data.test': 'test[:52]',
  'train.batch_size': 32,
  'train.epochs': 1.0,
  'train.log_every': 1,
  'train.checkpoint_every': 2,
  'evaluate.every': 2,
  'evaluate.batch_size': 32,
  'evaluate.subsets': 'RGB;R',
}


def small_config(**changes) -> ml_collections.ConfigDict:
  """The small config; `changes` are dotted names and values."""
  config = configs.named('demo')
  config.update_from_flattened_dict(FIELDS | changes)
  return config


def flags(**changes) -> list[str]:
  """The small config as flags of a command, to be given after --config=demo."""
  return [f'--config.{name}={value}' for name, value in (FIELDS | changes).items()]


def write_list(folder, split, count, bad=()):
  """JPEG files of noise in four classes, and the list of them; those in `bad` are cut short."""
  folder.mkdir(exist_ok=True)
  rng = np.random.default_rng(0)
  rows = []
  for index in range(count):
    name = f'images/{split}{index}.JPEG'
    (folder / 'images').mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (24, 30, 3), np.uint8)).save(folder / name, format='JPEG')
    if index in bad:
      (folder / name).write_bytes((folder / name).read_bytes()[:200])
    rows.append(f'{name} {index % 4}')
  (folder / f'{split}.txt').write_text('\n'.join(rows) + '\n')


def list_config(root, **changes):
  """`small_config` for what `write_list` wrote."""
  return small_config(
    **{
      'data.source': 'lists',
      'data.root': str(root),
      'data.train': 'train.txt',
      'data.validation': 'val.txt',
      'data.test': 'test.txt',
      **changes,
    }
  )
