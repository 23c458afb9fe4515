"""Studies of two steps, and jobs that only pretend: they write the files of a run, with hits drawn at random."""

import json
import pathlib

import numpy as np

from flaxnets.analysis import results
from tests.small import small_config

IDS = np.array([f'image{number}' for number in range(100)])
RUNS = {
  'whole': {'model.completion': 'none', 'seed': (0, 1)},
  'linear': {'weights': 'whole', 'model.completion': 'linear'},
  'expert-R': {'model.stem': 'conv', 'model.completion': 'mean', 'train.subset': 'R', 'evaluate.subsets': 'all'},
  'broken': {'model.completion': 'cubic'},
  'needy': {'weights': 'broken'},
}
LABELS = ('RGB', 'RG', 'RB', 'GB', 'R', 'G', 'B')


def two_steps():
  """Two steps of 16 examples, all channels."""
  return small_config(
    **{
      'data.train': 'train[:32]',
      'data.validation': 'validation[:16]',
      'data.test': 'test[:40]',
      'train.batch_size': 16,
      'train.checkpoint_every': 1,
      'evaluate.every': 1000,
      'evaluate.batch_size': 40,
      'evaluate.subsets': 'RGB',
      'presence.mode': 'none',
    }
  )


def pretend(job):
  folder = pathlib.Path(job['workdir'])
  (folder / 'config.json').write_text(json.dumps(job['config']))
  (folder / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 2}\n')
  random, label = np.random.default_rng(len(job['workdir'])), np.arange(40) % 2
  labels = [job['config']['train']['subset']] if job['subsets'] == 'full' else LABELS
  predicted = {f'prediction/{name}': np.where(random.random(40) < 0.7, label, 1 - label) for name in labels}
  rows = [
    {
      'channels': name,
      'accuracy': (predicted[f'prediction/{name}'] == label).mean(),
      'macs': 1000 * len(name),
      'params': 5,
    }
    for name in labels
  ]
  scores = {'split': job['split'], 'step': 2, 'recalibrated': False, 'channels': list(labels[0])}
  scores |= {'classes': ['sea', 'wood'], 'subsets': rows}
  results.write(scores, {'id': IDS[:40], 'label': label, **predicted}, folder)


def table_of(wanted):
  return json.loads((wanted.out / 'table.json').read_text())


def eleven_bands(tmp_path, **changes):
  """A config for an .npz of eleven bands, of which all subsets are too many."""
  random, arrays = np.random.default_rng(0), {'bands': np.array([f'B{number:02}' for number in range(11)])}
  for split, count in (('train', 32), ('val', 16), ('test', 16)):
    arrays |= {
      f'X_{split}': random.integers(0, 255, (count, 16, 16, 11), np.uint8),
      f'y_{split}': np.arange(count) % 2,
    }
  np.savez(tmp_path / 'bands.npz', **arrays)
  fields = {'source': 'arrays', 'root': str(tmp_path / 'bands.npz'), 'channels': ''}
  splits = {'train': 'train', 'validation': 'val', 'test': 'test'}
  config = two_steps()
  config.update_from_flattened_dict(
    {**{f'data.{key}': value for key, value in (fields | splits).items()}, 'evaluate.subsets': 'full;B00', **changes}
  )
  return config
