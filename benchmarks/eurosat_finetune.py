"""ResNet-18 fine-tuned on EuroSAT: one network for all subsets of its bands, beside an expert for each.

python -m benchmarks.eurosat_finetune --weights=resnet18.safetensors --data=eurosat_13band.npz --work=DIR
--out=docs/results/eurosat/finetune [--folds=5] [--epochs=30] [--only='one;expert-RGB, B08']

All images of the archive (X_*, y_* and 'bands') are split into five folds, and each is judged by the networks that were
trained on the four others. All networks have the same epochs, batches and augmentation. The learning rate is 0.02, and
0.05 from random weights. The last step is judged. The longer training was chosen after a look at the first fold; the
table therefore has the means without that fold too. No other setting was tuned.

one: all 13 bands, kernels by `flaxnets adapt --init=nearest`, training on sampled subsets, completion unit.
one-listed: the same, trained on the seven subsets of the table only (presence.mode=listed).
one-listed-x7: the same, trained for seven times the epochs, the training of seven experts.
one-zeros: as `one`, absent bands filled with zeros, the mean (completion none).
one-scratch: the same from random weights, with the default completion, linear.
expert-SUBSET: a network of these bands only, kernels by `flaxnets adapt --init=nearest`.
timm-SUBSET: the same, kernels by timm's rule (by position, times 3 / m; of one band their sum).
scratch-SUBSET: the same from random weights.
expert-RGB-x7: the expert of RGB, trained for seven times the epochs.

OUT gets a file for each contender and fold, and table.json. The same command goes on where it was stopped. Networks
are deleted once they are judged.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flaxnets
from benchmarks import eurosat, measure
from benchmarks.eurosat import FOLDS, SUBSETS
from flaxnets.analysis import results
from flaxnets.analysis.intervals import difference_interval, wilson
from flaxnets.channels import ChannelSet
from flaxnets.inference import run_folder
from flaxnets.inference.network import Network
from flaxnets.runtime import atomic, provenance

BATCH = 32
WIDTH = 64
LONGER = '-x7'  # what ends the names of networks with seven times the epochs


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Trains what is missing, fold by fold, prints a table and writes OUT/table.json; returns what it wrote."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name, text in (
    ('weights', '.safetensors or .pth of an ImageNet ResNet-18'),
    ('data', 'the .npz of EuroSAT'),
    ('work', 'folder of the networks; those that are judged are deleted'),
    ('out', 'folder for the results'),
  ):
    parser.add_argument(f'--{name}', required=True, help=text)
  parser.add_argument('--folds', type=int, choices=range(1, FOLDS + 1), default=FOLDS, help='how many to judge')
  parser.add_argument('--epochs', type=float, default=30, help='of every network; seven times as many for -x7')
  parser.add_argument('--size', type=int, default=64, help="side of the network's input, pixels")
  parser.add_argument('--width', type=int, default=WIDTH, help="of the weights' first layer and of every network")
  parser.add_argument('--only', default='', help="names of contenders, with ';' between them")
  options = parser.parse_args(argv)
  work, out = Path(options.work), Path(options.out)
  work.mkdir(parents=True, exist_ok=True)
  images, labels, channels = eurosat.read(options.data)
  fold_of = eurosat.folds(labels)
  if not (work / 'imagenet' / 'config.json').exists():
    width = flags({'model.width': options.width})
    flax('convert', options.weights, '--model=resnet18', *width, f'--out={work / "imagenet"}')
  names = options.only.split(';') if options.only else contenders()
  if unknown := set(names) - set(contenders()):
    raise flaxnets.InputError(f'--only: there is no {", ".join(unknown)}; there are {"; ".join(contenders())}')
  predicted: dict[str, np.ndarray] = {}
  for fold in range(options.folds):
    write_fold(work / f'fold{fold}.npz', images, labels, channels.names, fold_of == fold)
    for name in names:
      for key, classes in judged(options, work, out / f'{name}-{fold}.json', name, fold).items():
        predicted.setdefault(key, np.full(len(labels), -1))[fold_of == fold] = classes
    result = table(options, predicted, labels, fold_of, fold + 1)
    measure.write(out / 'table.json', result)
  show(result)
  return result


def contenders() -> list[str]:
  """Names, as in the module's text. On RGB, timm's rule is what the expert begins with."""
  experts = [f'expert-{subset}' for subset in SUBSETS]
  timm = [f'timm-{subset}' for subset in SUBSETS if subset != 'RGB']
  ones = ['one', 'one-listed', 'one-listed-x7']
  return [*ones, *experts, *timm, 'one-zeros', 'one-scratch', 'scratch-13 bands', 'scratch-RGB', 'expert-RGB-x7']


def write_fold(path: Path, images: np.ndarray, labels: np.ndarray, bands: Sequence[str], held_out: np.ndarray) -> None:
  """An archive with a fold's images as the test split and the others as the training split."""
  if not path.exists():
    parts = {'train': ~held_out, 'test': held_out}
    arrays = {f'{kind}_{split}': array[part] for split, part in parts.items()
              for kind, array in (('X', images), ('y', labels))}  # fmt: skip
    with atomic.replacing(path) as beside:
      np.savez(beside, bands=np.array(bands), **arrays)


