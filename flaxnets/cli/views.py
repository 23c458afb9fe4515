"""Draws a contact sheet of the network's inputs for a dozen examples, in evaluation and in training.

flaxnets views --config=demo --out=sheet.png
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError

ARGUMENTS = ''


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  cli_flags.define_config(flags, 'default')
  add.string('out', None, 'image file to write, such as sheet.png')


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  del arguments
  from flaxnets import experiment  # JAX takes seconds to import
  from flaxnets.data import statistics
  from flaxnets.report.contact_sheet import contact_sheet
  from flaxnets.runtime import atomic

  config = flags.config
  if not flags.out.lower().endswith(('.png', '.jpg', '.jpeg', '.webp')):
    raise InputError(f'--out={flags.out} must end in .png, .jpg, .jpeg or .webp, such as --out=sheet.png')
  source = experiment.open_source(config, 'train')
  reading = {'threads': config.data.threads, 'on_bad_image': config.data.on_bad_image}
  listed = experiment.listed_subsets(config, source.channels)
  measured = statistics.measure(source, examples=200, **reading)
  channels = experiment.channel_set(config, source.channels)
  order = source.channels.order(channels.names)
  measured = {name: measured[name][list(order)] for name in ('mean', 'std')}
  view = experiment.training_view_of(config, order, source.canvas, measured, listed)
  sheet = contact_sheet(
    source,
    channels,
    view,
    image_size=config.image_size,
    resize=config.augment.evaluation_resize,
    training_sizes=config.train.image_sizes,
    **reading,
  )
  with atomic.writing(f'--out={flags.out}'), atomic.replacing(pathlib.Path(flags.out)) as beside:
    sheet.save(beside)
  print(f'written to {flags.out}')
