"""A page of a network's inputs: a dozen examples, as they are seen in evaluation and in training."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flaxnets.augment import pipeline
from flaxnets.augment.pipeline import View
from flaxnets.channels import ChannelSet
from flaxnets.data.batches import evaluation_batches
from flaxnets.data.source import Source
from flaxnets.report import pictures

_ROWS, _TRAINING_VIEWS = 12, 7
_CELL, _GAP, _TEXT, _HEAD = 96, 4, 150, 40  # pixels: minimum side of a picture, gaps, label column, heading
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(
  source: Source,
  channels: ChannelSet,
  view: View,
  *,
  image_size: int,
  resize: float = 1.0,
  training_sizes: Sequence[int] = (),
  threads: int = 0,
  on_bad_image: str = 'error',
) -> Image.Image:
  """Draws a dozen examples, evenly spaced in a source, in rows; the evaluation view and training views in columns.

  Args:
    source: the examples.
    channels: those of the network, all or some of the source's.
    view: the training view, from `flaxnets.augment.pipeline.training_view`. Absent channels are drawn black, and the
      present ones are named.
    image_size: side of the network's input, pixels.
    resize: see `geometry.evaluation_homographies`.
    training_sizes: sides of the training images where they differ, for the title; all are drawn at `image_size`.
    threads, on_bad_image: see `flaxnets.data.batches.evaluation_batches`. Skipped examples have no row.
  """
  indices = np.unique(np.linspace(0, len(source) - 1, _ROWS).round().astype(int))
  batch = next(
    evaluation_batches(source, batch_size=len(indices), examples=indices, threads=threads, on_bad_image=on_bad_image)
  )
  batch = {name: values[batch['mask']] for name, values in batch.items()}
  raw = batch['image'][..., source.channels.order(channels.names)]
  everything = np.ones((len(raw), len(channels)), bool)
  fill = raw.mean(axis=(0, 1, 2), dtype=np.float32)
  evaluated = pipeline.evaluation_images(raw, batch['size'], image_size=image_size, resize=resize, fill=fill)
  views = [(evaluated, everything)]
  trained = jax.jit(view)
  for step in range(_TRAINING_VIEWS):
    images, present = trained(step, batch)
    views.append((images, present[:, -1]))  # the last of several passes has a random subset
  display = _display(raw, channels)
  cells = [[display(image, mask) for image, mask in zip(*map(np.asarray, each), strict=True)] for each in views]
  names = [[channels.label(np.flatnonzero(mask).tolist()) for mask in np.asarray(masks)] for _, masks in views]
  texts = [
    (source.classes[label], f'{height} x {width}')
    for label, (height, width) in zip(batch['label'], batch['size'], strict=True)
  ]
  title = (
    f'{source.name}: {source.canvas[0]} x {source.canvas[1]} canvas to {image_size} x {image_size}, '
    f'mean outside the canvas, absent channels black'
  )
  if training_sizes:
    title += f'; in training {", ".join(map(str, training_sizes))} pixels wide'
  return _page(np.swapaxes(cells, 0, 1), list(zip(*names, strict=True)), texts, title)


def _display(canvases: np.ndarray, channels: ChannelSet) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """A function from a raw image (h, w, C) and its mask (C,) to (h, w, 3) in 0..255, with absent channels black.

  8-bit images of up to three channels are shown unchanged. Others are shown in false colour, stretched to the
  percentiles of `canvases`.
  """
  names = pictures.composite(channels.names) or channels.names
  shown = [channels.index(names[min(place, len(names) - 1)]) for place in range(3)]
  low, high = np.zeros(3), np.full(3, 255.0)
  if canvases.dtype != np.uint8 or len(channels) > 3:
    low, high = pictures.bounds(canvases[..., shown])

  def display(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[shown], pictures.stretched(image[..., shown], low, high), 0)

  return display


def _page(
  cells: np.ndarray, names: Sequence[Sequence[str]], texts: Sequence[tuple[str, str]], title: str
) -> Image.Image:
  """Draws (rows, columns, S, S, 3) pictures in 0..255, a name for each, and the class and size of each row."""
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
      place = (_TEXT + column * step, _HEAD + row * step)
      page.paste(enlarged, place)
      name = textwrap.shorten(names[row][column].replace(',', ' '), 14, placeholder='...')
      draw.text((place[0] + 2, place[1] + side * zoom - 15), name, _PAPER, font, stroke_width=1, stroke_fill=_INK)
  return page