def judged(options: argparse.Namespace, work: Path, path: Path, name: str, fold: int) -> dict[str, list[int]]:
  """The classes that a contender gives a fold's images, by 'contender/subset'; trained where they are missing."""
  settings = {'epochs': options.epochs, 'size': options.size, 'width': options.width}
  if not path.exists():
    began = time.time()
    kind, _, subset = name.removesuffix(LONGER).partition('-')
    alone = subset if subset in SUBSETS else ''
    found = _trained(options, work, name, fold, kind, alone)
    record = {'predicted': found, **settings, 'commit': provenance.commit(), 'seconds': round(time.time() - began)}
    measure.write(path, record, indent=None)
    print(f'fold {fold}, {name}: {record["seconds"]} s', flush=True)
  stored = {'width': WIDTH, **json.loads(path.read_text())}  # the first files do not say it
  if {key: stored[key] for key in settings} != settings:
    raise flaxnets.InputError(f'{path} is of other --epochs, or of another --size or --width; choose another --out')
  return stored['predicted']


def _trained(
  options: argparse.Namespace, work: Path, name: str, fold: int, kind: str, alone: str
) -> dict[str, list[int]]:
  """Starts a contender's network, trains it and evaluates it, in processes of the program's own commands."""
  place = work / 'runs'
  shutil.rmtree(place, ignore_errors=True)
  start, run = place / 'start', place / 'run'
  fields = {
    'image_size': options.size,
    'data.source': 'arrays',
    'data.root': work / f'fold{fold}.npz',
    'data.channels': SUBSETS[alone] if alone else '',
    'data.train': 'train',
    'data.validation': 'test',
    'data.test': 'test',
  }
  training = {
    'augment.crop_scale': '(0.5, 1.0)',
    'augment.rotation': 180.0,
    'augment.perspective': 0.0,
    'model.width': options.width,
    'presence.mode': 'none' if alone else 'listed' if 'listed' in name else 'hierarchical',
    'presence.subsets': ';'.join(text or 'full' for text in SUBSETS.values()) if 'listed' in name else '',
    'train.batch_size': BATCH,
    'train.epochs': options.epochs * (7 if name.endswith(LONGER) else 1),
    'train.learning_rate': 0.05 if 'scratch' in name else 0.02,
    'train.schedule': 'onecycle',
    'train.nesterov': True,
    'train.weight_decay': 5e-4,
    'train.checkpoint_every': 10**6,
    'evaluate.every': 10**6,  # the last step only, which is judged whatever it is
    'evaluate.subsets': 'full',
    'model.completion': 'none' if name == 'one-zeros' else 'linear' if 'scratch' in name else 'unit',
  }
  if 'scratch' not in name:
    flax('adapt', work / 'imagenet', f'--out={start}', '--init=nearest', *flags(fields))
    if kind == 'timm':
      positions_for(start)
    training['train.init_from'] = start
  flax('train', '--config=default', f'--workdir={run}', *flags({**fields, **training}))
  subsets = 'full' if alone else ';'.join(text or 'full' for text in SUBSETS.values())
  flax('eval', f'--workdir={run}', f'--subsets={subsets}', '--step=latest', '--batch_size=64')
  path = next((run / 'eval').glob('*.json'))
  scores = json.loads(path.read_text())
  arrays = results.read_arrays(path, scores)
  channels = ChannelSet(tuple(scores['channels']))
  wanted = {alone: 'full'} if alone else {subset: text or 'full' for subset, text in SUBSETS.items()}
  found = {
    f'{name}/{subset}' if not alone else name: arrays[f'prediction/{channels.label(channels.subset(text))}'].tolist()
    for subset, text in wanted.items()
  }
  shutil.rmtree(place)
  return found


