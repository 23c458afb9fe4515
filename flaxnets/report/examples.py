"""Images that one subset gets right and another wrong, and what the channels look like; reads the data of a run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxnets import config as configs
from flaxnets.analysis.covariance import ChannelSums
from flaxnets.channels import ChannelSet
from flaxnets.data.source import BadImage, DataOptions, Source
from flaxnets.errors import InputError
from flaxnets.report import pictures
from flaxnets.report.folders import Run

SIDE = 72  # of a thumbnail, pixels
EACH = 2  # images for a pair of subsets and a direction
SAMPLED = 64  # images that channel statistics are measured on where the result file has none
_CHANNELS = 16  # pictures of one image


def open_images(run: Run, root: str = '') -> Source:
  """The images that a run was judged on.

  Args:
    run: with a result file.
    root: where the data are, if not where the result file says.

  Raises:
    InputError: if they cannot be opened, which names the reason.
  """
  data, scores = run.config.get('data') or {}, run.scores
  if not data:
    raise InputError(f'{run.folder / "config.json"} does not say where the data are')
  options = DataOptions.from_fields(
    data,
    root=root or scores.get('root') or data.get('root') or '',
    wavelengths=(),
    canvas=configs.canvas_side(run.config),
    on_bad_image='skip',
  )
  return _opened(options, configs.split_of(data, scores['split']), tuple(scores.get('classes') or ()) or None)


@functools.lru_cache(maxsize=2)
def _opened(options: DataOptions, split: str, classes: tuple[str, ...] | None) -> Source:
  """A source; the runs of a study share one."""
  from flaxnets.data import open as data_open  # OpenCV takes a while to import

  return data_open.open_source(options, split, classes)


def pick(run: Run, labels: Sequence[str]) -> list[dict[str, Any]]:
  """Images that tell subsets apart.

  Args:
    run: one with predictions.
    labels: the subsets to compare; the first one, with most channels, is compared with each of the others.

  Returns:
    For each image 'id', 'label' (the class's name), 'right' and 'wrong' (labels of two subsets), 'predictions' (for
    each of `labels` the name of a class).
  """
  classes, truth = run.scores.get('classes', []), run.arrays['label']
  predictions = {label: run.arrays[f'prediction/{label}'] for label in labels}
  found, used = [], set()
  for other in labels[1:]:
    for right, wrong in ((labels[0], other), (other, labels[0])):
      tells = np.flatnonzero((predictions[right] == truth) & (predictions[wrong] != truth))
      for place in _spread([int(place) for place in tells if int(place) not in used], EACH):
        used.add(place)
        found.append(
          {
            'id': str(run.arrays['id'][place]),
            'label': _name(classes, truth[place]),
            'right': right,
            'wrong': wrong,
            'predictions': {label: _name(classes, predictions[label][place]) for label in labels},
          }
        )
  return found


def add_pictures(examples: Sequence[dict[str, Any]], source: Source) -> None:
  """Adds 'pictures' to each example that the source has: its channels, and a composite where R, G and B are known."""
  wanted = {example['id'] for example in examples}
  places = {str(name): place for place, name in enumerate(source.ids) if str(name) in wanted}
  names = source.channels.names
  composite = pictures.composite(names)
  image = np.empty((*source.canvas, len(names)), source.dtype)
  for example in examples:
    if example['id'] not in places:
      continue
    try:
      source.read(places[example['id']], image)
    except BadImage:
      continue
    shown = [(''.join(composite), [names.index(name) for name in composite])] if composite else []
    shown += [(name, [place]) for place, name in enumerate(names[:_CHANNELS])]
    example['pictures'] = [
      {'name': name, 'uri': pictures.uri(pictures.thumbnail(image[..., planes], SIDE), 'jpeg')}
      for name, planes in shown
    ]


def measured_statistics(source: Source, channels: ChannelSet) -> dict[str, Any] | None:
  """Mean, deviation and correlation of the channels over a sample of images; None where it lacks a channel."""
  names = source.channels.names
  if not set(channels.names) <= set(names):
    return None
  order = [names.index(name) for name in channels.names]
  sums = ChannelSums(len(order))
  image = np.empty((*source.canvas, len(names)), source.dtype)
  for place in _spread(range(len(source)), SAMPLED):
    try:
      present = source.read(place, image).present
    except BadImage:
      continue
    sums.add(image[..., order], np.ones(len(order), bool) if present is None else present[order])
  found = sums.statistics()
  return {
    **{name: found[name].tolist() for name in ('mean', 'std', 'correlation')},
    'images': int(sums.seen.max()),
  }


def _spread(places: Sequence[int], most: int) -> list[int]:
  """At most so many of the places, evenly spaced."""
  count = min(most, len(places))
  return [places[index * len(places) // count] for index in range(count)]


def _name(classes: Sequence[str], place: int) -> str:
  return str(classes[place]) if place < len(classes) else str(place)
