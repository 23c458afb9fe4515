"""Adapts a trained network to other channels and writes a new run folder for eval, predict, report and train.init_from.

flaxnets adapt runs/resnet18 --out=runs/start --config.data.source=arrays --config.data.root=bands.npz
[--map=R:B04,G:B03,B:B02]

DIR is a run's folder. Channels are matched by name, through aliases such as R, red and Sentinel-2's B04, or by
wavelength; what was matched is printed. Mean, deviation and correlation are measured on data.train. Labels are not
needed. For arrays, set --config.data.label_key= (empty); for folders, put all images of the split into one class
folder. The network then keeps its classes. All fields but --config.data are the network's own, except those that are
given.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_collections
from absl import flags as absl_flags

from flaxnets import config as configs
from flaxnets.analysis.text import counted
from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError

ARGUMENTS = 'DIR'


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  cli_flags.define_config(flags, 'default')
  add.string('out', None, 'the run folder to write')
  add.list('map', [], "the network's channels and the data's, as in R:B04,G:B03,B:B02")
  add.string(
    'sensor',
    '',
    'sentinel2, landsat8 or landsat7: whose band names the data have; needed where a name such as B5 means different '
    'bands',
  )
  add.enum(
    'init',
    'zero',
    ['zero', 'distinct', 'nearest'],
    "kernels of new bands: zero (the network's function of its own channels stays), distinct (the same, but bands that "
    'take the place of absent channels are kept apart) or nearest (kernels shared with the nearest channel)',
  )
  add.enum(
    'standardise',
    'data',
    ['data', 'network'],
    "mean and deviation of bands that the network knows: the data's, or the network's for pixels on the same scale",
  )
  add.enum(
    'head',
    'auto',
    ['auto', 'keep', 'new'],
    "auto: a new head if the data's classes are not the network's, and the old one for data without labels",
  )
  add.string('step', 'best', 'checkpoint to take: best, latest or a step')


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  from flaxnets import experiment  # JAX takes seconds to import
  from flaxnets.data import statistics
  from flaxnets.inference import run_folder
  from flaxnets.inference.adapt import adapt
  from flaxnets.inference.matching import match
  from flaxnets.inference.restore import load
  from flaxnets.runtime import devices, provenance

  run_folder.check_free(flags.out)
  given = _map(flags.map)
  devices.start([1])
  net = load(arguments[0], flags.step)
  config = _config(net.config, flags.config)
  source = experiment.open_source(config, 'train')
  print(f'{counted(len(source.channels), "channel")} of {source.name}: {", ".join(source.channels.names)}')
  # Before anything is measured: mistakes in names should not take minutes.
  for line in match(net.channels, source.channels, given, flags.sensor).describe():
    print(f'  {line}')
  data = config.data
  measured = statistics.measure(
    source, examples=data.statistics_examples, seed=config.seed, threads=data.threads, on_bad_image=data.on_bad_image
  )
  classes, head = _head(flags.head, net.classes, source.classes)
  adapted, matched = adapt(
    net,
    source.channels,
    measured,
    map=given,
    sensor=flags.sensor,
    init=flags.init,
    standardise=flags.standardise,
    classes=classes,
    dtype=str(source.dtype),
    config=config,
    canvas=experiment.canvas_of(config, source),
  )
  origin = {
    'adapted_from': str(arguments[0]),
    'step': net.step,
    'matched': matched.partners,
    'init': flags.init,
    'standardise': flags.standardise,
    'head': head,
    'commit': provenance.commit(),
    'versions': provenance.versions(),
  }
  run_folder.write(adapted, flags.out, origin)
  examples = min(data.statistics_examples, len(source))
  print(f'mean, deviation and correlation of {counted(examples, "example")}; init {flags.init}; head {head}')
  print(f'written to {flags.out}')
  print(f'next: flaxnets predict {flags.out} FILE, or train with --config.train.init_from={flags.out}')
  return 0


def _map(pairs: Sequence[str]) -> dict[str, str]:
  given: dict[str, str] = {}
  for pair in pairs:
    old, colon, new = pair.partition(':')
    if not (old and colon and new) or old in given:
      raise InputError(f"--map={','.join(pairs)} must pair the network's channels and the data's, as in R:B04,G:B03")
    given[old] = new
  return given


def _config(own: ml_collections.ConfigDict, given: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The network's config with the data of the given one, and with those of its fields that are not defaults."""
  from flaxnets.runtime.workdir import differences

  base = configs.to_json(configs.default())
  changed = {name: new for name, (_, new) in differences(base, configs.to_json(given)).items()}
  models = {name: new for name, new in changed.items() if name.startswith('model.') and name != 'model.completion'}
  if fixed := [name for name, new in models.items() if own.model[name.removeprefix('model.')] != new]:
    raise InputError(f'{fixed[0]} belongs to the network, where it is {own.model[fixed[0][6:]]!r}; leave it out')
  config = configs.from_json({**configs.to_json(own), 'data': configs.to_json(given)['data']})
  config.update_from_flattened_dict(
    {
      name: tuple(new) if isinstance(new, list) else new
      for name, new in changed.items()
      if not name.startswith('data.')
    }
  )
  return config


def _head(wanted: str, own: tuple[str, ...], data: tuple[str, ...]) -> tuple[tuple[str, ...] | None, str]:
  """The classes of a new head, None to keep the old one, and what to say about it."""
  if wanted == 'keep' or wanted == 'auto' and (own == data or len(data) == 1):
    reason = (
      'the classes are the same' if own == data else 'the data have no labels' if len(data) == 1 else '--head=keep'
    )
    return None, f'kept, {len(own):,} classes ({reason})'
  return data, f'new, {len(data):,} classes (not trained yet)'
