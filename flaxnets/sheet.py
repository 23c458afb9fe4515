"""The contact sheet of `python -m flaxnets.augment`: what evaluation and training see of some examples."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from PIL import Image, ImageDraw, ImageFont

from flaxnets import augment
from flaxnets.channels import ChannelSet
from flaxnets.data.sources import Source
from flaxnets.errors import InputError
from flaxnets.warp import subsamples_for, warp

_ROWS, _TRAINING_VIEWS = 12, 7
_CELL, _GAP, _TEXT, _HEAD = 96, 4, 150, 40  # pixels: least side of a picture, gaps, label column, head
_PAPER, _INK = (255, 255, 255), (40, 40, 40)
_COLOURS = (('R', 'G', 'B'), ('B04', 'B03', 'B02'))  # shown as red, green, blue; the latter are Sentinel-2's


def contact_sheet(
  source: Source, *, image_size: int, augmentation: Mapping[str, Any], resize: float = 1.0, seed: int = 0
) -> Image.Image:
  """A dozen examples, spread over a source, in rows; the evaluation view and training views in columns.

  Args:
    source: where they come from.
    image_size: side of the network's input, pixels.
    augmentation: keyword arguments of `training_view`.
    resize: of `evaluation_view`.
    seed: of the training views.
  """
  indices = np.unique(np.linspace(0, len(source) - 1, _ROWS).round().astype(int))
  canvases = np.zeros((len(indices), *source.canvas, len(source.channels)), source.dtype)
  readings = [source.read(int(index), out) for index, out in zip(indices, canvases, strict=True)]
  size = np.array([reading.size for reading in readings], np.int32)
  pixels = _displayed(canvases, source.channels)
  evaluation = functools.partial(
    augment.evaluation_view, canvas=source.canvas, image_size=image_size, resize=resize)
  training = functools.partial(
    augment.training_view, canvas=source.canvas, image_size=image_size, **augmentation)
  resample = functools.partial(
    warp, image_size=image_size, fill=pixels.mean(axis=(0, 1, 2)),
    subsamples=subsamples_for(source.canvas, image_size, perspective=augmentation.get('perspective', 0.0)))
  evaluated = jax.jit(lambda pixels, size: resample(pixels, evaluation(size)))
  trained = jax.jit(lambda pixels, size, key: resample(pixels, training(key, size)))
  keys = jax.random.split(jax.random.key(seed), _TRAINING_VIEWS)
  cells = [evaluated(pixels, size), *(trained(pixels, size, key) for key in keys)]
  texts = [(source.classes[source.labels[index]], f'{height} x {width}')
           for index, (height, width) in zip(indices, size, strict=True)]
  title = (f'{source.name}: {source.canvas[0]} x {source.canvas[1]} canvas to {image_size} x {image_size}, '
           f'outside the canvas the mean')
  return _page(np.stack(cells, axis=1), texts, title)


def _displayed(canvases: np.ndarray, channels: ChannelSet) -> np.ndarray:
  """(b, H, W, 3) float32 in 0..255: bytes of up to three channels as they are, all else in false colour."""
  names = next((names for names in _COLOURS if set(names) <= set(channels.names)), channels.names)
  shown = [channels.index(names[min(place, len(names) - 1)]) for place in range(3)]
  pixels = canvases[..., shown].astype(np.float32)
  if canvases.dtype == np.uint8 and len(channels) <= 3:
    return pixels
  low, high = np.percentile(pixels, [2, 98], axis=(0, 1, 2))
  return np.clip((pixels - low) / np.maximum(high - low, 1e-6), 0, 1) * 255


def _page(cells: np.ndarray, texts: Sequence[tuple[str, str]], title: str) -> Image.Image:
  """Lays out (rows, columns, S, S, 3) pictures in 0..255, with a class and a size for each row."""
  rows, columns, side = cells.shape[:3]
  zoom = -(-_CELL // side)
  step = side * zoom + _GAP
  page = Image.new('RGB', (_TEXT + columns * step + _GAP, _HEAD + rows * step), _PAPER)
  draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
  draw.text((_GAP, 4), title, _INK, font)
  for column in range(columns):
    head = 'evaluation' if column == 0 else f'training {column}'
    draw.text((_TEXT + column * step, _HEAD - 18), head, _INK, font)
  for row, (name, size) in enumerate(texts):
    lines = [*textwrap.wrap(name, 22)[:4], size]
    draw.text((_GAP, _HEAD + row * step), '\n'.join(lines), _INK, font)
    for column in range(columns):
      picture = Image.fromarray(np.clip(cells[row, column] + 0.5, 0, 255).astype(np.uint8))
      enlarged = picture.resize((side * zoom, side * zoom), Image.Resampling.NEAREST)
      page.paste(enlarged, (_TEXT + column * step, _HEAD + row * step))
  return page


def run() -> None:
  """The command line."""
  from flaxnets import entry, experiment

  config_flag = config_flags.DEFINE_config_file('config', 'configs/default.py', 'whose views to show')
  out = flags.DEFINE_string('out', '', 'the picture to write, such as sheet.png')

  def main() -> None:
    config = config_flag.value
    if not out.value.endswith(('.png', '.jpg', '.jpeg', '.webp')):
      raise InputError(f'--out={out.value} is no picture to write; give a file name such as --out=sheet.png')
    augmentation = config.augment.to_dict()
    resize = augmentation.pop('evaluation_resize')
    sheet = contact_sheet(experiment.open_source(config, 'train'), image_size=config.image_size,
                          augmentation=augmentation, resize=resize, seed=config.seed)
    try:
      sheet.save(out.value)
    except OSError as error:
      raise InputError(f'--out={out.value} cannot be written: {error.strerror}') from None

  entry.run(main)