def flax(*words: Any) -> None:
  """Runs a command of flaxnets; its last lines are shown if it fails."""
  done = subprocess.run([sys.executable, '-m', 'flaxnets', *map(str, words)], capture_output=True, text=True)
  if done.returncode:
    raise flaxnets.InputError(f'flaxnets {words[0]} failed: {done.stderr[-500:]}')


def flags(fields: dict[str, Any]) -> list[str]:
  return [f'--config.{name}={value}' for name, value in fields.items()]


def positions_for(folder: Path) -> None:
  """Replaces the first kernel of a network that was adapted by one by timm's rule from the network it came from."""
  net = flaxnets.load(folder)
  kernel = flaxnets.load(folder.parents[1] / 'imagenet').variables['params']['stem']['conv']['kernel']
  count = len(net.channels)
  tiled = kernel.sum(axis=2, keepdims=True) if count == 1 else kernel[:, :, np.arange(count) % 3] * 3 / count
  variables = jax.tree.map(np.asarray, net.variables)
  variables['params']['stem']['conv']['kernel'] = tiled.astype(kernel.dtype)
  shutil.rmtree(folder)
  run_folder.write(Network(net.config, net.metadata, variables, 0, False), folder, {'kernels': 'by position'})


def table(
  options: argparse.Namespace, predicted: dict[str, np.ndarray], labels: np.ndarray, fold_of: np.ndarray, folds: int
) -> dict[str, Any]:
  """Accuracies on the folds that are done, and paired differences from `one`, the experts and timm's rule."""
  done = fold_of < folds
  hits = {key: (classes == labels)[done].astype(float) for key, classes in predicted.items()}
  kinds: dict[str, dict[str, np.ndarray]] = {}  # hits of each kind of network, for each subset that it was judged on
  for key, hit in hits.items():
    kind, subset = key.split('/') if '/' in key else key.removesuffix(LONGER).split('-', 1)
    kinds.setdefault(kind + LONGER * ('/' not in key and key.endswith(LONGER)), {})[subset] = hit
  if 'expert' in kinds and 'timm' in kinds:  # on RGB timm's rule is the expert
    kinds['timm']['RGB'] = kinds['expert']['RGB']
  rows = {
    subset: _rows({kind: found[subset] for kind, found in kinds.items() if subset in found}) for subset in SUBSETS
  }
  whole = {kind: np.mean([*found.values()], axis=0) for kind, found in kinds.items() if found.keys() >= SUBSETS.keys()}
  later = fold_of[done] > 0
  return {
    'images': int(done.sum()),
    'epochs': options.epochs,
    'size': options.size,
    'subsets': rows,
    'means': _rows(whole),
    'means_without_the_first_fold': _rows({kind: hit[later] for kind, hit in whole.items()}) if later.any() else {},
    **measure.record(),
  }


def _rows(hits: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
  """The accuracy of each kind of network, from hits per image (for means over subsets, shares of hits)."""
  rows: dict[str, dict[str, Any]] = {}
  for kind, hit in hits.items():
    rows[kind] = {'accuracy': round(float(hit.mean()), 4)}
    if np.isin(hit, (0, 1)).all():
      rows[kind]['interval'] = [round(end, 4) for end in wilson(float(hit.sum()), len(hit))]
    for reference in ('one', 'expert', 'timm'):
      if reference in hits and hits[reference] is not hit:
        difference = hit - hits[reference]
        rows[kind][f'less_{reference}'] = round(float(difference.mean()), 4)
        rows[kind][f'less_{reference}_interval'] = [round(end, 4) for end in difference_interval(difference)]
  return rows


def show(result: dict[str, Any]) -> None:
  for subset, rows in result['subsets'].items():
    print(subset, '  '.join(f'{name} {100 * row["accuracy"]:.1f}' for name, row in rows.items()))
  for kind, row in result['means'].items():
    print('mean', kind, row)


if __name__ == '__main__':
  try:
    main()
  except flaxnets.InputError as error:
    sys.exit(f'benchmarks.eurosat_finetune: {error}')
